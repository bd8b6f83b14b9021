"""Sequences against the real server, on both stores."""

import asyncio
import json
import os
import random
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from http.client import HTTPConnection
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import safetensors.torch
import torch
from pydantic import ValidationError

from engine_calls import call_engine
from programs import Loader, Run
from redis_server import running_redis
from torchship.script.format.tree import Flat
from torchship.script.runtime.archive import open_archive
from torchship.serve.engine.engine import Engine
from torchship.serve.errors import (
    DeadlineError,
    LostSequenceError,
    UnknownModelError,
    UnknownSequenceError,
)
from torchship.serve.protocol.messages import InferRequest
from torchship.serve.repository.repository import Repository
from torchship.serve.sequences.memory_store import MemoryStore
from torchship.serve.sequences.redis_store import RedisStore
from torchship.serve.sequences.sequences import Sequences
from torchship.serve.sequences.store import SequenceKey
from torchship.serve.sequences.store_choice import needs_single_worker, open_store
from torchship.serve.settings import Settings
from torchship.serve.telemetry.records import Record

triton: Any = import_module("tritonclient.http")

Process = Any  # of `served`
Launch = Callable[..., AbstractContextManager[Any]]
Rows = list[list[float]]


def environment(**settings: object) -> dict[str, str]:
    said = {f"TORCHSHIP_SERVE_{name.upper()}": str(value) for name, value in settings.items()}
    return {**os.environ, **said}


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with running_redis() as url:
        yield url


@pytest.fixture(scope="module", params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> str:
    return "memory" if request.param == "memory" else request.getfixturevalue("redis_url")


@pytest.fixture(scope="module")
def stateful(
    store: str,
    archives: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
    launch: Launch,
    make_in: Callable[..., Path],
) -> Iterator[Process]:
    """Return a server of two versions of a recurrent model and of one without state."""
    newer = make_in(tmp_path_factory.mktemp("newer"), "memory", "2")
    files = (archives["memory"], newer, archives["tiny"])
    with launch(*files, environment=environment(state=store, max_sequences=100)) as process:
        assert process.line().startswith("ready: ")
        yield process


@pytest.fixture
def http(stateful: Process) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stateful.url, trust_env=False, timeout=60) as client:
        yield client


def tensor(name: str, rows: Rows) -> dict[str, object]:
    return {"name": name, "datatype": "FP32", "shape": [len(rows), len(rows[0])], "data": rows}


def body(x: Rows, h: Rows | None = None, **parameters: object) -> dict[str, object]:
    inputs = [tensor("x", x)] + ([] if h is None else [tensor("h", h)])
    return {"inputs": inputs, "parameters": parameters}


def outputs(answer: Any) -> dict[str, Rows]:
    return {
        output["name"]: np.reshape(output["data"], output["shape"]).tolist()
        for output in answer["outputs"]
    }


def step(http: httpx.Client, x: Rows, path: str = "memory", **said: Any) -> dict[str, Rows]:
    answer = http.post(f"/v2/models/{path}/infer", json=body(x, **said))
    assert answer.status_code == 200, answer.text
    return outputs(answer.json())


def refused(answer: httpx.Response, status: int) -> str:
    assert (answer.status_code, list(answer.json())) == (status, ["error"]), answer.text
    message: str = answer.json()["error"]
    return message


def refuses(http: httpx.Client, status: int, x: Rows, path: str = "memory", **said: Any) -> str:
    return refused(http.post(f"/v2/models/{path}/infer", json=body(x, **said)), status)


def live(http: httpx.Client) -> int:
    count: int = http.get("/v2/sequences").json()["live"]
    return count


ONE: Rows = [[1.0, 2.0]]


def test_state_follows_the_sequence_from_start_to_end(http: httpx.Client) -> None:
    before = live(http)
    assert step(http, ONE, sequence_id="a", sequence_start=True)["h"] == [[1, 2]]
    assert step(http, ONE, sequence_id=7, sequence_start=True)["h"] == [[1, 2]]
    assert step(http, ONE, sequence_id="a")["h"] == [[1.5, 3]]
    assert step(http, ONE, sequence_id="a")["h"] == [[1.75, 3.5]]
    assert step(http, ONE, sequence_id="7")["h"] == [[1.5, 3]]
    assert live(http) == before + 2
    assert step(http, ONE, sequence_id="a", sequence_end=True)["h"] == [[1.875, 3.75]]
    assert "sequence 'a' of model 'memory' is unknown" in refuses(http, 404, ONE, sequence_id="a")
    assert step(http, ONE, sequence_id=7, sequence_start=True, sequence_end=True)["h"] == [[1, 2]]
    assert live(http) == before


def test_a_start_may_bring_the_state_and_starts_anew(http: httpx.Client) -> None:
    first = step(http, ONE, h=[[4, 4]], sequence_id="b", sequence_start=True)
    assert first["h"] == [[3, 4]]
    assert step(http, ONE, sequence_id="b", sequence_start=True)["h"] == [[1, 2]]
    many = [[1.0, 1.0]] * 100  # more rows than a batch holds
    step(http, many, sequence_id="b", sequence_start=True)
    assert step(http, many, sequence_id="b", sequence_end=True)["h"] == [[1.5, 1.5]] * 100


def test_only_the_outputs_that_are_asked_for_come_back(http: httpx.Client) -> None:
    for start in (True, False):
        request = body(ONE, sequence_id="c", sequence_start=start) | {"outputs": [{"name": "y"}]}
        answer = http.post("/v2/models/memory/infer", json=request).json()
        assert list(outputs(answer)) == ["y"]
    assert step(http, ONE, sequence_id="c", sequence_end=True)["h"] == [[1.75, 3.5]]


def test_without_an_id_state_is_an_ordinary_input(http: httpx.Client) -> None:
    before = live(http)
    for parameters in ({}, {"sequence_id": 0}, {"sequence_id": ""}, {"sequence_start": False}):
        assert step(http, ONE, h=[[2, 2]], **parameters)["h"] == [[2, 3]]
    assert live(http) == before


def test_tritons_client_steps_a_sequence(stateful: Process) -> None:
    with triton.InferenceServerClient(stateful.url.removeprefix("http://")) as client:
        x = triton.InferInput("x", [1, 2], "FP32")
        x.set_data_from_numpy(np.array(ONE, np.float32))
        for name in (2**64 - 1, "named"):
            ends = {"sequence_id": name, "sequence_end": True}
            first = client.infer("memory", [x], sequence_id=name, sequence_start=True)
            assert first.as_numpy("h").tolist() == [[1, 2]]
            assert client.infer("memory", [x], **ends).as_numpy("h").tolist() == [[1.5, 3]]


def test_a_request_that_fails_leaves_the_state(http: httpx.Client) -> None:
    step(http, ONE, sequence_id="d", sequence_start=True)
    message = refuses(http, 400, ONE, h=ONE, sequence_id="d")
    assert "input 'h' is state of sequence 'd'" in message
    refuses(http, 400, [[1.0, 2.0, 3.0]], sequence_id="d", sequence_start=True)
    refuses(http, 400, [[1.0, 2.0]] * 2, sequence_id="d")
    unknown = body(ONE, sequence_id="d", sequence_end=True) | {"outputs": [{"name": "z"}]}
    assert "'z'" in refused(http.post("/v2/models/memory/infer", json=unknown), 400)
    assert step(http, ONE, sequence_id="d", sequence_end=True)["h"] == [[1.5, 3]]


@pytest.mark.parametrize(
    ("parameters", "status", "message"),
    [
        ({"sequence_id": "never"}, 404, "expected sequence_start with its first request"),
        ({"sequence_start": True}, 400, "expected a sequence_id"),
        ({"sequence_id": 0, "sequence_end": True}, 400, "expected a sequence_id"),
        ({"sequence_id": -1}, 400, "'sequence_id': expected a string of at most 256"),
        ({"sequence_id": 2**64}, 400, "parameter 'sequence_id'"),
        ({"sequence_id": True}, 400, "parameter 'sequence_id'"),
        ({"sequence_id": "x" * 257}, 400, "parameter 'sequence_id'"),
        ({"sequence_id": 1, "sequence_start": 1}, 400, "'sequence_start': expected a bool"),
        ({"sequence_id": 1, "sequence_end": "no"}, 400, "'sequence_end': expected a bool"),
        ({"sequence_id": 1, "sequence_start": True, "method": "act"}, 400, "no method 'act'"),
    ],
)
def test_what_is_not_right_is_named(
    http: httpx.Client, parameters: dict[str, Any], status: int, message: str
) -> None:
    before = live(http)
    assert message in refuses(http, status, ONE, **parameters)
    assert live(http) == before


def test_a_model_without_state_has_no_sequences(http: httpx.Client) -> None:
    obs = {"name": "obs", "datatype": "UINT8", "shape": [1, 510], "data": [0] * 510}
    request = {"inputs": [obs], "parameters": {"sequence_id": 1, "sequence_start": True}}
    answer = http.post("/v2/models/tiny/infer", json=request)
    assert "model 'tiny' method 'forward' has no state" in refused(answer, 400)


def test_a_sequence_stays_on_its_version(http: httpx.Client) -> None:
    older = "memory/versions/1"
    step(http, ONE, older, sequence_id="e", sequence_start=True)
    answer = http.post("/v2/models/memory/infer", json=body(ONE, sequence_id="e")).json()
    assert answer["model_version"] == "1"
    message = refuses(http, 400, ONE, "memory/versions/2", sequence_id="e")
    assert "on version '1': expected that or none, got '2'" in message
    assert step(http, ONE, older, sequence_id="e", sequence_end=True)["h"] == [[1.75, 3.5]]


def test_state_is_exported_imported_reset_and_ended(http: httpx.Client) -> None:
    path = "/v2/models/memory/sequences"
    step(http, ONE, "memory/versions/1", sequence_id="f", sequence_start=True)
    data = http.get(f"{path}/f/state").content
    assert safetensors.torch.load(data)["h"].tolist() == ONE
    assert http.put(f"{path}/g/state", content=data).status_code == 204
    for id in ("f", "g"):
        answer = http.post("/v2/models/memory/infer", json=body(ONE, sequence_id=id)).json()
        assert (answer["model_version"], outputs(answer)["h"]) == ("1", [[1.5, 3]])
    assert http.post(f"{path}/f/reset").status_code == 204
    assert step(http, ONE, sequence_id="f")["h"] == ONE
    assert http.delete(f"{path}/f").status_code == http.delete(f"{path}/g").status_code == 204
    for method, what in (("GET", "f/state"), ("POST", "f/reset"), ("DELETE", "f")):
        assert "'f' of model 'memory' is unknown" in refused(
            http.request(method, f"{path}/{what}"), 404
        )


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 400, "the state is not safetensors"),
        (safetensors.torch.save({}), 400, "the state: expected 'h', got none"),
        (safetensors.torch.save({"x": torch.ones(1, 2)}), 400, "expected 'h', got 'x'"),
        (safetensors.torch.save({"h": torch.ones(1, 3)}), 400, "input 'h': expected float32"),
        (
            safetensors.torch.save({"h": torch.ones(1, 2)}, {"version": "3"}),
            404,
            "version '3' is unknown",
        ),
    ],
)
def test_a_state_that_does_not_fit_is_refused(
    http: httpx.Client, content: bytes, status: int, message: str
) -> None:
    before = live(http)
    answer = http.put("/v2/models/memory/sequences/h/state", content=content)
    assert message in refused(answer, status)
    assert live(http) == before


def alone(path: Path, steps: int, seed: int) -> tuple[list[Rows], list[Flat]]:
    """Return the inputs of a sequence, and what the model alone makes of them."""
    generator = torch.Generator().manual_seed(seed)
    program = open_archive(path).program()
    xs = torch.randn((steps, 1, 2), generator=generator)
    made: list[Flat] = []
    for x in xs:
        state = {"h": made[-1]["h"]} if made else {}
        made.append({k: v.clone() for k, v in program.call("forward", {"x": x, **state}).items()})
    return xs.tolist(), made


class Link:
    """A connection that stays open; leaner than http.client, whose time the server would miss."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address, 60)
        self._answers = self._socket.makefile("rb")

    def step(self, body: bytes) -> dict[str, Rows]:
        head = f"POST /v2/models/memory/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}"
        self._socket.sendall(head.encode() + b"\r\n\r\n" + body)
        status = self._answers.readline()
        headers = dict(line.split(b": ", 1) for line in iter(self._answers.readline, b"\r\n"))
        content = json.loads(self._answers.read(int(headers[b"content-length"])))
        assert status.split()[1] == b"200", content
        return outputs(content)

    def close(self) -> None:
        self._answers.close()
        self._socket.close()


def interleave(
    process: Process, path: Path, connections: int, steps: int
) -> Iterator[tuple[Flat, Flat]]:
    """Step 64 sequences, at random and each in order; yield what came and what each gives alone.

    `steps` are those that each of the connections makes.
    """
    total = connections * steps
    sequences = [alone(path, 2 * total // 64, seed) for seed in range(64)]
    done = [0] * 64
    pick = random.Random(4)
    free = list(range(64))
    lock = threading.Lock()

    def work(_: int) -> list[tuple[Flat, Flat]]:
        found = []
        link = Link(process.address)
        for _ in range(steps):
            with lock:
                number = free.pop(pick.randrange(len(free)))
            at = done[number]
            xs, expected = sequences[number]
            parameters: dict[str, Any] = {"sequence_id": f"n{number}", "sequence_start": at == 0}
            got = link.step(json.dumps(body(xs[at], **parameters)).encode())
            found.append(({name: torch.tensor(rows) for name, rows in got.items()}, expected[at]))
            done[number] = at + 1
            if at + 1 < len(xs):
                with lock:
                    free.append(number)
        link.close()
        return found

    with ThreadPoolExecutor(connections) as pool:
        for part in pool.map(work, range(connections)):
            yield from part
    assert sum(done) == total
    assert min(done) > 3


def test_64_sequences_over_8_connections_give_what_each_gives_alone(
    stateful: Process, archives: dict[str, Path]
) -> None:
    for got, expected in interleave(stateful, archives["memory"], 8, 1000):
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1.3e-6)
    found = httpx.get(f"{stateful.url}/v2/models/memory/stats", trust_env=False).json()
    newest = found["model_stats"][0]
    assert newest["inference_count"] > newest["execution_count"], "nothing ran as one batch"


def test_64_sequences_over_1_connection_are_bit_identical(
    stateful: Process, archives: dict[str, Path]
) -> None:
    # One at a time, each batch is the one row that the sequence has alone.
    for got, expected in interleave(stateful, archives["memory"], 1, 1000):
        assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_one_more_than_the_most_is_refused(http: httpx.Client) -> None:
    opened: list[str] = []
    answer = httpx.Response(200)
    while answer.status_code == 200:
        opened.append(f"most-{len(opened)}")
        request = body(ONE, sequence_id=opened[-1], sequence_start=True)
        answer = http.post("/v2/models/memory/infer", json=request)
    assert "too many sequences: the server holds at most 100" in refused(answer, 429)
    assert http.get("/v2/sequences").json() == {"live": 100, "most": 100}
    for id in opened[:-1]:
        assert http.delete(f"/v2/models/memory/sequences/{id}").status_code == 204
    assert live(http) == 100 - len(opened[:-1])


def test_10000_sequences_abandoned_give_their_memory_back(
    store: str, archives: dict[str, Path], launch: Launch
) -> None:
    rows = np.ones((1024, 2), np.float32)
    head: dict[str, object] = {"name": "x", "datatype": "FP32", "shape": [1024, 2]}
    head["parameters"] = {"binary_data_size": rows.nbytes}

    def open_many(http: HTTPConnection, ids: range) -> None:
        for id in ids:
            said = {"sequence_id": id, "sequence_start": True, "binary_data_output": True}
            text = json.dumps({"inputs": [head], "parameters": said}).encode()
            headers = {"Inference-Header-Content-Length": str(len(text))}
            http.request("POST", "/v2/models/memory/infer", text + rows.tobytes(), headers)
            answer = http.getresponse()
            assert (answer.status, len(answer.read()) > 0) == (200, True)

    state = store if store == "memory" else f"{store}?db=1"
    settings = environment(state=state, sequence_idle_seconds=0.2, max_batch=1024)
    with launch(archives["memory"], environment=settings) as process, ExitStack() as stack:
        assert process.line().startswith("ready: ")
        http = stack.enter_context(httpx.Client(base_url=process.url, trust_env=False, timeout=60))
        own: Any = process.worker()
        links = [HTTPConnection(*process.address) for _ in range(4)]
        for link in links:
            stack.callback(link.close)

        def abandon(first: int, end: int) -> int:
            """Open some over all connections; return the process's bytes when all have expired."""
            with ThreadPoolExecutor(4) as pool:
                shares = [range(first + n, end + 1, 4) for n in range(4)]
                list(pool.map(open_many, links, shares))
            while live(http) > 0:
                pass
            size: int = own.memory_info().rss
            return size

        before = abandon(1, 1000)
        after = abandon(1001, 10000)
        # Their states were 70 MiB.
        assert after - before < 20 << 20
        gone = refuses(http, 410, ONE, sequence_id=10000)
        assert "sequence '10000' of model 'memory' has expired" in gone


def test_a_sequence_goes_on_at_any_server_that_shares_its_redis(
    redis_url: str, archives: dict[str, Path], launch: Launch
) -> None:
    settings = environment(state=f"{redis_url}?db=2")
    with (
        launch(archives["memory"], environment=settings) as one,
        launch(archives["memory"], environment=settings) as other,
        httpx.Client(trust_env=False, timeout=60) as http,
    ):
        h = 0.0
        for process in (one, other):
            assert process.line().startswith("ready: ")
        for number, process in enumerate((one, other, other, one, other)):
            request = body([[1, 1]], sequence_id="s", sequence_start=number == 0)
            answer = http.post(f"{process.url}/v2/models/memory/infer", json=request)
            h = h * 0.5 + 1
            assert outputs(answer.json())["h"] == [[h, h]]
        for process in (one, other):
            assert http.get(f"{process.url}/v2/sequences").json()["live"] == 1
        ended = http.delete(f"{other.url}/v2/models/memory/sequences/s")
        assert ended.status_code == 204
        request = body([[1, 1]], sequence_id="s")
        refused(http.post(f"{one.url}/v2/models/memory/infer", json=request), 404)


class Models(Repository):
    """A repository from which a version can go."""

    def __init__(self, *files: Path, loader: Loader | None = None) -> None:
        super().__init__(files, load_program=(loader or Loader()).load)
        self.gone: set[str] = set()

    def find(self, name: str, version: str | None = None) -> Engine:
        if version in self.gone:
            raise UnknownModelError(f"model '{name}' version '{version}' is unknown")
        return super().find(name, version)


Use = Callable[[Models, Sequences], Awaitable[None]]


def use(
    use_them: Use,
    *files: Path,
    loader: Loader | None = None,
    store: MemoryStore | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    async def run() -> None:
        models = Models(*files, loader=loader)
        await models.load()
        sequences = Sequences(models, store or MemoryStore(60, 100), clock=clock)
        try:
            await use_them(models, sequences)
        finally:
            await sequences.close()
            models.release()

    asyncio.run(run())


def asked(id: object, value: float = 1, **said: object) -> InferRequest:
    x = torch.full((1, 2), float(value))
    return InferRequest({"x": x}, parameters={"sequence_id": id, **said})


def test_a_sequence_ends_with_its_version(make_archive: Callable[..., Path]) -> None:
    async def check(models: Models, sequences: Sequences) -> None:
        await sequences.answer("memory", "1", asked("a", sequence_start=True))
        models.gone.add("1")
        with pytest.raises(LostSequenceError, match="it was on version '1', which is gone"):
            await sequences.answer("memory", None, asked("a"))
        with pytest.raises(UnknownSequenceError):
            await sequences.answer("memory", None, asked("a"))
        assert await sequences.live() == 0

    use(check, make_archive("memory"), make_archive("memory", version="2"))


def test_steps_of_different_sequences_run_as_one_batch(archives: dict[str, Path]) -> None:
    rows: list[int] = []
    busy, all_came = threading.Event(), threading.Event()
    loader, store = Loader(), MemoryStore(60, 100)

    def watched(run: Run, method: str, inputs: Mapping[str, torch.Tensor]) -> Flat:
        rows.append(len(inputs["x"]))
        if not busy.is_set():  # or the engine's thread would begin with the first that come
            busy.set()
            all_came.wait()
        return run()

    async def check(models: Models, sequences: Sequences) -> None:
        loader.around = watched
        one = {"x": torch.zeros(1, 2), "h": torch.zeros(1, 2)}
        for before, ids in ((0, range(1, 5)), (4, range(1, 9))):  # first steps among later ones
            busy.clear()
            all_came.clear()
            first = asyncio.ensure_future(call_engine(models.find("memory"), "forward", one))
            await asyncio.to_thread(busy.wait)
            steps = [
                asyncio.ensure_future(
                    sequences.answer("memory", None, asked(n, n, sequence_start=n > before))
                )
                for n in ids
            ]
            await asyncio.sleep(0)  # each has come as far as the engine's queue
            all_came.set()
            await first
            contents = await asyncio.gather(*steps)
        assert rows == [1, 4, 1, 8]
        for n, (content, _) in enumerate(contents, 1):
            h = n * (1.5 if n <= 4 else 1)
            assert outputs(json.loads(content))["h"] == [[h, h]]
        # What is kept is each sequence's own row, not the batch in which it was.
        for n in range(1, 9):
            async with store.turn(SequenceKey("memory", str(n)), opening=False) as turn:
                assert turn.state is not None
                assert turn.state.tensors["h"].untyped_storage().nbytes() == 8

    use(check, archives["memory"], loader=loader, store=store)


def test_requests_of_one_sequence_run_in_the_order_they_came(archives: dict[str, Path]) -> None:
    async def check(models: Models, sequences: Sequences) -> None:
        values = [1.0, 5, 3, 8, 2]
        answers = [
            sequences.answer("memory", None, asked("a", value, sequence_start=number == 0))
            for number, value in enumerate(values)
        ]
        h = 0.0
        for value, (content, _) in zip(values, await asyncio.gather(*answers), strict=True):
            h = h * 0.5 + value
            assert outputs(json.loads(content))["h"] == [[h, h]]

    use(check, archives["memory"])


def test_the_timeout_includes_the_wait_for_a_turn(archives: dict[str, Path]) -> None:
    readings = iter([0.0, 11.0])  # as a request comes, and as its turn comes

    async def check(models: Models, sequences: Sequences) -> None:
        request = asked("a", sequence_start=True, timeout=10_000_000)
        with pytest.raises(DeadlineError):
            await sequences.answer("memory", None, request)
        assert await sequences.live() == 0

    use(check, archives["memory"], clock=lambda: next(readings))


def test_a_record_holds_where_and_when_a_step_ran(archives: dict[str, Path]) -> None:
    async def check(models: Models, sequences: Sequences) -> None:
        record = Record()
        await sequences.answer("memory", None, asked("a", sequence_start=True), None, record)
        assert (record.model, record.version) == ("memory", "1")
        assert record.inference_finished > 0

    use(check, archives["memory"])


def test_the_settings_choose_the_store() -> None:
    assert isinstance(open_store(Settings()), MemoryStore)
    assert isinstance(open_store(Settings(state="redis://127.0.0.1:1/0")), RedisStore)
    with pytest.raises(ValidationError):
        Settings(state="mysql://127.0.0.1")


def test_a_server_without_a_store_says_so(archives: dict[str, Path], launch: Launch) -> None:
    x = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
    with launch("--state", "none", archives["memory"]) as server:
        assert server.line() == "ready: memory/1"
        url = f"{server.url}/v2/models/memory/infer"
        parameters = {"sequence_id": "a", "sequence_start": True}
        asked = {"inputs": [x], "parameters": parameters}
        answer = httpx.post(url, json=asked, trust_env=False)
        assert answer.status_code == 400
        assert answer.json()["error"].startswith(
            "sequence 'a' of model 'memory': this server keeps no sequences"
        )
        assert httpx.post(url, json={"inputs": [x]}, trust_env=False).status_code == 200


def test_only_a_model_with_state_needs_a_single_worker(archives: dict[str, Path]) -> None:
    needing = {
        n for n, p in archives.items() if needs_single_worker(open_archive(p).require_manifest())
    }
    assert needing == {"memory"}
