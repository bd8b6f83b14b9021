"""The WebSocket that steps one sequence, with a real client."""

import json
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

X: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [1, 2]}
ONE: dict[str, Any] = {"inputs": [X | {"data": [1, 2]}]}

Open = Callable[..., ClientConnection]


@pytest.fixture
def stream(server: Any) -> Open:
    def opened(path: str = "memory") -> ClientConnection:
        url: str = server.url.replace("http", "ws", 1)
        return connect(f"{url}/v2/models/{path}/stream", proxy=None)

    return opened


@pytest.fixture
def http(server: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as client:
        yield client


def live(http: httpx.Client) -> int:
    count: int = http.get("/v2/sequences").json()["live"]
    return count


def ask(socket: ClientConnection, message: dict[str, Any]) -> Any:
    socket.send(json.dumps(message))
    answer = socket.recv()
    assert isinstance(answer, str)
    return json.loads(answer)


def h(answer: Any) -> list[float]:
    found: list[float] = next(o["data"] for o in answer["outputs"] if o["name"] == "h")
    return found


def test_one_message_in_is_one_step_out(stream: Open, http: httpx.Client) -> None:
    with stream() as one, stream("memory/versions/1") as other:
        assert h(ask(one, ONE | {"id": "first"})) == [1, 2]
        assert h(ask(one, ONE)) == [1.5, 3]
        assert h(ask(other, ONE)) == [1, 2]
        assert ask(one, ONE | {"id": "third"})["id"] == "third"
        assert live(http) == 2
    while live(http):  # until the server has seen that both have closed
        pass


def test_start_and_end_start_anew(stream: Open) -> None:
    with stream() as socket:
        ask(socket, ONE)
        assert h(ask(socket, ONE | {"parameters": {"sequence_start": True}})) == [1, 2]
        assert h(ask(socket, ONE | {"parameters": {"sequence_end": True}})) == [1.5, 3]
        assert h(ask(socket, ONE)) == [1, 2]


def test_binary_messages(stream: Open) -> None:
    head: dict[str, Any] = {
        "inputs": [X | {"parameters": {"binary_data_size": 8}}],
        "outputs": [{"name": "h"}],
        "parameters": {"binary_data_output": True},
    }
    text = json.dumps(head).encode()
    message = struct.pack("<I", len(text)) + text + np.array([1, 2], np.float32).tobytes()
    with stream() as socket:
        for expected in ([1, 2], [1.5, 3]):
            socket.send(message)
            answer = socket.recv()
            assert isinstance(answer, bytes)
            (length,) = struct.unpack_from("<I", answer)
            (output,) = json.loads(answer[4 : 4 + length])["outputs"]
            assert (output["name"], output["parameters"]) == ("h", {"binary_data_size": 8})
            assert np.frombuffer(answer[4 + length :], np.float32).tolist() == expected
        # JSON alone fits into a binary message too, and comes back as one.
        text = json.dumps(ONE).encode()
        socket.send(struct.pack("<I", len(text)) + text)
        answer = socket.recv()
        assert isinstance(answer, bytes)
        assert struct.unpack_from("<I", answer) == (len(answer) - 4,)
        assert h(json.loads(answer[4:])) == [1.75, 3.5]


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("nonsense", "the body is not JSON"),
        (b"\1", "expected 4 bytes with the length of the JSON first, got 1"),
        (b"\xff\xff\xff\xff{}", "expected a length from 1 to"),
        (b"\0\0\0\0{}", "expected a length from 1 to"),
        ('{"inputs": []}', "input 'h' is missing"),
        (json.dumps(ONE | {"outputs": [{"name": "z"}]}), "'z'"),
        (json.dumps(ONE | {"parameters": {"sequence_id": 1}}), "a stream is a sequence of its own"),
    ],
)
def test_an_error_is_a_message_and_the_stream_goes_on(
    stream: Open, message: str | bytes, error: str
) -> None:
    with stream() as socket:
        for expected in ([1, 2], [1.5, 3]):
            if expected == [1, 2]:
                socket.send(message)
                answer = socket.recv()
                assert list(json.loads(answer)) == ["error"]
                assert error in json.loads(answer)["error"]
            assert h(ask(socket, ONE)) == expected


def test_a_stream_that_cannot_be_is_refused_with_a_status(stream: Open) -> None:
    for path, status in (("chess", 404), ("memory/versions/7", 404)):
        with pytest.raises(InvalidStatus) as refused, stream(path):
            pass
        assert refused.value.response.status_code == status
        assert "is unknown" in json.loads(refused.value.response.body)["error"]


def test_a_model_without_state_is_named(stream: Open) -> None:
    obs = {"name": "obs", "datatype": "UINT8", "shape": [1, 510], "data": [0] * 510}
    with stream("tiny") as socket:
        assert "has no state" in ask(socket, {"inputs": [obs]})["error"]


def test_a_message_over_the_limit_closes_the_stream(stream: Open, http: httpx.Client) -> None:
    with stream() as socket:
        ask(socket, ONE)
        with pytest.raises(ConnectionClosed) as closed:
            socket.send(" " * ((1 << 20) + 1))
            socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
    while live(http):
        pass


def test_the_server_ends_in_good_order_while_a_stream_is_open(
    launch: Callable[..., AbstractContextManager[Any]], archives: dict[str, Path]
) -> None:
    with launch(archives["memory"]) as process:
        assert process.line().startswith("ready: ")
        url = process.url.replace("http", "ws", 1)
        with connect(f"{url}/v2/models/memory/stream", proxy=None) as socket:
            ask(socket, ONE)
            process.popen.terminate()
            with pytest.raises(ConnectionClosed):
                socket.recv()
        assert process.popen.wait(60) == 0
        assert "Traceback" not in process.stderr()
