"""Calls of a store's library, each with a limit on the time for which nothing comes."""

from __future__ import annotations

import concurrent.futures
import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from torchship.serve.errors import NotInStoreError, StoreError
from torchship.serve.stores.addresses import Address, redact

Kind = TypeVar("Kind")

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""What only the local disk says; the network has the other numbers."""
LONGEST_MESSAGE = 400  # characters of what a library says


def on_own_thread(work: Callable[[], Kind]) -> concurrent.futures.Future[Kind]:
    """Run `work` on a daemon thread: one that never ends holds up nothing else."""
    future: concurrent.futures.Future[Kind] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="store", daemon=True).start()
    return future


def outcome(
    future: concurrent.futures.Future[Kind],
    seconds: float,
    moved: Callable[[], int] = lambda: 0,
) -> Kind:
    """Return a call's result; give the call up when nothing has moved for `seconds`.

    Args:
        future: the call.
        seconds: for which nothing may happen.
        moved: how much has come or gone until now.

    Raises:
        StoreError: nothing came; whatever the call raises.
    """
    before = moved()
    while True:
        done, _ = concurrent.futures.wait([future], timeout=seconds)
        if done:
            return future.result()
        if (now := moved()) == before:
            future.cancel()
            raise StoreError(f"nothing came for {seconds:g} s")
        before = now


@contextmanager
def explained(address: Address | str) -> Iterator[None]:
    """Turn what a library raises into a StoreError of one line that names the address.

    Raises:
        StoreError: anything was raised.
        OSError: the local disk is full or cannot be written.
    """
    try:
        yield
    except StoreError as error:
        raise type(error)(f"{address}: {error}") from None
    except FileNotFoundError as error:
        raise NotInStoreError(f"{address}: it is not there: {_said(error)}") from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise
        raise StoreError(f"{address}: {_said(error)}") from None


def _said(error: Exception) -> str:
    """Return what an exception says on one line, without secrets, and what kind it is."""
    cause = str(error) or str(error.__cause__ or "")
    text = redact(" ".join(cause.split()))
    if len(text) > LONGEST_MESSAGE:
        text = text[:LONGEST_MESSAGE] + "…"
    text = "".join(c if c.isprintable() else "?" for c in text)
    kind = type(error).__name__
    return f"{text} ({kind})" if text else kind
