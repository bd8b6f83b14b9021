"""The access log of a real server."""

import io
import json
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from torchship.serve.settings import AccessLog
from torchship.serve.telemetry.logs import access_line, configure_logging
from torchship.serve.telemetry.records import Record

UNSIGNED = "signatures are not checked: no --trusted-keys were given"


def lines(launch: Any, archive: Path, **settings: str) -> list[str]:
    """Ask a server for four things; return what it logged."""
    named = {f"TORCHSHIP_SERVE_{name.upper()}": value for name, value in settings.items()}
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
    with launch(archive, environment={**os.environ, **named}) as server:
        assert server.line() == "ready: memory/1"
        with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as http:
            http.post("/v2/models/memory/infer", json=body, headers={"X-Request-Id": "one"})
            http.post("/v2/models/nobody/infer?key=secret", headers={"X-Request-Id": "two"})
            http.get("/v2/%1b%5b31m%0aforged", headers={"X-Request-Id": "three"})
            http.get("/v2/health/live", headers={"X-Request-Id": "four"})
        server.popen.send_signal(signal.SIGTERM)
        assert server.popen.wait(60) == 0
        said: list[str] = server.stderr().splitlines()
    assert said[0] == UNSIGNED
    return said[1:]


def test_a_line_of_json_for_each_request(launch: Any, archives: dict[str, Path]) -> None:
    said = lines(launch, archives["memory"], log_format="json", access_log="all")
    entries = [json.loads(line) for line in said]
    assert [entry["request_id"] for entry in entries] == ["one", "two", "three", "four"]
    assert [entry["status"] for entry in entries] == [200, 404, 404, 200]
    first, second, third, _ = entries
    assert {"event", "level", "timestamp", "client", "seconds"} <= first.keys()
    assert (first["method"], first["path"]) == ("POST", "/v2/models/memory/infer")
    assert (first["model"], first["version"]) == ("memory", "1")
    assert first["client"].startswith("127.0.0.1:")
    assert first["seconds"] > 0
    assert (second["model"], second["path"]) == ("", "/v2/models/nobody/infer")
    assert third["path"] == "/v2/%1b%5b31m%0aforged"
    assert "secret" not in "".join(said)


def test_only_what_failed_has_a_line_unless_asked(launch: Any, archives: dict[str, Path]) -> None:
    said = lines(launch, archives["memory"])
    assert [("request_id=two" in line, "request_id=three" in line) for line in said] == [
        (True, False),
        (False, True),
    ]
    assert "status=404" in said[0]


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    stream = io.StringIO()
    yield stream
    root.handlers[:] = before
    root.setLevel(level)


def test_a_fault_is_one_line_of_json_with_its_traceback(stream: io.StringIO) -> None:
    configure_logging("json", "warning", stream)
    try:
        raise ValueError("why")
    except ValueError as error:
        logging.getLogger("uvicorn.error").error("fault %s", 7, exc_info=error)
    logging.getLogger("torchship").info("not said")
    (entry,) = map(json.loads, stream.getvalue().splitlines())
    assert (entry["event"], entry["level"]) == ("fault 7", "error")
    assert "ValueError: why" in entry["exception"]


@pytest.mark.parametrize(
    ("which", "logged"),
    [("none", []), ("errors", [404, 499, 500]), ("all", [200, 404, 499, 500, 503])],
)
def test_which_requests_have_a_line(
    stream: io.StringIO, which: AccessLog, logged: list[int]
) -> None:
    configure_logging("json", "info", stream)
    line = access_line(which)
    for status in (200, 404, 499, 500, 503):
        record = Record(b"id")
        record.status = status
        path = "/v2/health/ready" if status == 503 else "/x"
        if line is not None:
            line({"method": "GET", "path": path}, record, 0.5)
    assert [json.loads(said)["status"] for said in stream.getvalue().splitlines()] == logged


def test_a_long_path_is_cut(stream: io.StringIO) -> None:
    configure_logging("json", "info", stream)
    line = access_line("all")
    assert line is not None
    line({"method": "GET", "path": "/", "raw_path": b"/" + b"\xff" * 5000}, Record(b"id"), 0.5)
    assert json.loads(stream.getvalue())["path"] == ("/" + "\\xff" * 64)[:256]
