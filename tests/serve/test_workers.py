"""Several processes on one port: start, load, death and end."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchship.script.errors import UsageError
from torchship.script.format.tree import Flat
from torchship.serve.process.checks import check_workers
from torchship.serve.process.sockets import reserve
from torchship.serve.process.worker_slot import Backoff, share_cores
from torchship.serve.settings import Settings

# It has no types.
psutil: Any = import_module("psutil")

MakeArchive = Callable[..., Path]
Launch = Callable[..., Any]

LOGARITHM = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[2],"data":[1,1]}]}'


def ask(server: Any) -> Any:
    """Ask on a new connection, which may come to any worker."""
    host, port = server.address
    connection = http.client.HTTPConnection(host, port, timeout=60)
    try:
        connection.request("POST", "/v2/models/logarithm/infer", LOGARITHM)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def right(answer: Any) -> bool:
    found: bool = answer["outputs"][0]["data"] == [0, 0]
    return found


def workers_of(server: Any) -> list[Any]:
    found: list[Any] = server.workers()
    return found


@pytest.fixture
def pair(launch: Launch, archives: dict[str, Path]) -> Iterator[Any]:
    with launch("--workers", 2, archives["logarithm"]) as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert server.line() == "ready: logarithm/1"
        yield server


def test_workers_share_the_port_and_end_together(pair: Any) -> None:
    both = workers_of(pair)
    assert len(both) == 2
    before = [worker.num_fds() for worker in both]
    connections = [pair.connect() for _ in range(40)]
    try:
        for connection in connections:
            connection.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: a\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
        after = [worker.num_fds() for worker in both]
        assert sum(after) - sum(before) == 40
        assert all(now > then for now, then in zip(after, before, strict=True))
    finally:
        for connection in connections:
            connection.close()
    cores = [tuple(worker.cpu_affinity()) for worker in both]
    assert sorted(cores) == sorted(share_cores(sorted(os.sched_getaffinity(0)), 2, 1))
    pair.popen.send_signal(signal.SIGTERM)
    assert pair.line() == ""
    assert pair.popen.wait(60) == 0
    assert not any(worker.is_running() for worker in both)
    assert pair.stderr() == "signatures are not checked: no --trusted-keys were given\n"


def test_a_killed_worker_comes_back_and_the_other_answers_meanwhile(pair: Any) -> None:
    wrong: list[object] = []
    answered = [0] * 4
    over = threading.Event()
    under_way = threading.Barrier(5)

    def load(client: int) -> None:
        for number in itertools.count():
            if number == 3:
                under_way.wait(60)
            try:
                answer = ask(pair)
                answered[client] += 1
                if not right(answer):
                    wrong.append(answer)
            except (OSError, http.client.HTTPException):  # it was with the worker that died
                wrong.extend(["lost before"] if number < 3 else [])
            if over.is_set():
                return

    clients = [threading.Thread(target=load, args=(n,)) for n in range(4)]
    for client in clients:
        client.start()
    try:
        under_way.wait(60)
        victim, other = workers_of(pair)
        victim.kill()
        line = pair.line()
        worker = line.removeprefix("worker ").partition(" ")[0]
        assert line == f"worker {worker} ended by signal 9; starting another"
        assert all(right(ask(pair)) for _ in range(20))
        assert pair.line() == f"worker {worker} is back"
        assert all(right(ask(pair)) for _ in range(20))
    finally:
        over.set()
        for client in clients:
            client.join()
    assert wrong == []
    assert min(answered) > 3
    after = workers_of(pair)
    assert other in after
    assert victim not in after
    assert len(after) == 2


def test_workers_end_when_their_supervisor_is_killed(pair: Any) -> None:
    both = workers_of(pair)
    pair.popen.kill()
    gone, alive = psutil.wait_procs(both, timeout=60)
    assert (len(gone), alive) == (2, [])
    with socket.create_server(pair.address):
        pass


def test_a_failure_is_reported_once(launch: Launch, make_archive: MakeArchive) -> None:
    def wrong(outputs: Flat) -> Flat:
        return {name: value + 1 for name, value in outputs.items()}

    bad, good = make_archive("half", edit=wrong), make_archive("logarithm")
    with launch("--workers", 2, bad, good) as server:
        assert server.line().startswith(f"failed: {bad}: golden case 0")
        assert all(right(ask(server)) for _ in range(10))
        server.popen.send_signal(signal.SIGINT)
        assert server.line() == ""
        assert server.popen.wait(60) == 0


def test_an_address_that_is_taken_is_refused() -> None:
    with reserve("127.0.0.1", 0) as reserved:
        port = reserved.getsockname()[1]
        with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1:{port}: "):
            reserve("127.0.0.1", port)


@pytest.mark.parametrize("model", ["memory", "half"])
def test_state_in_memory_is_refused_with_advice(archives: dict[str, Path], model: str) -> None:
    paths = (archives[model], archives["half"])
    check_workers(Settings(paths=paths, workers=2, state="redis://127.0.0.1:1/0"))
    check_workers(Settings(paths=paths, workers=2, state="none"))
    if model == "half":
        check_workers(Settings(paths=paths, workers=2))
        return
    message = "model 'memory' has recurrent state, .* give --state redis://host:port/db, "
    with pytest.raises(UsageError, match=message):
        check_workers(Settings(paths=paths, workers=2))


def test_quick_deaths_are_followed_by_longer_pauses() -> None:
    backoff = Backoff()
    assert [backoff.pause(1) for _ in range(4)] == [0, 0.5, 1, 2]
    assert max(backoff.pause(0) for _ in range(2000)) == 30
    assert [backoff.pause(10), backoff.pause(1), backoff.pause(1)] == [0, 0, 0.5]


@given(
    cores=st.integers(1, 64).map(lambda n: list(range(0, 2 * n, 2))),
    workers=st.integers(2, 70),
    threads=st.integers(1, 20),
)
def test_cores_are_shared_out_evenly(cores: list[int], workers: int, threads: int) -> None:
    shares = share_cores(cores, workers, threads)
    assert len(shares) == workers
    for share in shares:
        assert len(set(share)) == len(share) >= min(threads, len(cores))
        assert set(share) <= set(cores)
    taken = [sum(core in share for share in shares) for core in cores]
    assert max(taken) - min(taken) <= 1
