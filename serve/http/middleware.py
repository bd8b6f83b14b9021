"""The outermost layer of the application: ids, errors as answers, counting.

Every request passes here, the hot path too, so it does little: one record, one closure, and no text
is made unless it is logged.
"""

from __future__ import annotations

import logging
import math
import os
import re
import uuid
from asyncio import CancelledError
from collections.abc import Iterable
from functools import partial
from itertools import count
from time import perf_counter
from typing import TYPE_CHECKING

import orjson
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from torchship.script.errors import OutOfMemoryError
from torchship.serve.errors import NotReadyError, OverloadError, RateError, status_of
from torchship.serve.http.client_connection import end_early, has_left, left_with
from torchship.serve.http.origins import Origins
from torchship.serve.http.websocket_session import (
    CLIENT_LEFT,
    REQUEST_ID,
    UPGRADED,
    Account,
    shake_hands,
)
from torchship.serve.protocol.compression import ACCEPTED
from torchship.serve.system.body_memory import hold_of
from torchship.serve.telemetry.logs import AccessLine
from torchship.serve.telemetry.metrics import Metrics
from torchship.serve.telemetry.records import SCOPE_KEY, SOURCE, TIMING, Record, Timing

if TYPE_CHECKING:  # an extra, loaded by who asks for it
    from torchship.serve.telemetry.tracing import Tracer

log = logging.getLogger(__name__)

# What an error of that status says besides.
HEADERS = {
    401: {"WWW-Authenticate": 'Bearer realm="torchship"'},
    # A body that was not read to its end cannot be followed by another request.
    413: {"Connection": "close"},
    415: {"Accept-Encoding": ", ".join(ACCEPTED)},
}

ENDING = "the server is shutting down"
SERVICE_RESTART = 1012  # of a WebSocket; what uvicorn says of a server that ends

_SANE = re.compile(rb"[\x21-\x7e]{1,128}").fullmatch


class Middleware:
    """Gives each request its id and its record, answers for errors, counts what became of it."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        line: AccessLine | None = None,
        tracer: Tracer | None = None,
        origins: Origins | None = None,
        root_path: str = "",
    ) -> None:
        """Put this in front of `app`; `line` logs what has ended, `tracer` sends its trace.

        A path that begins with `root_path` is passed on without it.
        """
        self._tracer = tracer
        self.origins = origins or Origins()
        self._root_path = root_path
        self.app = app
        self._metrics = metrics
        self._line = line
        self._prefix = os.urandom(8).hex().encode()
        self._next = count().__next__

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application."""
        SOURCE.set(scope.get("client"))
        if self._root_path and scope["path"].startswith(self._root_path + "/"):
            scope["path"] = scope["path"].removeprefix(self._root_path)
        if scope["type"] != "http":
            await self._socket(scope, receive, send)
            return
        record = self.begin(scope["headers"])
        scope[SCOPE_KEY] = record
        if self._tracer is not None:
            record.timing = Timing()
            TIMING.set(record.timing)

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = left_with(receive) or message["status"]
                message["headers"] = [
                    *message["headers"],
                    *self.origins.headers(scope["headers"]),
                    (REQUEST_ID, record.request_id),
                ]
                end_early(receive)
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except ClientDisconnect:
            record.status = left_with(receive) or CLIENT_LEFT
        except CancelledError:  # the time that requests have when the server ends is over
            if record.status:
                raise
            await answer(NotReadyError(ENDING), record)(scope, receive, watched)
        except Exception as error:
            if record.status:
                raise
            await answer(error, record)(scope, receive, watched)
        finally:
            hold_of(scope).release()
            self.ended(scope, record)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = self.begin(scope["headers"])
        gone = partial(has_left, receive)
        account = Account(scope, record.request_id, gone, self._message, self.ended)
        try:
            await shake_hands(self.app, account, record, answer, (scope, receive, send))
        except CancelledError:  # see above
            await send({"type": "websocket.close", "code": SERVICE_RESTART})
        finally:
            self.ended(scope, record)

    def _message(self, request_id: bytes) -> Record:
        """Return the record of one message of a WebSocket."""
        record = Record(request_id, perf_counter())
        if self._tracer is not None:
            record.timing = Timing()
            TIMING.set(record.timing)
        return record

    def begin(self, headers: Iterable[tuple[bytes, bytes]]) -> Record:
        """Return the record of a request with these headers."""
        for name, value in headers:
            if name == REQUEST_ID and _SANE(value):
                return Record(value, perf_counter())
        return Record(b"%s%016x" % (self._prefix, self._next()), perf_counter())

    def ended(self, scope: Scope, record: Record) -> None:
        """Count a request that has ended, log it and send its trace."""
        seconds = perf_counter() - record.started
        if record.status != UPGRADED:  # of a WebSocket its messages are counted
            self._metrics.model(record.model, record.version).request(record, seconds)
        if self._line is not None:
            self._line(scope, record, seconds)
        if self._tracer is not None:
            self._tracer.trace(scope, record, record.started + seconds)


class ErrorBoundary:
    """Answers for the errors of FastAPI's routes, before its own middleware would."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application; answer for what it raises, if it has not answered yet."""
        if scope["type"] != "http":  # a stream sends its errors as messages
            await self.app(scope, receive, send)
            return
        record = scope.get(SCOPE_KEY)
        try:
            await self.app(scope, receive, send)
        except ClientDisconnect:
            if record is not None:
                record.status = left_with(receive) or CLIENT_LEFT
        except Exception as error:
            if record is None or record.status:
                raise
            await answer(error, record)(scope, receive, send)


def answer(error: Exception, record: Record | None = None) -> Response:
    """Return the response to an error; one that was not foreseen is logged under the request's id.

    This is the one place where exceptions become responses: what a client sees, and what the log.
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
    content = orjson.dumps({"error": message})
    return Response(content, status, headers, media_type="application/json")
