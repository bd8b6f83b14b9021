"""Archives on a Ray cluster of several nodes, and what clients see of them."""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from tritonclient.utils import InferenceServerException

from ports import held_port
from ray_cluster import RayCluster, running_cluster
from redis_server import running_redis
from served import MODELS, make, write
from torchship.script.runtime.archive import open_archive
from torchship.serve.client.client import Client

triton: Any = import_module("tritonclient.http")  # they have no types
grpc_triton: Any = import_module("tritonclient.grpc")

COUNT = "/v2/models/lasting/infer"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with held_port() as port:
        yield port


@pytest.fixture(scope="module")
def grpc_port() -> Iterator[int]:
    with held_port() as port:
        yield port


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in ("tiny", "exact", "lasting"):
        make(folder, name)
    return folder


@pytest.fixture(scope="module")
def cluster(models: Path, port: int, grpc_port: int) -> Iterator[RayCluster]:
    """A cluster on which `models` run in two replicas, one on each node."""
    with running_redis() as redis, running_cluster() as cluster:
        done = cluster.deploy(
            *(models, "--port", port, "--grpc-port", grpc_port, "--redis", redis),
            *("--replicas", 2, "--num-cpus", 1.5, "--sequence-idle-seconds", 600),
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == (
            f"torchship: exact, lasting, tiny\nreplicas: 2\nurl: http://127.0.0.1:{port}/\n"
        )
        assert len(set(cluster.replicas("torchship").values())) == 2
        yield cluster


@pytest.fixture
def http(cluster: RayCluster, port: int) -> Iterator[httpx.Client]:
    url = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        yield client


def step(http: httpx.Client, id: str, start: bool = False) -> httpx.Response:
    """Take a step of a sequence of `lasting`, which counts its steps."""
    rounds = {"name": "rounds", "datatype": "INT64", "shape": [1], "data": [1]}
    said = {"sequence_id": id, "sequence_start": start}
    return http.post(COUNT, json={"inputs": [rounds], "parameters": said})


class Load:
    """The steps of one sequence, one after another, and what is wrong with the answers."""

    def __init__(self) -> None:
        self.steps = 0
        """How many steps were answered with 200."""
        self.failed: list[str] = []
        self.wrong: list[str] = []
        self._changed = threading.Condition()

    def run(self, http: httpx.Client, id: str, stop: threading.Event) -> None:
        """Take steps until `stop`.

        A step that fails may have been made or not: the next count is larger by one for each.
        """
        at = unknown = 0
        while not stop.is_set():
            answer = step(http, id, start=at == 0)
            if answer.status_code != 200:
                self.failed.append(answer.text)
                unknown += 1 if at else 0
                continue
            found = count_in(answer)
            if not at + 1 <= found <= at + 1 + unknown:
                self.wrong.append(f"{found} after {at} and {unknown} without an answer")
            at, unknown = found, 0
            with self._changed:
                self.steps += 1
                self._changed.notify_all()

    def wait_for(self, steps: int) -> None:
        """Wait until so many steps were answered."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.steps >= steps, 60), self.failed[-1:]


@contextmanager
def counting(http: httpx.Client, id: str) -> Iterator[Load]:
    """Take steps of a sequence in a thread for the length of a `with` block."""
    load, stop = Load(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(load.run, http, id, stop)
        try:
            yield load
        finally:
            stop.set()
        running.result()


def count_in(answer: httpx.Response) -> int:
    assert answer.status_code == 200, answer.text
    return int(answer.json()["outputs"][0]["data"][0])


def test_both_replicas_give_the_golden_outputs(
    cluster: RayCluster, models: Path, http: httpx.Client
) -> None:
    with Client(str(http.base_url)) as client:
        for file in sorted(models.glob("*.pt")):
            archive = open_archive(file)
            manifest = archive.require_manifest()
            for case in archive.golden:
                for golden in case.steps:
                    if manifest.name == "lasting":
                        continue
                    for binary in (True, False) * 2:
                        signature = manifest.methods[case.method]
                        found = client.infer(
                            manifest.name, signature, golden.inputs, case.method, binary
                        )
                        assert found.keys() == golden.outputs.keys()
                        for name, value in golden.outputs.items():
                            assert torch.equal(found[name], value), name


def test_a_client_of_triton(http: httpx.Client, models: Path) -> None:
    with triton.InferenceServerClient(f"{http.base_url.host}:{http.base_url.port}") as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("tiny", "1")
        assert client.get_model_metadata("exact")["name"] == "exact"
        assert [e["name"] for e in client.get_model_repository_index()] == [
            *("exact", "lasting", "tiny")
        ]
        obs = np.arange(510, dtype=np.uint8).reshape(1, 510)
        given = triton.InferInput("obs", [1, 510], "UINT8")
        given.set_data_from_numpy(obs)
        found = client.infer("tiny", [given]).as_numpy("logits")
    golden = (
        open_archive(models / "tiny-1.pt").program().call("forward", {"obs": torch.tensor(obs)})
    )
    assert np.array_equal(found, golden["logits"].numpy())


def test_grpc_through_the_proxy(cluster: RayCluster, grpc_port: int, models: Path) -> None:
    with grpc_triton.InferenceServerClient(f"127.0.0.1:{grpc_port}") as client:
        assert client.is_server_ready()
        assert client.is_model_ready("tiny", "1")
        assert client.get_model_metadata("exact").name == "exact"
        obs = np.arange(2 * 510, dtype=np.uint8).reshape(2, 510)
        given = grpc_triton.InferInput("obs", [2, 510], "UINT8")
        given.set_data_from_numpy(obs)
        found = client.infer("tiny", [given]).as_numpy("logits")
        program = open_archive(models / "tiny-1.pt").program()
        assert np.array_equal(found, program.call("forward", {"obs": torch.tensor(obs)})["logits"])
        with pytest.raises(InferenceServerException, match="model 'none' is unknown") as raised:
            client.infer("none", [given])
        status: Any = raised.value
        assert status.status() == "StatusCode.NOT_FOUND"


def test_a_stream_of_grpc_is_a_sequence_on_any_replica(cluster: RayCluster, grpc_port: int) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    given = grpc_triton.InferInput("rounds", [1], "INT64")
    given.set_data_from_numpy(np.ones(1, np.int64))
    for connection in range(2):
        with grpc_triton.InferenceServerClient(f"127.0.0.1:{grpc_port}") as client:
            client.start_stream(callback=lambda result, error: answers.put((result, error)))
            for number in range(3):
                begins = connection == number == 0
                client.async_stream_infer("lasting", [given], sequence_id=77, sequence_start=begins)
            client.stop_stream()
    found = []
    for _ in range(6):
        result, error = answers.get(timeout=60)
        assert error is None
        found.append(int(result.as_numpy("h")[0]))
    assert found == [1, 2, 3, 4, 5, 6]


def test_errors_are_those_of_the_server(http: httpx.Client) -> None:
    answer = http.post("/v2/models/tiny/infer", content=b"{")
    assert answer.status_code == 400
    assert len(answer.headers.get_list("x-request-id")) == 1
    assert http.get("/v2/models/none").status_code == 404
    assert http.post("/v2/repository/models/tiny/unload").status_code == 400
    assert http.post("/v2/models/tiny/infer", content=b"0" * (65 << 20)).status_code == 413
    assert http.get("/none").status_code == 404


def test_steps_of_a_sequence_go_to_any_replica(http: httpx.Client) -> None:
    found = [count_in(step(http, "s", number == 0)) for number in range(12)]
    assert found == list(range(1, 13))


def test_an_archive_that_fails_changes_nothing(
    cluster: RayCluster, http: httpx.Client, tmp_path: Path
) -> None:
    make(tmp_path, "tiny", "2", edit=lambda out: {name: value + 1 for name, value in out.items()})
    before = cluster.replicas("torchship")
    assert count_in(step(http, "before", start=True)) == 1
    done = cluster.deploy(tmp_path, "--replicas", 2, "--num-cpus", 0.1)
    assert done.returncode == 3, done.stdout
    assert re.fullmatch(r"torchship: error: 'tiny-2\.pt': .*logits.*\n", done.stderr), done.stderr
    assert cluster.replicas("torchship") == before
    assert cluster.do("status torchship")["status"] == "RUNNING"
    assert http.get("/v2/models/tiny").json()["versions"] == ["1"]
    assert count_in(step(http, "before")) == 2


def test_an_application_that_fails_at_first_leaves_nothing(
    cluster: RayCluster, tmp_path: Path
) -> None:
    make(tmp_path, "tiny", edit=lambda out: {name: value + 1 for name, value in out.items()})
    done = cluster.deploy(tmp_path, "--route-prefix", "/new", "--num-cpus", 0.1, name="new")
    assert done.returncode == 3, done.stdout
    assert cluster.do("status new")["status"] is None


def test_the_ports_of_a_serve_that_runs_are_not_changed(
    cluster: RayCluster, models: Path, port: int
) -> None:
    done = cluster.deploy(models, "--port", port + 1, name="wrong")
    assert done.returncode == 2, done.stderr
    message = "its ports stay as they are: leave --host, --port and --grpc-port out"
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_node_that_is_killed_under_load(cluster: RayCluster, http: httpx.Client) -> None:
    """No 200 is wrong, and no step that was answered is lost."""
    replicas = cluster.replicas("torchship")
    ids = [f"killed{number}" for number in range(4)]
    with ExitStack() as stack:
        loads = [stack.enter_context(counting(http, id)) for id in ids]
        for load in loads:
            load.wait_for(3)
        assert cluster.do(f"kill {next(iter(replicas.values()))}") == {}
        for load in loads:
            load.wait_for(load.steps + 20)
        cluster.do("add")
        cluster.wait("torchship", lambda found: len(found) == 2)
        for load in loads:
            load.wait_for(load.steps + 5)
    for load in loads:
        assert load.wrong == []
        assert load.steps > 25


def test_serve_run_builds_the_same(cluster: RayCluster, http: httpx.Client, tmp_path: Path) -> None:
    path = make(tmp_path, "exact", "7")
    options = ("--name", "built", "--route-prefix", "/built", "torchship.ray:build_app")
    done = cluster.serve_run(*options, f"models={path}", "num_cpus=0.1", "max_batch=8")
    assert done.returncode == 0, done.stderr
    path.unlink()  # it was sent along
    assert http.get("/built/v2/models/exact").json()["versions"] == ["7"]


def test_few_replicas_serve_many_archives(
    cluster: RayCluster, http: httpx.Client, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("client:the-key-of-a-client\n")
    names = [f"many{number}" for number in range(6)]
    for name in names:
        write(tmp_path / f"{name}.pt", MODELS["logarithm"](), name)
    done = cluster.deploy(
        *(tmp_path, "--route-prefix", "/many", "--num-cpus", 0.2),
        *("--replicas", 2, "--max-models", 3, "--api-keys", keys),
        name="many",
    )
    assert done.returncode == 0, done.stderr
    x = {"name": "x", "datatype": "FP32", "shape": [2], "data": [1.0, 2.0]}
    answer = http.post("/many/v2/models/many5/infer", json={"inputs": [x]})
    assert answer.status_code == 401, answer.text
    http.headers["X-API-Key"] = "the-key-of-a-client"
    for _ in range(3):
        for name in names:
            answer = http.post(f"/many/v2/models/{name}/infer", json={"inputs": [x]})
            assert answer.status_code == 200, answer.text
            found = answer.json()["outputs"][0]["data"]
            assert found == pytest.approx([0.0, np.log(2)])
    for name in names:  # the one replica that is asked for a model has answered all for it
        stats = http.get(f"/many/v2/models/{name}/stats").json()["model_stats"][0]
        assert stats["inference_count"] == 3
    answer = http.post("/many/v2/repository/models/many0/load")
    assert answer.status_code == 400
    assert "loaded when it is asked for" in answer.json()["error"]
    assert http.get("/many/v2/models/none").status_code == 404


def test_replicas_start_when_rows_wait_and_end_when_none_do(
    cluster: RayCluster, http: httpx.Client, tmp_path: Path
) -> None:
    make(tmp_path, "slow")
    done = cluster.deploy(
        *(tmp_path, "--route-prefix", "/slow", "--num-cpus", 0.1, "--max-replicas", 2),
        *("--target-rows", 4, "--upscale-seconds", 0.5, "--downscale-seconds", 1),
        name="slow",
    )
    assert done.returncode == 0, done.stderr
    assert len(cluster.replicas("slow")) == 1
    rounds = {"name": "rounds", "datatype": "INT64", "shape": [1], "data": [20_000]}
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            answer = http.post("/slow/v2/models/slow/infer", json={"inputs": [rounds]})
            assert answer.status_code == 200, answer.text

    with ThreadPoolExecutor(16) as pool:
        asking = [pool.submit(ask) for _ in range(16)]
        try:
            cluster.wait("slow", lambda found: len(found) == 2)
        finally:
            stop.set()
        for asked in asking:
            asked.result()
    cluster.wait("slow", lambda found: len(found) == 1)
