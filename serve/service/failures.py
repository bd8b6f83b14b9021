"""What a client is told of an exception, whatever the transport, and what the log is told."""

from __future__ import annotations

import logging
import math
import uuid
from dataclasses import dataclass

from torchship.script.errors import OutOfMemoryError
from torchship.serve.errors import (
    INTERNAL,
    NotReadyError,
    OverloadError,
    RateError,
    Status,
    known_status,
)
from torchship.serve.telemetry.records import Record

log = logging.getLogger(__name__)

OVERLOAD_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as a client sees it."""

    status: Status
    message: str
    retry_after: int | None = None
    """Seconds after which to ask again, where that may help."""


def shutting_down() -> NotReadyError:
    """Return the error of a request whose time is over because the server ends."""
    return NotReadyError("the server is shutting down")


def failure_of(error: Exception, record: Record | None = None) -> Failure:
    """Return what a client is told; an error that was not foreseen is logged with its traceback.

    It is logged under the request's id, which is all that the client is told of it.
    """
    if isinstance(error, MemoryError):
        error = OutOfMemoryError("there is no memory for this request")
    status = known_status(error)
    if status is not INTERNAL:
        wait = None
        if isinstance(error, OverloadError):
            wait = OVERLOAD_SECONDS
        elif isinstance(error, RateError):
            wait = math.ceil(error.retry_after)
        return Failure(status, str(error), wait)
    number = record.request_id.decode("ascii") if record else uuid.uuid4().hex
    log.error("internal error %s", number, exc_info=error, extra={"request_id": number})
    return Failure(status, f"internal error {number}")
