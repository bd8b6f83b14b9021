"""HTTP as bytes: requests that no client library would send, and their answers."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, NamedTuple


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        assert list(json.loads(self.body)) == ["error"]
        return str(json.loads(self.body)["error"])


def read(stream: IO[bytes]) -> Answer:
    """Read one answer; what follows it on the connection is left there."""
    line = stream.readline()
    assert line.startswith(b"HTTP/1.1 "), line
    headers = {}
    while (field := stream.readline().strip()) != b"":
        name, _, value = field.partition(b":")
        headers[name.decode().lower()] = value.strip().decode()
    body = stream.read(int(headers["content-length"])) if "content-length" in headers else b""
    if headers.get("transfer-encoding") == "chunked":
        while size := int(stream.readline(), 16):
            body += stream.read(size)
            stream.readline()
        stream.readline()
    return Answer(int(line.split()[1]), headers, body)


@contextmanager
def connected(server: Any) -> Iterator[tuple[socket.socket, IO[bytes]]]:
    with server.connect() as connection, connection.makefile("rb") as stream:
        yield connection, stream


def ask(server: Any, content: bytes) -> Answer:
    """Return the answer to one request, on a connection of its own."""
    with connected(server) as (connection, stream):
        connection.sendall(content)
        return read(stream)


def post(
    model: str,
    body: bytes,
    *headers: str,
    length: int | None = None,
    host: tuple[str, ...] = ("Host: localhost",),
) -> bytes:
    lines = [f"POST /v2/models/{model}/infer HTTP/1.1", *host, *headers]
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked(model: str, body: bytes, *headers: str, trailers: str = "") -> bytes:
    lines = [f"POST /v2/models/{model}/infer HTTP/1.1", "Host: localhost", *headers]
    head = "\r\n".join([*lines, "Transfer-Encoding: chunked", "", ""]).encode()
    return head + b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(body), body, trailers.encode())


def row(value: float | str, **more: object) -> bytes:
    x = {"name": "x", "datatype": "FP32", "shape": [1], "data": [value]}
    return json.dumps({"inputs": [x], **more}).encode()


def counted(server: Any) -> dict[tuple[str, str], int]:
    """Return how many requests the server counted by model and status."""
    text = ask(server, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").body.decode()
    found = re.findall(r'torchship_requests_total\{code="(\d+)",model="(\w*)",.*\} (\d+)', text)
    return {(model, code): int(number) for code, model, number in found}


def peak(server: Any) -> int:
    """Return the most memory that the processes with the models ever had, in bytes."""
    total = 0
    for process in server.workers():
        with open(f"/proc/{process.pid}/status") as status:
            total += next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) << 10
    return total
