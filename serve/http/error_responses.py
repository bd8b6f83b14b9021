"""Errors as HTTP responses."""

from __future__ import annotations

import orjson
from starlette.responses import Response

from torchship.serve.protocol.compression import ACCEPTED
from torchship.serve.service.failures import failure_of
from torchship.serve.telemetry.records import Record

# Header fields that every error of a status has.
HEADERS = {
    401: {"WWW-Authenticate": 'Bearer realm="torchship"'},
    # A body that was not read to its end cannot be followed by another request.
    413: {"Connection": "close"},
    415: {"Accept-Encoding": ", ".join(ACCEPTED)},
}


def answer(error: Exception, record: Record | None = None) -> Response:
    """Return the response to an error; one that was not foreseen is logged under the request's id.

    This is the one place where exceptions become responses, for the application and for the
    connections that answer by themselves.
    """
    failure = failure_of(error, record)
    status = failure.status.http
    headers = HEADERS.get(status)
    if failure.retry_after is not None:
        headers = {"Retry-After": str(failure.retry_after)}
    return error_response(status, failure.message, headers)


def error_response(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """Return an error in the protocol's form."""
    return Response(error_body(message), status, headers, media_type="application/json")


def error_body(message: str) -> bytes:
    """Return the body of an error in the protocol's form."""
    return orjson.dumps({"error": message})
