"""Requests counted, logged and traced: once each, whoever wrote the answer.

The application, the connections that answer small requests by themselves, and the connections that
refuse what never became a request all end a request's record here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from itertools import count
from time import perf_counter
from typing import TYPE_CHECKING

from starlette.types import Scope

from torchship.serve.telemetry.logs import AccessLine
from torchship.serve.telemetry.metrics import Metrics
from torchship.serve.telemetry.records import SCOPE_KEY, TIMING, Record, Timing

if TYPE_CHECKING:  # an extra, loaded by who asks for it
    from torchship.serve.telemetry.tracing import Tracer

REQUEST_ID = b"x-request-id"
"""The header field, or the key of gRPC's metadata, with a request's id."""

UPGRADED, CLIENT_LEFT = 101, 499

_SANE = re.compile(rb"[\x21-\x7e]{1,128}").fullmatch


class RequestAccounting:
    """Gives each request its record, and takes it back when the request has ended."""

    def __init__(
        self, metrics: Metrics, line: AccessLine | None = None, tracer: Tracer | None = None
    ) -> None:
        """Count in `metrics`; `line` logs what has ended, `tracer` sends its trace."""
        self._metrics = metrics
        self._line = line
        self._tracer = tracer
        self._prefix = os.urandom(8).hex().encode()
        self._next = count().__next__

    def begin(self, headers: Iterable[tuple[bytes, bytes]]) -> Record:
        """Return the record of a request with these headers: under its own id, or a new one."""
        for name, value in headers:
            if name == REQUEST_ID and _SANE(value):
                return Record(value, perf_counter())
        return Record(b"%s%016x" % (self._prefix, self._next()), perf_counter())

    def record_of(self, scope: Scope) -> Record:
        """Return the record in a request's scope; it begins if there is none yet.

        A connection may refuse the rest of a request before the application's task has begun.
        """
        record: Record | None = scope.get(SCOPE_KEY)
        if record is None:
            record = scope[SCOPE_KEY] = self.begin(scope["headers"])
        return record

    def begin_message(self, request_id: bytes) -> Record:
        """Return the record of one message of a WebSocket, under the id of its handshake."""
        record = Record(request_id, perf_counter())
        self.trace(record)
        return record

    def trace(self, record: Record) -> None:
        """Have engines tell the record when this task's request waits and runs, if that is sent."""
        if self._tracer is not None:
            record.timing = Timing()
            TIMING.set(record.timing)

    def end(self, scope: Scope, record: Record) -> None:
        """Count a request that has ended, log it and send its trace."""
        seconds = perf_counter() - record.started
        if record.status != UPGRADED:  # of a WebSocket its messages are counted
            self._metrics.model(record.model, record.version).request(record, seconds)
        if self._line is not None:
            self._line(scope, record, seconds)
        if self._tracer is not None:
            self._tracer.trace(scope, record, record.started + seconds)
