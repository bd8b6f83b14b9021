"""Archives on a Ray cluster of several nodes: `torchship ray deploy`, and what clients see of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from ports import held_port
from ray_cluster import RayCluster, running_cluster
from redis_server import running_redis
from served import make
from torchship.script.runtime.archive import open_archive
from torchship.serve.client.client import Client

triton: Any = import_module("tritonclient.http")  # it has no types

COUNT = "/v2/models/lasting/infer"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with held_port() as port:
        yield port


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in ("tiny", "exact", "lasting"):
        make(folder, name)
    return folder


@pytest.fixture(scope="module")
def cluster(models: Path, port: int) -> Iterator[RayCluster]:
    """A cluster on which `models` run in two replicas, one on each node."""
    with running_redis() as redis, running_cluster() as cluster:
        done = cluster.deploy(
            *(models, "--port", port, "--replicas", 2, "--num-cpus", 1.5, "--redis", redis)
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
