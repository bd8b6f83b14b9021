"""Errors as responses: what a client is told of an exception, and what the log is."""

from __future__ import annotations

import logging
import math
import uuid

import orjson
from starlette.responses import Response

from torchship.script.errors import OutOfMemoryError
from torchship.serve.errors import NotReadyError, OverloadError, RateError, status_of
from torchship.serve.protocol.compression import ACCEPTED
from torchship.serve.telemetry.records import Record

log = logging.getLogger(__name__)

# Header fields that every error of a status has.
HEADERS = {
    401: {"WWW-Authenticate": 'Bearer realm="torchship"'},
    # A body that was not read to its end cannot be followed by another request.
    413: {"Connection": "close"},
    415: {"Accept-Encoding": ", ".join(ACCEPTED)},
}


def shutting_down() -> NotReadyError:
    """Return the error of a request whose time is over because the server ends."""
    return NotReadyError("the server is shutting down")


def answer(error: Exception, record: Record | None = None) -> Response:
    """Return the response to an error; one that was not foreseen is logged under the request's id.

    This is the one place where exceptions become responses, for the application and for the
    connections that answer by themselves.
    """
    if isinstance(error, MemoryError):
        error = OutOfMemoryError("there is no memory for this request")
    status = status_of(error)
    if status != 500:
        headers = HEADERS.get(status)
        if isinstance(error, OverloadError):
            headers = {"Retry-After": "1"}
        elif isinstance(error, RateError):
            headers = {"Retry-After": str(math.ceil(error.retry_after))}
        return error_response(status, str(error), headers)
    number = record.request_id.decode("ascii") if record else uuid.uuid4().hex
    log.error("internal error %s", number, exc_info=error, extra={"request_id": number})
    return error_response(500, f"internal error {number}")


def error_response(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """Return an error in the protocol's form."""
    return Response(error_body(message), status, headers, media_type="application/json")


def error_body(message: str) -> bytes:
    """Return the body of an error in the protocol's form."""
    return orjson.dumps({"error": message})
