"""What leaves the server's socket, and when."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from torchship.serve.transport.connection import OneWrite


class Pipe(asyncio.Transport):
    """Records what is done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[object] = []

    def write(self, data: Any) -> None:
        self.done.append(bytes(data))

    def close(self) -> None:
        self.done.append("close")

    def abort(self) -> None:
        self.done.append("abort")


def after(steps: Callable[[OneWrite], None]) -> list[object]:
    async def run() -> list[object]:
        pipe = Pipe()
        steps(OneWrite(pipe, asyncio.get_running_loop()))
        await asyncio.sleep(0)
        return pipe.done

    return asyncio.run(run())


def test_a_head_and_its_body_are_one_write() -> None:
    def steps(transport: OneWrite) -> None:
        for data in (b"head1", b"body1", b"head2", b"body2"):
            transport.write(data)

    assert after(steps) == [b"head1body1", b"head2body2"]


def test_a_head_alone_is_written_when_the_turn_ends() -> None:
    assert after(lambda transport: transport.write(b"head")) == [b"head"]


@pytest.mark.parametrize("end", ["close", "abort"])
def test_what_is_held_goes_out_before_the_connection_ends(end: str) -> None:
    def steps(transport: OneWrite) -> None:
        transport.write(b"head")
        getattr(transport, end)()

    assert after(steps) == [b"head", end]


def test_an_answer_comes_as_one_packet(server: Any) -> None:
    with server.connect() as connection:
        for method, body in ((b"GET", b'{"live":true}'), (b"GET", b'{"live":true}')):
            connection.sendall(method + b" /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200")
            assert answer.endswith(body)
