"""OpenTelemetry traces: a span for each inference, with a child span for each of its phases.

This module is imported only if the setting `otel_endpoint` is given. Spans are made after a request
has ended, from the times in its record, so that tracing does not delay the answer.
"""

from __future__ import annotations

import time

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import Scope

from torchship.serve.system.package_version import package_version
from torchship.serve.telemetry.records import Record, Timing

INFER, STREAM = "/v2/models/{model}/infer", "/v2/models/{model}/stream"
PROPAGATED = (b"traceparent", b"tracestate")


class Tracer:
    """Sends traces to a collector; a slow collector loses traces but delays no request."""

    def __init__(self, endpoint: str) -> None:
        """Take the collector's address, such as `http://127.0.0.1:4318/v1/traces`."""
        resource = Resource.create(
            {"service.name": "torchship", "service.version": package_version()}
        )
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
        self._tracer = self._provider.get_tracer("torchship.serve")
        self._propagator = TraceContextTextMapPropagator()

    def trace(self, scope: Scope, record: Record, ended: float) -> None:
        """Make the spans of an inference that has ended, under the trace its request names."""
        if not record.decode_started:  # not an inference, or one that did not begin
            return
        past = time.time_ns() - round(time.perf_counter() * 1e9)

        def at(moment: float) -> int:
            return past + round(moment * 1e9)

        carrier = {
            name.decode("ascii"): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in PROPAGATED
        }
        name, said = _names(scope)
        server = self._tracer.start_span(
            name,
            self._propagator.extract(carrier),
            SpanKind.SERVER,
            {
                **said,
                "http.response.status_code": record.status,
                "torchship.model": record.model,
                "torchship.version": record.version,
                "torchship.request_id": record.request_id.decode("ascii"),
            },
            start_time=at(record.started),
        )
        if record.status >= 500:
            server.set_status(Status(StatusCode.ERROR))
        context = set_span_in_context(server)
        timing = record.timing or Timing()
        parts = {
            "decode": (record.decode_started, record.decoded),
            "queue": (timing.entered, timing.began),
            "infer": (timing.began, timing.ended),
            "encode": (timing.ended, record.encoded),
        }
        for name, (began, until) in parts.items():
            if began and until:
                span = self._tracer.start_span(name, context, start_time=at(began))
                span.end(at(until))
        server.end(at(ended))

    def close(self) -> None:
        """Send the remaining spans, and end the exporter's thread."""
        self._provider.shutdown()


def _names(scope: Scope) -> tuple[str, dict[str, str]]:
    """Return the name of a request's span, and its attributes, as OpenTelemetry's conventions."""
    if scope["type"] == "grpc":
        service, _, method = scope["path"].removeprefix("/").partition("/")
        said = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        return f"{service}/{method}", said
    stream = scope["type"] == "websocket"  # the record is of one message of it
    verb, route = ("GET", STREAM) if stream else ("POST", INFER)
    return f"{verb} {route}", {"http.request.method": verb, "http.route": route}
