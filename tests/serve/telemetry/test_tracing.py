"""Traces of a real server, received by a small collector."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from websockets.sync.client import connect

from rpc import Connection, request
from torchship.serve.settings import Settings

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARTS = ["decode", "queue", "infer", "encode"]
ROW = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}


@contextmanager
def collector(spans: list[Span]) -> Iterator[str]:
    """Take in what is sent to the address that this yields."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = ExportTraceServiceRequest()
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request.ParseFromString(body)
            assert self.path == "/v1/traces"
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/traces"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def spans(archives: dict[str, Path]) -> list[Span]:
    """What a server sends of a plain request, one of a sequence, a bad one and one to `/v2`.

    And of a stream with a good message and a bad one, and of a call of gRPC.
    """
    sent: list[Span] = []
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "traced"}
    with collector(sent) as endpoint:
        command = [sys.executable, "-m", "torchship", "serve", "--port", "0", "--grpc-port", "0"]
        popen = subprocess.Popen(
            [*command, str(archives["memory"])],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TORCHSHIP_SERVE_OTEL_ENDPOINT": endpoint},
        )
        with popen:
            assert popen.stdout is not None
            url = popen.stdout.readline().removeprefix("listening on ").strip()
            grpc_url = popen.stdout.readline().removeprefix("listening on ").strip()
            assert popen.stdout.readline() == "ready: memory/1\n"
            with httpx.Client(base_url=url, trust_env=False, timeout=60) as http:
                path = "/v2/models/memory/infer"
                first = {"sequence_id": 7, "sequence_start": True}
                for body in ({}, {"parameters": first}, {"inputs": [ROW | {"name": "q"}]}):
                    http.post(path, json={"inputs": [ROW], **body}, headers=headers)
                http.get("/v2", headers=headers)
            stream = f"{url.replace('http', 'ws', 1)}/v2/models/memory/stream"
            with connect(stream, proxy=None, additional_headers=headers) as socket:
                for message in ({}, {"outputs": [{"name": "z"}]}):
                    socket.send(json.dumps({"inputs": [ROW], **message}))
                    socket.recv()
            with grpc.insecure_channel(grpc_url.removeprefix("grpc://")) as channel:
                asked = request("memory", x=np.ones((1, 2), np.float32))
                metadata = [(name.lower(), value) for name, value in headers.items()]
                Connection(channel).infer(asked, metadata=metadata)
            # What is left is sent before it ends.
            popen.send_signal(signal.SIGTERM)
            assert popen.wait(60) == 0
    return sent


def of(spans: list[Span], status: int) -> list[tuple[Span, dict[str, Span]]]:
    """The server spans of requests that ended so, each with its parts by name."""
    return [
        (span, {part.name: part for part in spans if part.parent_span_id == span.span_id})
        for span in spans
        if any(
            a.key.endswith("status_code") and a.value.int_value == status for a in span.attributes
        )
    ]


def test_an_inference_is_a_span_with_four_parts(spans: list[Span]) -> None:
    answered = of(spans, 200)
    names = [server.name for server, _ in answered]
    assert names == [
        *["POST /v2/models/{model}/infer"] * 2,
        "GET /v2/models/{model}/stream",
        "inference.GRPCInferenceService/ModelInfer",
    ]
    for server, parts in answered:
        assert server.kind == Span.SPAN_KIND_SERVER
        assert sorted(parts) == sorted(PARTS)
        in_order = [parts[name] for name in PARTS]
        times = [t for p in in_order for t in (p.start_time_unix_nano, p.end_time_unix_nano)]
        assert times == sorted(times)
        assert server.start_time_unix_nano <= times[0]
        assert times[-1] <= server.end_time_unix_nano
        said = {attribute.key: attribute.value.string_value for attribute in server.attributes}
        assert (said["torchship.model"], said["torchship.version"]) == ("memory", "1")
        assert said["torchship.request_id"] == "traced"


def test_a_span_continues_the_trace_of_the_client(spans: list[Span]) -> None:
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    servers = [span for span in spans if span.kind == Span.SPAN_KIND_SERVER]
    assert {span.parent_span_id.hex() for span in servers} == {PARENT}


def test_a_refused_request_has_no_parts_that_did_not_happen(spans: list[Span]) -> None:
    (_, parts), (server, more) = of(spans, 400)
    assert parts == {}
    assert server.name == "GET /v2/models/{model}/stream"
    assert list(more) == ["decode", "queue", "infer"]  # it failed when it was to be encoded
    assert len(spans) == 4 * 5 + 1 + 4  # nothing of GET /v2, nor of the handshake


def test_without_the_setting_nothing_is_imported() -> None:
    script = (
        "import sys; from torchship.serve.http.app import create_app; "
        "from torchship.serve.repository.repository import Repository; create_app(Repository([])); "
        "assert not {'opentelemetry.sdk', 'torchship.serve.telemetry.tracing'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchship.script.errors import UsageError
    from torchship.serve.http.app import open_tracer

    monkeypatch.setitem(sys.modules, "torchship.serve.telemetry.tracing", None)
    settings: Any = Settings(otel_endpoint="http://127.0.0.1:4318/v1/traces")
    with pytest.raises(UsageError, match=r"pip install 'torchship\[otel\]'"):
        open_tracer(settings)
