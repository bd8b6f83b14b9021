"""Ends the threads of models before the process ends, which would abort inside LibTorch."""

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
    """An object that has a thread."""

    def close(self) -> None:
        """Ask the thread to end."""

    def join(self, seconds: float) -> bool:
        """Wait for it; return whether it has ended."""


_STARTED: weakref.WeakSet[Threaded] = weakref.WeakSet()


def note_started(threaded: Threaded) -> None:
    """End this thread before the process ends."""
    _STARTED.add(threaded)


def end_all(seconds: float = JOIN_SECONDS) -> bool:
    """End all threads, within so many seconds; return whether all have ended."""
    threads = list(_STARTED)
    for threaded in threads:
        threaded.close()
    end = time.monotonic() + seconds
    return all([threaded.join(max(0.0, end - time.monotonic())) for threaded in threads])


def leave(code: int) -> None:
    """End the process at once: returning would abort it while a thread is inside LibTorch."""
    log.warning("a model still runs: the process ends without it")
    logging.shutdown()
    drain_all()
    os._exit(code)


@atexit.register
def _end() -> None:
    """End the threads. If one does not end, the exit code is 1: the real one is not known here."""
    if not end_all():
        leave(1)
