"""Work on threads that the end of the event loop does not wait for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

Kind = TypeVar("Kind")


async def on_thread(work: Callable[[], Kind], daemon: bool = False) -> Kind:
    """Return what work returns, done on a thread of its own.

    The event loop's end does not wait for it, as it does for the threads of `asyncio.to_thread`;
    and the memory that it frees is there for the next such thread, or an engine's, since the C
    library keeps it by thread.

    Args:
        work: what to do.
        daemon: that the process's end does not wait for it either: for what may wait for a disk
            without an end, and does not call LibTorch, in which a thread that Python ends aborts
            the process.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Kind] = loop.create_future()

    def settle(result: Kind | None, error: BaseException | None) -> None:
        if done.done():  # whoever waited was cancelled
            return
        if error is None:
            done.set_result(result)  # type: ignore[arg-type]
        else:
            done.set_exception(error)

    def run() -> None:
        result: Kind | None = None
        failure: BaseException | None = None
        try:
            result = work()
        except BaseException as error:
            failure = error
        with suppress(RuntimeError):  # the loop was closed: nobody listens
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, name="files", daemon=daemon).start()
    return await done
