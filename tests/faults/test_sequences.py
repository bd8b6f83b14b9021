"""Cases that could make a sequence's state wrong: changed archives, retries, unusual ids."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from websockets.sync.client import connect

import served
from redis_server import running_redis
from torchship.script.format.golden import Case, Step
from torchship.script.format.manifest import State
from torchship.script.format.nodes import TupleNode
from torchship.script.runtime.archive import open_archive

Launch = Callable[..., AbstractContextManager[Any]]

PATH = "/v2/models/memory/sequences"
X = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 1.0]}


class Quarter(nn.Module):
    """The model `memory` with other weights: x, h: float32[batch,2] -> y, h."""

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = h * 0.25 + x
        return h.tanh(), h


class Wider(nn.Module):
    """The model `memory` with a larger state: x: float32[batch,2], h: float32[batch,3] -> y, h."""

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = h * 0.5 + x.sum(1, keepdim=True)
        return x.tanh(), h


def _model(module: nn.Module, size: int) -> Callable[[], served.Model]:
    x, h = ("float32", "batch", 2), ("float32", "batch", size)
    signature = served.method(
        [served.needs(served.tensor("x", *x)), served.needs(served.tensor("h", *h))],
        TupleNode(items=(served.tensor("y", *x), served.tensor("h", *h))),
        [State(input="h", output="h", start="zeros")],
    )
    step = Step({"x": torch.ones(2, 2)})
    return lambda: served.Model(
        module, {"forward": signature}, [Case("a step", "forward", (step,))]
    )


class Host:
    """A server in explicit mode, and the file of its one model."""

    def __init__(self, folder: Path, launch: Launch, state: str) -> None:
        self.file = served.make(folder, "memory", file="memory.pt")
        self.first = self.file.read_bytes()
        self.others = {}
        with pytest.MonkeyPatch.context() as patch:
            for name, model in ("weights", _model(Quarter(), 2)), ("shape", _model(Wider(), 3)):
                patch.setitem(served.MODELS, "memory", model)
                self.others[name] = served.make(folder, "memory", file="other").read_bytes()
        (folder / "other").unlink()
        self._environment = {**os.environ, "TORCHSHIP_SERVE_STATE": state}
        self._launch = launch
        self.server: Any
        self.http: httpx.Client

    @contextmanager
    def running(self) -> Iterator["Host"]:
        said = ("--mode", "explicit", "--load", "memory", self.file.parent)
        with (
            self._launch(*said, environment=self._environment) as self.server,
            httpx.Client(base_url=self.server.url, trust_env=False, timeout=60) as self.http,
        ):
            assert self.server.line() == "ready: memory/1"
            yield self
            assert "Traceback" not in self.server.stderr()

    def replace(self, content: bytes) -> None:
        self.file.write_bytes(content)
        answer = self.http.post("/v2/repository/models/memory/load")
        assert answer.status_code == 200, answer.text

    def ask(self, id: object, **said: object) -> httpx.Response:
        request = {"inputs": [X], "parameters": {"sequence_id": id, **said}}
        return self.http.post("/v2/models/memory/infer", json=request)

    def step(self, id: object, **said: object) -> float:
        """Return what the state is after a step: 1, 1.5, 1.75, 1.875."""
        answer = self.ask(id, **said)
        assert answer.status_code == 200, answer.text
        return h(answer.json())


def h(answer: Any) -> float:
    assert "outputs" in answer, answer
    return float({output["name"]: output["data"] for output in answer["outputs"]}["h"][0])


def lost(answer: httpx.Response) -> None:
    assert answer.status_code == 410, answer.text
    assert "another archive" in answer.json()["error"]


@pytest.fixture(scope="module", params=["memory", "redis"])
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, launch: Launch
) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("models")
    if request.param == "memory":
        with Host(folder, launch, "memory").running() as host:
            yield host
    else:
        with running_redis() as url, Host(folder, launch, url).running() as host:
            yield host


@pytest.fixture
def host(running: Host) -> Host:
    running.replace(running.first)
    return running


# The archive is replaced under the same version.


@pytest.mark.parametrize("what", ["weights", "shape"])
def test_a_sequence_ends_with_the_archive_that_made_its_state(host: Host, what: str) -> None:
    for id in ("step", "reset", "end"):
        host.step(id, sequence_start=True)
    host.replace(host.others[what])
    lost(host.ask("step"))
    lost(host.http.post(f"{PATH}/reset/reset"))
    assert host.http.delete(f"{PATH}/end").status_code == 204
    for id in ("step", "reset", "end"):
        assert host.ask(id).status_code == 404
    first = 1 if what == "weights" else 2
    assert host.step("step", sequence_start=True) == first
    assert host.step("step") == first * (1.25 if what == "weights" else 1.5)


def test_a_sequence_goes_on_with_the_same_archive_loaded_again(host: Host) -> None:
    host.step("same", sequence_start=True)
    host.replace(host.first)
    assert host.step("same") == 1.5


def test_a_state_is_exported_and_imported_with_its_archives_digest(host: Host) -> None:
    host.step("from", sequence_start=True)
    data = host.http.get(f"{PATH}/from/state").content
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    digest = open_archive(host.file).digest
    assert metadata == {"version": "1", "method": "forward", "digest": digest}
    assert host.http.put(f"{PATH}/to/state", content=data).status_code == 204
    assert host.step("to") == 1.5
    host.replace(host.others["weights"])
    lost(host.http.put(f"{PATH}/to/state", content=data))
    lost(host.ask("to"))
    assert host.ask("to").status_code == 404
    made = safetensors.torch.save({"h": torch.ones(1, 2)})  # by hand: it is for what is served
    assert host.http.put(f"{PATH}/to/state", content=made).status_code == 204
    assert host.step("to") == 1.25


def test_a_stream_that_outlives_a_reload_restarts_only_on_request(host: Host) -> None:
    url = host.server.url.replace("http", "ws", 1) + "/v2/models/memory/stream"
    message = json.dumps({"inputs": [X]})
    with connect(url, proxy=None) as socket:
        socket.send(message)
        assert h(json.loads(socket.recv())) == 1
        host.replace(host.others["weights"])
        for _ in range(3):  # as a client that sends steps without waiting does
            socket.send(message)
        for _ in range(3):
            assert "another archive" in json.loads(socket.recv())["error"]
        socket.send(json.dumps({"inputs": [X], "parameters": {"sequence_start": True}}))
        assert h(json.loads(socket.recv())) == 1
        socket.send(message)
        assert h(json.loads(socket.recv())) == 1.25


def test_servers_of_different_archives_on_one_redis_share_no_sequence(
    tmp_path: Path, launch: Launch
) -> None:
    with running_redis() as url:
        hosts = []
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            hosts.append(Host(tmp_path / name, launch, url))
        one, other = hosts
        other.file.write_bytes(other.others["weights"])
        with one.running(), other.running():
            one.step("s", sequence_start=True)
            assert one.step("s") == 1.5
            lost(other.ask("s"))
            assert other.step("s", sequence_start=True) == 1
            assert other.step("s") == 1.25
            lost(one.ask("s"))


# A client sends a step again, since it had no answer.


def test_a_retry_with_the_same_key_is_the_same_step(host: Host) -> None:
    assert host.step("r", sequence_start=True, idempotency_key="a") == 1
    assert host.step("r", sequence_start=True, idempotency_key="a") == 1
    first = host.ask("r", idempotency_key="b")
    for _ in range(2):
        assert host.ask("r", idempotency_key="b").json() == first.json()
    assert h(first.json()) == 1.5
    assert host.step("r", idempotency_key="c") == 1.75
    assert host.step("r") == 1.875
    assert host.step("r", idempotency_key="c") == 1.9375  # of the last step only


def test_a_retry_after_a_reset_or_an_import_is_a_new_step(host: Host) -> None:
    host.step("r", sequence_start=True)
    host.step("r", idempotency_key="k")
    data = host.http.get(f"{PATH}/r/state").content
    assert set(safetensors.torch.load(data)) == {"h"}
    assert host.http.put(f"{PATH}/r/state", content=data).status_code == 204
    assert host.step("r", idempotency_key="k") == 1.75
    assert host.http.post(f"{PATH}/r/reset").status_code == 204
    assert host.step("r", idempotency_key="k") == 1


def test_requests_with_equal_ids_are_different_steps(host: Host) -> None:
    def ask(**said: object) -> float:
        request = {"id": "1", "inputs": [X], "parameters": {"sequence_id": "i", **said}}
        headers = {"X-Request-Id": "same"}
        answer = host.http.post("/v2/models/memory/infer", json=request, headers=headers)
        return h(answer.json())

    assert [ask(sequence_start=True), ask(), ask()] == [1, 1.5, 1.75]


@pytest.mark.parametrize("key", [1, True, None, "x" * 257])
def test_an_invalid_key_is_refused(host: Host, key: object) -> None:
    answer = host.ask("r", sequence_start=True, idempotency_key=key)
    assert answer.status_code == 400
    assert "'idempotency_key': expected a string of at most 256" in answer.json()["error"]


# Ids as clients choose them.

IDS = [
    "a/b",
    "/",
    "//",
    "a//b",
    "/a/",
    "a/state",
    "state",
    "reset",
    "a/reset",
    "a/state/state",
    "..",
    ".",
    "../a",
    "a b",
    "a%2Fb",
    "%",
    "%25",
    "100%",
    "a?b=c#d;e&f+g",
    "grüße/世界",
    "a\n",
    "\na/b\r\n",
    "a\\b",
    "\"'{}",
    "\x00",
    "🙂" * 64,
    "/" * 256,
    18446744073709551615,
]


@pytest.mark.parametrize("id", IDS)
def test_every_id_of_a_request_is_one_of_the_paths(host: Host, id: object) -> None:
    host.step("a", sequence_start=True)  # what shortened ids would reach
    host.step(id, sequence_start=True)
    paths = {quote(str(id), safe=""), quote(str(id), safe="/")}
    for path in (f"{PATH}/{name}" for name in paths):
        data = call(host, "GET", f"{path}/state", 200)
        assert safetensors.torch.load(data)["h"][0, 0] == 1
        host.step(id)
        call(host, "PUT", f"{path}/state", 204, data)
        assert host.step(id) == 1.5
        call(host, "POST", f"{path}/reset", 204)
        assert host.step(id) == 1
    call(host, "DELETE", path, 204)
    assert host.ask(id).status_code == 404
    assert host.step("a") == 1.5


def call(host: Host, verb: str, path: str, status: int, content: bytes = b"") -> bytes:
    """Ask with a path that nobody changes on the way, as HTTP clients do with dots."""
    with host.server.connect() as socket, socket.makefile("rb") as answers:
        head = f"{verb} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(content)}\r\n\r\n"
        socket.sendall(head.encode() + content)
        line = answers.readline()
        headers = dict(part.lower().split(b": ", 1) for part in iter(answers.readline, b"\r\n"))
        body: bytes = answers.read(int(headers.get(b"content-length", b"0")))
        assert int(line.split()[1]) == status, (line, body)
        return body
