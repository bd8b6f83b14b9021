"""Model names that are meant to be paths: the server compares names, and opens no file for one."""

import http.client
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Launch = Callable[..., Any]

# Writes down every file that the process opens and every folder that it lists, from its start.
SPY = """
import os, sys
log = os.open(os.environ["SPY_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def spy(event, arguments):
    if event in ("open", "os.listdir", "os.scandir", "glob.glob", "pathlib.Path.glob"):
        os.write(log, f"{event} {arguments[0]!r}\\n".encode())
sys.addaudithook(spy)
"""

NAMES = [
    "..",
    "../..",
    "../secret",
    "../secret/1/model.pt",
    "../../../../../../etc/passwd",
    "/etc/passwd",
    "//etc/passwd",
    "..%2fsecret",
    "%2e%2e",
    "%2e%2e%2fsecret",
    "%2e%2e%2f%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "%252e%252e%252fsecret",
    "..%5csecret",
    "%2fetc%2fpasswd",
    "memory%00",
    "memory%00.pt",
    "%00",
    "%ff%fe",
    "%ed%a0%80",
    "memory%2f1",
    "memory%2f..%2fmemory",
    "a" * 30_000,
    "%41" * 10_000,
    "*",
    "?*",
    "[a-z]",
    "~root",
    "C%3a%5cwindows",
    "file%3a%2f%2f%2fetc%2fpasswd",
    "%0d%0aX-Evil%3a%201",
    "{model}",
    "%7b0%7d%25s",
]

CALLS = [
    ("GET", "/v2/models/{}"),
    ("GET", "/v2/models/{}/ready"),
    ("GET", "/v2/models/{}/config"),
    ("GET", "/v2/models/{}/versions/1"),
    ("GET", "/v2/models/memory/versions/{}"),
    ("POST", "/v2/models/{}/infer"),
    ("POST", "/v2/models/memory/versions/{}/infer"),
    ("POST", "/v2/repository/models/{}/load"),
]

BODY = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
).encode()


@pytest.fixture(scope="module")
def spied(
    launch: Launch, tmp_path_factory: pytest.TempPathFactory, archives: dict[str, Path]
) -> Iterator[tuple[Any, Path]]:
    """Return a server in explicit mode, and the log of the files that it opens."""
    folder = tmp_path_factory.mktemp("spied")
    (folder / "sitecustomize.py").write_text(SPY)
    for place in ("models/memory/1", "secret/1"):
        (folder / place).mkdir(parents=True)
        (folder / place / "model.pt").write_bytes(archives["memory"].read_bytes())
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "SPY_LOG": str(folder / "log"),
        "TORCHSHIP_SERVE_MODE": "explicit",
        "TORCHSHIP_SERVE_LOAD": '["memory"]',
        "TORCHSHIP_SERVE_MAX_BATCH": "1",
    }
    with launch(folder / "models", environment=environment) as server:
        assert server.line() == "ready: memory/1"
        yield server, folder / "log"


def opened(log: Path) -> str:
    return log.read_text()


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_a_name_is_never_a_path(spied: tuple[Any, Path], method: str, path: str) -> None:
    server, log = spied
    repository = str(log.parent / "models")
    assert repository in opened(log), "the spy sees what is opened"
    before = len(opened(log))
    connection = http.client.HTTPConnection(*server.address)
    for name in NAMES:
        connection.request(method, path.format(name), BODY if "infer" in path else b"{}")
        answer = connection.getresponse()
        text = answer.read().decode()
        assert answer.status in (400, 404), (name, answer.status, text)
        assert answer.getheader("X-Evil") is None
        message = json.loads(text)["error"]
        assert "root:" not in message
        assert str(log.parent) not in message
    # The server is as it was, on the same connection.
    connection.request("POST", "/v2/models/memory/infer", BODY)
    assert connection.getresponse().status == 200
    connection.close()
    seen = [line for line in opened(log)[before:].splitlines() if repository not in line]
    # FastAPI reads a route's own source once.
    assert all(line.endswith(".py'") for line in seen), "only the repository is looked at"


@pytest.mark.parametrize("name", [b"\0", b"memory\0", b"\xff", b"\xc3\xa4", b"..\\..", b"a b"])
def test_bytes_that_no_path_may_have_are_refused(spied: tuple[Any, Path], name: bytes) -> None:
    server, _ = spied
    with server.connect() as raw:
        raw.sendall(
            b"GET /v2/models/" + name + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        answer = b"".join(iter(lambda: raw.recv(4096), b""))
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 404")), answer


def test_unloading_a_path_unloads_nothing(spied: tuple[Any, Path]) -> None:
    server, _ = spied
    connection = http.client.HTTPConnection(*server.address)
    for name in NAMES:
        connection.request("POST", f"/v2/repository/models/{name}/unload")
        answer = connection.getresponse()
        answer.read()
        assert answer.status in (200, 404)
    connection.request("GET", "/v2/models/memory/ready")
    assert connection.getresponse().status == 200
    connection.close()
