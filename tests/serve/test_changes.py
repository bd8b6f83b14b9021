"""Models are loaded and unloaded in every worker, whichever worker is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from torchship.script.format.tree import Flat
from torchship.serve.errors import LoadError
from torchship.serve.process.changes import Changes
from torchship.serve.process.messages import Change, Failure, Outcome

MakeArchive = Callable[..., Path]
ROW = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
ASKED = 12  # on connections of their own, which come to either of two workers


def wrong(outputs: Flat) -> Flat:
    return {name: value + 1 for name, value in outputs.items()}


def post(server: Any, path: str, body: object = None) -> httpx.Response:
    """Ask on a new connection, which may come to any worker."""
    return httpx.post(f"{server.url}/v2/{path}", json=body, trust_env=False, timeout=60)


def statuses(server: Any, model: str, body: object) -> set[int]:
    path = f"models/{model}/infer"
    return {post(server, path, body).status_code for _ in range(ASKED)}


@pytest.fixture
def server(launch: Any, make_archive: MakeArchive, tmp_path: Path) -> Iterator[Any]:
    make_archive("logarithm")
    said = ("--workers", 2, "--mode", "explicit", "--max-batch", 2)
    with launch(*said, tmp_path) as server:
        assert server.line() == "ready: "
        yield server


ONES = {"inputs": [ROW | {"shape": [2], "data": [1, 1]}]}


def test_what_one_worker_is_asked_to_load_or_unload_every_worker_does(
    server: Any, make_archive: MakeArchive
) -> None:
    assert statuses(server, "logarithm", ONES) == {404}
    for _ in range(2):
        loaded = post(server, "repository/models/logarithm/load")
        assert (loaded.status_code, loaded.text) == (200, "{}")
        assert statuses(server, "logarithm", ONES) == {200}
    chess = post(server, "repository/models/chess/load")
    assert (chess.status_code, "not in the repository" in chess.text) == (404, True)
    bad = make_archive("half", edit=wrong)
    refused = post(server, "repository/models/half/load")
    assert (refused.status_code, "golden case 0" in refused.text) == (400, True)
    assert str(bad.parent) not in refused.text
    assert post(server, f"repository/models/{'a' * 10_000}/load").status_code == 404
    assert post(server, f"repository/models/{'a' * 10_000}/unload").status_code == 200
    assert post(server, "repository/models/logarithm/unload").status_code == 200
    assert statuses(server, "logarithm", ONES) == {404}


def test_a_model_that_complains_at_length_holds_nothing_up(
    launch: Any, make_archive: MakeArchive, tmp_path: Path
) -> None:
    make_archive("loud")
    with launch("--workers", 2, "--mode", "explicit", "--max-batch", 3, tmp_path) as server:
        assert server.line() == "ready: "
        for _ in range(2):
            refused = post(server, "repository/models/loud/load")
            assert (refused.status_code, "xxx" in refused.text) == (400, True)
            assert len(refused.content) < 2000


def test_a_worker_that_comes_back_has_what_was_loaded(server: Any) -> None:
    post(server, "repository/models/logarithm/load")
    said = {server.line() for _ in range(2)}
    assert said == {f"worker {n}: live: logarithm/1" for n in range(2)}
    server.workers()[0].kill()
    dead = server.line().removesuffix(" ended by signal 9; starting another")
    assert server.line() == f"{dead} is back"
    assert statuses(server, "logarithm", ONES) == {200}
    assert post(server, "repository/models/logarithm/unload").status_code == 200
    assert statuses(server, "logarithm", ONES) == {404}


def nearly(outputs: Flat) -> Flat:
    return {name: value * (1 + 1e-7) for name, value in outputs.items()}


def live(server: Any, times: int) -> None:
    """Wait until workers have said so many times that the model is live."""
    while server.stderr().count("live: positive/1") < times:
        assert server.popen.poll() is None


def test_a_file_that_changes_while_it_is_loaded_is_loaded_again(
    server: Any, make_archive: MakeArchive
) -> None:
    """Or one worker would serve what it was before, and the other what it is now."""
    path = make_archive("positive")
    with server.connect() as ours, ThreadPoolExecutor() as pool:
        ours.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n")
        assert ours.recv(4096).startswith(b"HTTP/1.1 200 ")
        (other,) = [
            worker
            for worker in server.workers()
            if ours.getsockname() not in [c.raddr for c in worker.connections()]
        ]
        other.suspend()
        try:
            ours.sendall(
                b"POST /v2/repository/models/positive/load HTTP/1.1\r\n"
                b"Host: a\r\nContent-Length: 0\r\n\r\n"
            )
            answer = pool.submit(ours.recv, 4096)
            live(server, 1)
            make_archive("positive", file="new", edit=nearly).replace(path)
        finally:
            other.resume()
        assert answer.result().startswith(b"HTTP/1.1 200 ")
    assert server.stderr().count("live: positive/1") == 4  # each of them twice


def test_a_model_with_state_that_comes_later_keeps_no_sequences_in_one_worker(
    server: Any, make_archive: MakeArchive
) -> None:
    make_archive("memory")
    assert post(server, "repository/models/memory/load").status_code == 200
    assert statuses(server, "memory", {"inputs": [ROW]}) == {200}
    start = {"inputs": [ROW], "parameters": {"sequence_id": 1, "sequence_start": True}}
    answer = post(server, "models/memory/infer", start)
    assert answer.status_code == 400
    assert "each of its workers would remember its own only" in answer.json()["error"]


class Workers:
    """Workers as a supervisor sees them: what they were told, and when they answer."""

    def __init__(self, *live: int) -> None:
        self.live = set(live)
        self.told: list[tuple[int, Change | Outcome]] = []
        self.changes = Changes(["a"], lambda *said: self.told.append(said), lambda: self.live)

    async def settle(self) -> None:
        """Let everything run that can."""
        for _ in range(5):
            await asyncio.sleep(0)


LOAD = Change(id="1", what="load", model="b")
UNLOAD = Change(id="2", what="unload", model="a")
NO = Failure(code="load_failed", text="no")


def outcome(id: str, failure: Failure | None = None, **digests: str) -> Outcome:
    return Outcome(id=id, failure=failure, digests={f"{k}/1": v for k, v in digests.items()})


def test_the_requester_is_answered_when_all_workers_have_answered() -> None:
    async def check() -> None:
        workers = Workers(0, 1)
        changes = workers.changes
        both = asyncio.gather(changes.apply(0, LOAD), changes.apply(1, UNLOAD))
        await workers.settle()
        assert workers.told == [(0, LOAD), (1, LOAD)], "one after the other"
        changes.finished(0, outcome("2"))  # of another change
        changes.finished(1, outcome("1"))
        await workers.settle()
        assert len(workers.told) == 2
        changes.finished(0, outcome("1"))
        await workers.settle()
        assert workers.told[2] == (0, outcome("1"))
        assert list(changes.wanted) == ["a", "b"]
        for worker in (0, 1):
            changes.finished(worker, outcome("2"))
        await both
        assert workers.told[-1] == (1, outcome("2"))
        assert list(changes.wanted) == ["b"]

    asyncio.run(check())


def test_the_one_that_follows_a_dead_one_makes_the_change_in_its_stead() -> None:
    async def check() -> None:
        workers = Workers(0, 1)
        changes = workers.changes
        made = asyncio.create_task(changes.apply(0, LOAD))
        await workers.settle()
        changes.finished(0, outcome("1", b="x"))
        changes.left(1, comes_back=True)
        await workers.settle()
        assert not made.done(), "the dead one had not answered"
        changes.joined(1)
        assert workers.told[-1] == (1, LOAD)
        await workers.settle()
        assert not made.done(), "it waits for the one that has begun"
        changes.finished(1, outcome("1", b="x"))
        await made
        assert list(changes.wanted) == ["a", "b"]
        workers.live.clear()
        await changes.apply(0, UNLOAD)  # with nobody there
        assert list(changes.wanted) == ["b"]

    asyncio.run(check())


def test_a_load_in_which_workers_die_again_and_again_has_failed_and_is_undone() -> None:
    async def check() -> None:
        workers = Workers(0, 1)
        changes = workers.changes
        made = asyncio.create_task(changes.apply(0, LOAD))
        await workers.settle()
        changes.finished(0, outcome("1", b="x"))
        changes.left(1, comes_back=True)
        changes.joined(1)
        changes.left(1, comes_back=True)
        await workers.settle()
        undo = Change(id="undo 1", what="unload", model="b")
        assert workers.told[-2:] == [(0, undo), (1, undo)]
        for worker in (0, 1):
            changes.finished(worker, outcome("undo 1"))
        await made
        worker, said = workers.told[-1]
        assert worker == 0
        assert isinstance(said, Outcome)
        assert said.failure == Failure(
            code="load_failed", text="a process ended while it loaded model 'b'"
        )
        assert list(changes.wanted) == ["a"]

    asyncio.run(check())


def test_an_error_is_the_answer_and_changes_nothing_that_is_wanted() -> None:
    async def check() -> None:
        workers = Workers(0, 1)
        made = asyncio.create_task(workers.changes.apply(1, LOAD))
        await workers.settle()
        workers.changes.finished(1, outcome("1", NO))
        workers.changes.finished(0, outcome("1", NO))
        await made
        assert workers.told[-1] == (1, outcome("1", NO)), "nobody has it: there is nothing to undo"
        assert workers.changes.wanted == ("a",)

    asyncio.run(check())


def test_what_only_some_could_load_is_unloaded_again() -> None:
    async def check() -> None:
        workers = Workers(0, 1)
        made = asyncio.create_task(workers.changes.apply(1, LOAD))
        await workers.settle()
        workers.changes.finished(1, outcome("1", a="y", b="x"))
        workers.changes.finished(0, outcome("1", NO, a="z"))
        await workers.settle()
        assert isinstance(workers.told[-1][1], Change)
        assert workers.told[-1][1].what == "unload"
        for worker in (0, 1):
            workers.changes.finished(worker, outcome("undo 1"))
        await made
        assert workers.told[-1] == (1, outcome("1", NO))

    asyncio.run(check())


def test_an_error_is_the_same_in_another_process() -> None:
    error = Failure.of(LoadError("it is not")).error()
    assert (type(error), str(error)) == (LoadError, "it is not")
    assert type(Failure.of(KeyError("x")).error()) is RuntimeError


def test_a_file_that_keeps_changing_while_it_is_loaded_is_a_failure_and_is_undone() -> None:
    async def check() -> None:
        workers = Workers(0, 1)
        changes = workers.changes
        made = asyncio.create_task(changes.apply(0, LOAD))
        for first, second in (("x", "y"), ("z", "w")):
            await workers.settle()
            assert workers.told[-2:] == [(0, LOAD), (1, LOAD)]
            changes.finished(0, outcome("1", b=first))
            changes.finished(1, outcome("1", b=second))
        await workers.settle()
        undo = Change(id="undo 1", what="unload", model="b")
        assert workers.told[-2:] == [(0, undo), (1, undo)]
        for worker in (0, 1):
            changes.finished(worker, outcome("undo 1"))
        await made
        _, said = workers.told[-1]
        assert isinstance(said, Outcome)
        assert said.failure is not None
        assert "kept changing while it was loaded" in said.failure.text
        assert list(changes.wanted) == ["a"]

    asyncio.run(check())
