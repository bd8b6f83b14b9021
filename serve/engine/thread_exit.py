"""The threads of models at the end of the process."""

from __future__ import annotations

import atexit
import logging
import os
import time
import weakref
from typing import Protocol

from torchship.serve.system.standard_streams import drain_all

log = logging.getLogger(__name__)

JOIN_SECONDS = 30


class Threaded(Protocol):
    """Something that has a thread."""

    def close(self) -> None:
        """Ask the thread to end."""

    def join(self, seconds: float) -> bool:
        """Wait for it; return whether it has ended."""


_STARTED: weakref.WeakSet[Threaded] = weakref.WeakSet()


def note_started(threaded: Threaded) -> None:
    """Have the thread ended before the process is."""
    _STARTED.add(threaded)


def end_all(seconds: float = JOIN_SECONDS) -> bool:
    """End all threads, within so many seconds; return whether all have ended."""
    threads = list(_STARTED)
    for threaded in threads:
        threaded.close()
    end = time.monotonic() + seconds
    return all([threaded.join(max(0.0, end - time.monotonic())) for threaded in threads])


def leave(code: int) -> None:
    """End the process at once: one that has a thread inside LibTorch would abort."""
    log.warning("a model still runs: the process ends without it")
    logging.shutdown()
    drain_all()
    os._exit(code)


@atexit.register
def _end() -> None:
    """End the threads in good order; the exit code is not known here, and was no success."""
    if not end_all():
        leave(1)
