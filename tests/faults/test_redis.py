"""Faults of Redis and its connections: a sequence's state is never wrong."""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import safetensors.torch
import torch
from redis import Redis

from redis_proxy import Proxy, running_proxy
from redis_server import running_redis
from torchship.serve.sequences.redis_scripts import ENTER

Launch = Callable[..., AbstractContextManager[Any]]

KEEP, END = b"\r\nkeep\r\n", b"\r\nend\r\n"
ENTERS = hashlib.sha1(ENTER.encode()).hexdigest().encode()
IDS = iter(range(1 << 30))
INFER = "/v2/models/memory/infer"


@dataclass
class Place:
    """Two servers: one reaches Redis through a proxy, the other directly."""

    redis: Any
    proxy: Proxy
    server: Any
    other: Any
    http: httpx.Client

    def ask(self, id: str, server: Any = None, **said: object) -> httpx.Response:
        x = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 1.0]}
        request = {"inputs": [x], "parameters": {"sequence_id": id, **said}}
        return self.http.post((server or self.server).url + INFER, json=request)

    def step(self, id: str, server: Any = None, **said: object) -> float:
        """Return what the state is after a step: 1, 1.5, 1.75, 1.875."""
        answer = self.ask(id, server, **said)
        assert answer.status_code == 200, answer.text
        return state_in(answer)

    def begun(self, steps: int = 1) -> str:
        """Return the id of a sequence that has made so many steps."""
        id = f"n{next(IDS)}"
        for number in range(steps):
            self.step(id, sequence_start=number == 0)
        return id

    def stored(self, id: str, server: Any) -> float:
        answer = self.http.get(f"{server.url}/v2/models/memory/sequences/{id}/state")
        assert answer.status_code == 200, answer.text
        return float(safetensors.torch.load(answer.content)["h"][0, 0])

    def call(self, verb: str, id: str, what: str = "", **said: Any) -> httpx.Response:
        url = f"{self.server.url}/v2/models/memory/sequences/{id}{what}"
        return self.http.request(verb, url, **said)


def state_in(answer: httpx.Response) -> float:
    found = {output["name"]: output["data"] for output in answer.json()["outputs"]}
    return float(found["h"][0])


def failed(answer: httpx.Response) -> None:
    """Check that the store's failure is told as one, and without the store's address."""
    assert answer.status_code == 503, answer.text
    error = answer.json()["error"]
    assert error.startswith("the store of sequences failed: ")
    assert "127.0.0.1" not in error


def settings(state: str, **said: object) -> dict[str, str]:
    said |= {"state": state, "sequence_idle_seconds": 600}
    return {**os.environ, **{f"TORCHSHIP_SERVE_{k.upper()}": str(v) for k, v in said.items()}}


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with running_redis() as url:
        yield url


@pytest.fixture(scope="module")
def whole(redis_url: str, archives: dict[str, Path], launch: Launch) -> Iterator[Place]:
    with ExitStack() as stack:
        proxy = stack.enter_context(running_proxy(redis_url))
        servers = [
            stack.enter_context(launch(archives["memory"], environment=settings(url)))
            for url in (proxy.url, redis_url)
        ]
        for server in servers:
            assert server.line() == "ready: memory/1"
        http = stack.enter_context(httpx.Client(trust_env=False, timeout=60))
        redis = stack.enter_context(Redis.from_url(redis_url))
        place = Place(redis, proxy, servers[0], servers[1], http)
        for server in servers:  # from now on Redis knows the scripts
            place.step("first", server, sequence_start=True)
        yield place
        for server in servers:
            assert "Traceback" not in server.stderr()


@pytest.fixture
def place(whole: Place) -> Iterator[Place]:
    yield whole
    whole.proxy.heal()


@contextmanager
def asked(ask: Callable[[], httpx.Response]) -> Iterator["Future[httpx.Response]"]:
    """Ask on another thread."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(ask)


# What Redis replied is lost on the way.


@pytest.mark.parametrize("lost", [ENTERS, KEEP])
def test_a_step_whose_reply_is_lost_once_is_made_once(place: Place, lost: bytes) -> None:
    id = place.begun()
    place.proxy.lose(lost)
    assert place.step(id) == 1.5
    assert place.proxy.happened.is_set()
    assert place.step(id) == 1.75


def test_an_end_whose_reply_is_lost_once_is_made_once(place: Place) -> None:
    ids = [place.begun() for _ in range(2)]
    place.proxy.lose(END)
    assert place.step(ids[0], sequence_end=True) == 1.5
    assert place.proxy.happened.is_set()
    place.proxy.lose(END)
    assert place.call("DELETE", ids[1]).status_code == 204
    assert place.proxy.happened.is_set()
    for id in ids:
        assert place.ask(id).status_code == 404


def test_a_step_that_was_answered_with_503_was_not_made(place: Place) -> None:
    id = place.begun()
    place.proxy.lose(KEEP, stays_away=True)
    failed(place.ask(id))
    assert place.proxy.happened.is_set()
    failed(place.ask(id))
    place.proxy.heal()
    assert place.step(id) == 1.5
    assert place.step(id) == 1.75


def test_another_server_sees_soon_what_was_before_a_503(place: Place) -> None:
    id = place.begun()
    place.proxy.lose(KEEP, stays_away=True)
    failed(place.ask(id))
    assert place.stored(id, place.other) == 1.5  # it was written
    place.proxy.heal()
    while place.stored(id, place.other) != 1:  # nobody asks the first server any more
        pass
    assert place.step(id, place.other) == 1.5


def test_what_others_wrote_after_a_lost_reply_stays(place: Place) -> None:
    id = place.begun()
    place.proxy.lose(KEEP, stays_away=True)
    failed(place.ask(id))
    assert place.step(id, place.other) == 1.75
    place.proxy.heal()
    assert place.step(id) == 1.875


def test_a_start_an_end_an_import_and_a_reset_with_503_were_not_made(place: Place) -> None:
    new = f"n{next(IDS)}"
    ids = [place.begun(2) for _ in range(4)]
    data = place.call("GET", place.begun(), "/state").content
    requests: list[tuple[bytes, Callable[[], httpx.Response]]] = [
        (KEEP, lambda: place.ask(new, sequence_start=True)),
        (KEEP, lambda: place.ask(ids[0], sequence_start=True)),
        (END, lambda: place.ask(ids[1], sequence_end=True)),
        (KEEP, lambda: place.call("PUT", ids[2], "/state", content=data)),
        (KEEP, lambda: place.call("POST", ids[3], "/reset")),
    ]
    for request, ask in requests:
        place.proxy.lose(request, stays_away=True)
        failed(ask())
        place.proxy.heal()
    assert place.ask(new).status_code == 404
    for id in ids:
        assert place.step(id) == 1.75


# Redis hangs.


def test_a_redis_that_hangs_is_503_and_what_arrives_late_is_not_made(place: Place) -> None:
    id = place.begun()
    place.proxy.hold(KEEP)
    with asked(lambda: place.ask(id)) as answer:
        assert place.proxy.happened.wait(60)
        failed(place.ask("first"))
        assert place.http.get(f"{place.server.url}/v2/health/live").status_code == 200
        failed(answer.result(60))
    place.proxy.heal()
    assert place.step(id) == 1.5
    assert place.step("first", sequence_start=True) == 1


def test_a_server_ends_in_time_while_redis_hangs_and_takes_its_step_back(
    place: Place, archives: dict[str, Path], launch: Launch
) -> None:
    id = place.begun()
    environment = settings(place.proxy.url, shutdown_seconds=1)
    with launch(archives["memory"], environment=environment) as server:
        assert server.line() == "ready: memory/1"
        place.proxy.silence(KEEP)
        with asked(lambda: place.ask(id, server)) as answer:
            assert place.proxy.happened.wait(60)
            server.popen.terminate()
            assert answer.result(60).status_code == 503
        assert server.popen.wait(60) == 0
    assert place.step(id, place.other) == 1.5


# The server dies.


def test_a_step_is_known_again_by_its_key_after_the_server_was_killed(
    place: Place, archives: dict[str, Path], launch: Launch
) -> None:
    id = place.begun()
    with launch(archives["memory"], environment=settings(place.proxy.url)) as server:
        assert server.line() == "ready: memory/1"
        place.proxy.silence(KEEP)
        with asked(lambda: place.ask(id, server, idempotency_key="two")) as answer:
            assert place.proxy.happened.wait(60)
            for process in [server.popen, *server.workers()]:
                process.kill()
            assert isinstance(answer.exception(60), httpx.TransportError)
    assert place.stored(id, place.other) == 1.5
    assert place.step(id, place.other, idempotency_key="two") == 1.5
    assert place.step(id, place.other, idempotency_key="three") == 1.75


# Redis starts again, is replaced, refuses.


def test_a_redis_that_forgot_scripts_and_connections_is_asked_again(place: Place) -> None:
    id = place.begun()
    place.redis.script_flush()
    place.redis.client_kill_filter(_type="normal", skipme=True)
    assert place.step(id) == 1.5


def test_the_redis_that_takes_over_is_found(place: Place) -> None:
    place.begun()
    first = place.proxy.upstream
    with running_redis() as successor:
        place.redis.replicaof("127.0.0.1", 1)  # it is no more the first, and reads only
        try:
            failed(place.ask("read-only", sequence_start=True))
            place.proxy.upstream = successor.removeprefix("unix://")
            assert place.step("read-only", sequence_start=True) == 1
            assert place.step("read-only") == 1.5
        finally:
            place.redis.replicaof("NO", "ONE")
            place.proxy.upstream = first
            place.redis.client_kill_filter(_type="normal", skipme=True)


@pytest.mark.parametrize(
    ("setting", "worse"), [("maxmemory", "1"), ("requirepass", "other"), ("maxclients", "1")]
)
def test_a_redis_that_refuses_is_503_until_it_does_not(
    place: Place, setting: str, worse: str
) -> None:
    id = place.begun()
    before = place.redis.config_get(setting)[setting]
    place.redis.client_kill_filter(_type="normal", skipme=True)
    place.redis.config_set(setting, worse)
    try:
        failed(place.ask(id))
        failed(place.call("GET", id, "/state"))
    finally:
        place.redis.config_set(setting, before)
    assert place.step(id) == 1.5
    for said in ("the store of sequences failed: ", "the store of sequences is back"):
        assert said in place.server.stderr(said)


# What Redis holds is not what was written.


def no_state(digest: str = "", **said: str) -> bytes:
    said |= {"digest": digest} if digest else {}
    return safetensors.torch.save({"h": torch.ones(1, 2)}, said or None)


@pytest.mark.parametrize(
    "content",
    [
        b"junk",
        b"\x00" * 64,
        safetensors.torch.save({"h": torch.ones(1, 2)}),
        safetensors.torch.save({"h": torch.ones(1, 2)}, {"version": "1", "method": "forward"}),
        safetensors.torch.save(
            {"h": torch.ones(1, 2)}, {"version": "1", "method": "forward", "digest": "0" * 64}
        ),
        safetensors.torch.save({"h": torch.ones(1, 2)}, {"version": "9", "method": "forward"}),
        [b"a", b"list"],
    ],
)
def test_bytes_that_are_no_state_of_this_archive_are_410_and_a_start_works(
    place: Place, content: bytes | list[bytes]
) -> None:
    for ask in (place.ask, lambda id: place.call("POST", id, "/reset")):
        id = place.begun()
        spoil(place, id, content)
        answer = ask(id)
        assert answer.status_code == 410, answer.text
        assert "start anew" in answer.json()["error"]
        spoil(place, id, content)
        assert place.step(id, sequence_start=True) == 1
        assert place.step(id) == 1.5


def spoil(place: Place, id: str, content: bytes | list[bytes]) -> None:
    name = f"torchship:memory:{id}:state"
    place.redis.delete(name)
    if isinstance(content, bytes):
        place.redis.set(name, content)
    else:
        place.redis.rpush(name, *content)


@pytest.mark.parametrize(
    ("change", "tensors"),
    [
        ({"method": "gone"}, {"h": torch.ones(1, 2)}),
        ({}, {"k": torch.ones(1, 2)}),
        ({}, {}),
    ],
)
def test_a_state_that_does_not_fit_its_own_archive_is_410(
    place: Place, change: dict[str, str], tensors: dict[str, torch.Tensor]
) -> None:
    id = place.begun()
    name = f"torchship:memory:{id}:state"
    data = place.redis.get(name)
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    place.redis.set(name, safetensors.torch.save(tensors, metadata | change))
    assert place.ask(id).status_code == 410
    assert place.step(id, sequence_start=True) == 1


def test_a_state_that_redis_dropped_is_410_and_one_without_a_trace_404(place: Place) -> None:
    for gone, status in (("state",), 410), (("state", "mark"), 404):
        id = place.begun()
        place.redis.delete(*(f"torchship:memory:{id}:{what}" for what in gone))
        assert place.ask(id).status_code == status
        assert place.ask(id).status_code == status


def test_steps_of_one_sequence_at_two_servers_are_each_made_once(place: Place) -> None:
    id = place.begun()
    barrier = threading.Barrier(8)

    def work(number: int) -> float:
        with httpx.Client(trust_env=False, timeout=60) as http:
            at = Place(place.redis, place.proxy, place.server, place.other, http)
            barrier.wait()
            return at.step(id, place.other if number % 2 else place.server)

    with ThreadPoolExecutor(8) as pool:
        seen = sorted(pool.map(work, range(8)))
    assert seen == [2 - 0.5**steps for steps in range(1, 9)]
