"""Large messages do not delay others, and have a common limit."""

from __future__ import annotations

import gzip
import json
import os
import select
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from wire import Answer, ask, connected, peak, post, read, row

psutil: Any = import_module("psutil")  # it has no types

Launch = Callable[..., Any]

MIB = 1 << 20
CAP = 40 * MIB
HEALTH = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"


def numbers(count: int, **more: object) -> bytes:
    """Return a request of so many numbers, of 20 bytes of JSON each."""
    head = {"name": "x", "datatype": "FP32", "shape": [count]}
    text = json.dumps({"inputs": [head], **more})
    data = b",".join([b"1.23456789012345e-09"] * count)
    return text.replace("]}]", '],"data":[]}]', 1).encode().replace(b"[]", b"[%b]" % data)


@pytest.fixture(scope="module")
def roomy(launch: Launch, archives: dict[str, Path]) -> Iterator[Any]:
    with launch(archives["logarithm"], archives["memory"]) as process:
        assert process.line().startswith("ready: ")
        yield process


def helpers(server: Any) -> list[Any]:
    """Return the processes that read and write large JSON."""
    found = {child for worker in server.workers() for child in worker.children()}
    return [child for child in found if "torchship.serve.protocol.json_helper" in child.cmdline()]


@pytest.mark.parametrize("count", [30_000, 2_900_000])
def test_only_requests_with_large_json_wait_for_a_helper(roomy: Any, count: int) -> None:
    """However long a helper takes: here it is stopped. The larger request has 60 MB."""
    large, small = post("logarithm", numbers(count)), post("logarithm", row(1))
    assert ask(roomy, post("logarithm", numbers(30_000))).status == 200
    stopped = helpers(roomy)
    assert stopped
    for helper in stopped:
        helper.suspend()
    with ExitStack() as stack:
        streams = []
        for _ in stopped:
            connection, stream = stack.enter_context(connected(roomy))
            connection.sendall(large)
            streams.append((connection, stream))
        for content in (HEALTH, small) * 20:
            assert ask(roomy, content).status == 200
        assert not select.select([connection for connection, _ in streams], [], [], 0)[0]
        for helper in stopped:
            helper.resume()
        answers = [read(stream) for _, stream in streams]
    for answer in answers:
        assert answer.status == 200
        data = json.loads(answer.body)["outputs"][0]["data"]
        assert (len(data), data[0]) == (count, data[-1])


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_large_and_small_are_answered_alike(roomy: Any, binary: bool, encoding: str) -> None:
    found = []
    for count in (3, 30_000):
        body = numbers(count, parameters={"binary_data_output": binary}, id="seven")
        if encoding == "gzip":
            body = gzip.compress(body)
        answer = ask(roomy, post("logarithm", body, f"Content-Encoding: {encoding}"))
        assert answer.status == 200
        length = int(answer.headers.get("inference-header-content-length", len(answer.body)))
        head = json.loads(answer.body[:length])
        data = head["outputs"][0].pop("data", answer.body[length:])
        found.append((data[:4] if binary else data[0], len(data) // count, head["id"]))
        assert head["outputs"][0].pop("shape") == [count]
    assert found[0] == found[1]
    assert helpers(roomy)


def entry(**said: object) -> dict[str, object]:
    return {"name": "x", "datatype": "FP32", "shape": [30_000], "data": [1] * 30_000} | said


def nested(depth: int) -> dict[str, object]:
    return {"deeper": nested(depth - 1)} if depth else {}


LARGE = [1.23456789012345] * 30_000
WRONG: dict[str, object] = {
    "no JSON": None,
    "no object": LARGE,
    "no list of inputs": {"inputs": {"a": LARGE}},
    "no name": {"inputs": [entry(data=LARGE, name=None)]},
    "a name twice": {"inputs": [entry(data=LARGE), entry(data=LARGE)]},
    "no datatype": {"inputs": [entry(data=LARGE, datatype="FP33")]},
    "a datatype that is no text": {"inputs": [entry(data=LARGE, datatype=["FP32"])]},
    "half precision": {"inputs": [entry(data=LARGE, datatype="FP16")]},
    "no shape": {"inputs": [entry(data=LARGE, shape=[-1])]},
    "another shape": {"inputs": [entry(data=LARGE, shape=[30_001])]},
    "another nesting": {"inputs": [entry(data=[LARGE, LARGE], shape=[2, 15_000])]},
    "no list of data": {"inputs": [entry(data={"a": LARGE})]},
    "no numbers": {"inputs": [entry(data=[*LARGE[1:], "a"])]},
    "no integers": {"inputs": [entry(data=LARGE, datatype="INT32")]},
    "too large": {"inputs": [entry(data=[*LARGE[1:], 1e39])]},
    "both forms": {"inputs": [entry(data=LARGE, parameters={"binary_data_size": 4})]},
    "parameters that are none": {"inputs": [entry(data=LARGE, parameters=5)]},
    "a parameter": {"inputs": [entry(data=LARGE)], "parameters": {"priority": 9}},
    "an output": {"inputs": [entry(data=LARGE)], "outputs": [{"name": "z"}]},
    "depth": {"inputs": [entry(data=LARGE)], "parameters": nested(300)},
    "no data at all": {"inputs": [], "id": "x" * 400_000},
    "many strings": {"inputs": [entry(datatype="BYTES", data=["a"] * 300_000, shape=[300_000])]},
}


@pytest.mark.parametrize("name", WRONG)
def test_an_invalid_large_request_gets_an_explanation(roomy: Any, name: str) -> None:
    content = b"{" * 300_000 if WRONG[name] is None else json.dumps(WRONG[name]).encode()
    assert len(content) > 1 << 18
    answer = ask(roomy, post("logarithm", content))
    assert answer.status == 400
    assert len(answer.error) < 300


@pytest.mark.parametrize("more", [(), ("Origin: http://localhost",)])  # directly, and not
def test_a_large_output_without_a_form_in_json_is_refused(
    launch: Launch, archives: dict[str, Path], more: tuple[str, ...]
) -> None:
    with launch("--max-body-bytes", MIB, archives["half"]) as process:
        assert process.line() == "ready: half/1"
        errors = set()
        for count in (3, 200_000):
            x: dict[str, object] = {"name": "x", "datatype": "BF16", "shape": [count]}
            x["parameters"] = {"binary_data_size": 2 * count}
            head = json.dumps({"inputs": [x]}).encode()
            length = f"Inference-Header-Content-Length: {len(head)}"
            answer = ask(process, post("half", head + bytes(2 * count), length, *more))
            assert answer.status == 400
            errors.add(answer.error)
        assert errors == {"output 'double': BF16 has no JSON form, ask for it with binary_data"}


def test_a_helper_that_ended_while_idle_is_replaced(roomy: Any) -> None:
    body = post("logarithm", numbers(30_000))
    assert ask(roomy, body).status == 200
    for helper in helpers(roomy):
        helper.kill()
        while helper.status() != psutil.STATUS_ZOMBIE:
            pass
    assert ask(roomy, body).status == 200


def test_a_helper_that_ends_takes_one_request_with_it(roomy: Any) -> None:
    body = post("logarithm", numbers(2_900_000))
    with connected(roomy) as (connection, stream):
        connection.sendall(body)
        while not select.select([connection], [], [], 0.05)[0]:
            for helper in helpers(roomy):
                helper.kill()
        answer = read(stream)
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert "a helper process for large JSON ended" in answer.error
    assert ask(roomy, post("logarithm", numbers(30_000))).status == 200


def test_a_helper_that_cannot_be_started_is_for_later(roomy: Any) -> None:
    body = post("logarithm", numbers(30_000))
    with ExitStack() as stack:
        streams = [stack.enter_context(connected(roomy)) for _ in range(2)]
        for connection, stream in streams:
            connection.sendall(HEALTH)
            assert read(stream).status == 200
        (worker,) = roomy.workers()
        for helper in helpers(roomy):
            helper.kill()
            while helper.status() != psutil.STATUS_ZOMBIE:
                pass
        before = worker.rlimit(psutil.RLIMIT_NOFILE)
        worker.rlimit(psutil.RLIMIT_NOFILE, (0, before[1]))  # no more files can be opened
        connection, stream = streams[0]
        connection.sendall(body)
        answer = read(stream)
        worker.rlimit(psutil.RLIMIT_NOFILE, before)
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        connection.sendall(body)
        assert read(stream).status == 200


def test_helpers_end_with_the_server(launch: Launch, archives: dict[str, Path]) -> None:
    with launch(archives["logarithm"]) as process:
        assert process.line() == "ready: logarithm/1"
        assert ask(process, post("logarithm", numbers(30_000))).status == 200
        (helper,) = helpers(process)
        for one in (process.popen, helper, *process.workers()):
            one.send_signal(signal.SIGTERM)  # as a service manager does
        assert process.popen.wait(60) == 0
        helper.wait(60)


@pytest.mark.parametrize("more", [(), ("Origin: http://localhost",)])  # directly, and not
def test_a_large_answer_to_a_small_request_is_written_elsewhere(
    launch: Launch, make_archive: Any, more: tuple[str, ...]
) -> None:
    with launch(make_archive("spread")) as process:
        assert process.line() == "ready: spread/1"
        x = {"name": "x", "datatype": "FP32", "shape": [5000], "data": [0, *[1] * 4999]}
        for said, least in (("string", "-Infinity"), ("null", None)):
            body = json.dumps({"inputs": [x], "parameters": {"non_finite": said}}).encode()
            answer = ask(process, post("spread", body, *more))
            assert answer.status == 200
            data = json.loads(answer.body)["outputs"][0]["data"]
            assert data == [least, *[0.0] * 4999] * 64
        assert helpers(process)
        body = json.dumps({"inputs": [x]}).encode()
        answer = ask(process, post("spread", body, *more))
        assert (answer.status, "64 of 320000 values are not finite" in answer.error) == (400, True)
        assert ask(process, post("spread", row(1), *more)).status == 200


def test_a_million_classes_are_answered(launch: Launch, make_archive: Any) -> None:
    count = 20_000
    x = {"name": "x", "datatype": "FP32", "shape": [count]}
    said = {"inputs": [x | {"parameters": {"binary_data_size": 4 * count}}]}
    output = {"name": "output", "parameters": {"classification": 1 << 30}}
    head = json.dumps(said | {"outputs": [output]}).encode()
    data = struct.pack("<f", 1) * count
    length = f"Inference-Header-Content-Length: {len(head)}"
    with launch(make_archive("spread")) as process:
        assert process.line() == "ready: spread/1"
        answer = ask(process, post("spread", head + data, length))
        classes = json.loads(answer.body)["outputs"][0]
    assert (classes["shape"], classes["data"][-1]) == ([64 * count], "0.000000:1279999")


def test_others_have_room_while_a_request_of_many_rows_runs(roomy: Any) -> None:
    count = 1 << 20  # many times what may wait
    x: dict[str, object] = {"name": "x", "datatype": "FP32", "shape": [count, 2]}
    x["parameters"] = {"binary_data_size": 8 * count}
    said = {"inputs": [x], "parameters": {"binary_data_output": True}}
    head = json.dumps(said).encode()
    length = f"Inference-Header-Content-Length: {len(head)}"
    one = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 1]}
    small = post("memory", json.dumps({"inputs": [one]}).encode())
    statuses = []
    with connected(roomy) as (large, answer), connected(roomy) as (connection, stream):
        large.sendall(post("memory", head + bytes(8 * count), length))
        while not select.select([large], [], [], 0)[0]:
            connection.sendall(small)
            statuses.append(read(stream).status)
        whole = read(answer)
    assert whole.status == 200
    assert whole.body.endswith(bytes(16 * count))
    assert statuses.count(429) < len(statuses) / 2


@pytest.mark.parametrize("metadata", [True, False])
def test_a_state_of_many_parts_is_refused_unread(roomy: Any, metadata: bool) -> None:
    """A million tensors of no elements take seconds to make, on the event loop."""
    part = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    many: dict[str, object] = {f"t{number}": "" if metadata else part for number in range(30_000)}
    header = json.dumps({"__metadata__": many} if metadata else many).encode()
    state = struct.pack("<Q", len(header)) + header
    put = post("x", state).replace(b"POST", b"PUT", 1)
    put = put.replace(b"models/x/infer", b"models/memory/sequences/a/state")
    answer = ask(roomy, put)
    assert (answer.status, "bytes of safetensors' header" in answer.error) == (400, True)
    assert len(answer.error) < 300


def test_a_large_message_of_a_stream_is_read_elsewhere(roomy: Any) -> None:
    x = {"name": "x", "datatype": "FP32", "shape": [20_000, 2], "data": LARGE + LARGE[:10_000]}
    text = json.dumps({"inputs": [x]})
    head = text.encode()
    url = roomy.url.replace("http", "ws") + "/v2/models/memory/stream"
    with connect(url, max_size=None, compression=None) as stream:
        stream.send(text)
        first = json.loads(stream.recv())["outputs"]
    with connect(url, max_size=None) as stream:
        stream.send(struct.pack("<I", len(head)) + head)
        message = stream.recv()
        assert isinstance(message, bytes)
        assert json.loads(message[4:])["outputs"] == first


# What is in flight has a limit.


@pytest.fixture(scope="module")
def capped(launch: Launch, archives: dict[str, Path]) -> Iterator[Any]:
    options = ("--max-inflight-bytes", CAP, "--max-body-bytes", 30 * MIB, "--body-seconds", 600)
    with launch(*options, archives["logarithm"], archives["memory"]) as process:
        assert process.line().startswith("ready: ")
        yield process


def assert_room(server: Any) -> None:
    """Everything was released: what needs nearly all of the room is answered."""
    body = b" " * (29 * MIB)
    for _ in range(3):
        assert ask(server, post("logarithm", body)).status == 400  # it is no JSON


def refused(server: Any, body: bytes) -> Answer:
    """Ask until there is no room: uploads on their way are taken a moment later."""
    for _ in range(1000):
        answer = ask(server, body)
        if answer.status != 400:
            return answer
    raise AssertionError("there was always room")


def test_stalled_uploads_hold_no_more_than_the_limit(capped: Any) -> None:
    assert_room(capped)
    before = peak(capped)
    with ExitStack() as stack:
        stalled = []
        for _ in range(20):
            connection, stream = stack.enter_context(connected(capped))
            connection.settimeout(60)
            connection.sendall(post("logarithm", b"", length=28 * MIB))
            stalled.append((connection, stream))
        statuses = []

        def fill(connection: socket.socket) -> None:
            try:
                for _ in range(27):
                    connection.sendall(b" " * MIB)
            except OSError:
                pass

        fillers = [threading.Thread(target=fill, args=(one,)) for one, _ in stalled]
        for filler in fillers:
            filler.start()
        for filler in fillers:
            filler.join()
        answer = refused(capped, post("logarithm", b" " * (20 * MIB)))
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert peak(capped) - before < 3 * CAP
        assert ask(capped, post("logarithm", row(1))).status == 200  # what is small has room
        for connection, _ in stalled:
            connection.setblocking(False)
            try:
                statuses.append(connection.recv(12))
            except BlockingIOError:
                statuses.append(b"")
        assert statuses.count(b"HTTP/1.1 503") >= 15
        assert statuses.count(b"") >= 1
    assert_room(capped)


@pytest.mark.parametrize("ending", ["reset", "closed", "answered", "late", "refused"])
def test_what_a_request_held_is_free_however_it_ends(capped: Any, ending: str) -> None:
    for _ in range(4):
        with connected(capped) as (connection, stream):
            size = 28 * MIB
            if ending == "refused":
                connection.sendall(post("logarithm", b" " * size, "Content-Encoding: br"))
                assert read(stream).status == 415
            elif ending == "late":
                connection.sendall(post("nobody", b" " * size))
                assert read(stream).status == 404
            else:
                connection.sendall(post("logarithm", b" " * size, length=size + 1))
            if ending == "answered":
                connection.sendall(b" ")
                assert read(stream).status == 400
            if ending == "reset":
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        for _ in range(1000):  # the end of a connection is seen a moment later
            if ask(capped, post("logarithm", b" " * (29 * MIB))).status == 400:
                break
    assert_room(capped)


def test_an_announcement_alone_holds_nothing(capped: Any) -> None:
    with ExitStack() as stack:
        for _ in range(50):
            connection = stack.enter_context(capped.connect())
            connection.sendall(post("logarithm", b"", length=28 * MIB))
        assert_room(capped)


def test_compressed_bodies_count_with_their_inflated_size(capped: Any) -> None:
    """A megabyte of zeros is a kilobyte on its way."""
    bomb = gzip.compress(b" " * (29 * MIB))
    with ExitStack() as stack:
        streams = []
        for _ in range(12):
            connection, stream = stack.enter_context(connected(capped))
            connection.sendall(post("logarithm", bomb, "Content-Encoding: gzip"))
            streams.append(stream)
        statuses = {read(stream).status for stream in streams}
    assert statuses <= {400, 503}
    assert 400 in statuses
    assert_room(capped)


def test_messages_of_streams_count(capped: Any) -> None:
    url = capped.url.replace("http", "ws") + "/v2/models/memory/stream"
    part = b"\0" * (5 * MIB)

    def endless() -> Iterator[bytes]:
        """Fragments of one message, the last of which does not come."""
        for _ in range(5):
            yield part
        while not over.wait(0.05):  # who sends sees that the connection has been ended
            yield b"\0"

    over, ended = threading.Event(), threading.Event()
    closed: list[int] = []

    def fill() -> None:
        with connect(url, compression="deflate") as stream:
            try:
                stream.send(endless())
                stream.recv()
            except ConnectionClosedError as error:
                assert error.rcvd is not None
                closed.append(error.rcvd.code)
                ended.set()

    fillers = [threading.Thread(target=fill) for _ in range(3)]
    for filler in fillers:
        filler.start()
    # One of them was refused; what the others hold leaves no room for a large body. If it came any
    # earlier, its own bytes would have the streams refused.
    assert ended.wait(60)
    assert ask(capped, post("logarithm", b" " * (29 * MIB))).status == 503
    over.set()
    for filler in fillers:
        filler.join()
    assert 1013 in closed
    assert_room(capped)


def test_only_so_much_json_besides_tensors_is_read(roomy: Any) -> None:
    """Routes with a few parameters take no large body: it would be read on the event loop."""
    body = b'{"parameters":{"a":[' + b",".join([b"1"] * 200_000) + b"]}}"
    for path in (b"index", b"models/memory/load", b"models/memory/unload"):
        content = post("x", body).replace(b"models/x/infer", b"repository/" + path)
        assert ask(roomy, content).status == 413
    assert os.path.exists(f"/proc/{roomy.popen.pid}")
