"""Run blocking work on a thread of its own, which the end of the event loop does not wait for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

Kind = TypeVar("Kind")


async def on_thread(work: Callable[[], Kind], daemon: bool = False) -> Kind:
    """Run `work` on a new thread and return its result.

    `asyncio.to_thread` would not do: the event loop's end waits for its pool, and the C library
    keeps freed memory per thread, so the pool's threads would hold on to it. The memory of a
    thread that has ended is reused by the next one.

    Args:
        work: the function to call.
        daemon: whether the end of the process does not wait either. Use it for work that may wait
            for a disk forever, and only if it does not call LibTorch: Python ends daemon threads
            at exit, and one that is inside LibTorch then aborts the process.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Kind] = loop.create_future()

    def settle(result: Kind | None, error: BaseException | None) -> None:
        if done.done():  # the caller was cancelled
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
        with suppress(RuntimeError):  # the event loop was closed: nobody waits for the result
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, name="files", daemon=daemon).start()
    return await done
