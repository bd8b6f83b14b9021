"""Which replica a request of many archives goes to."""

from __future__ import annotations

import asyncio
import os
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve._private.common import StreamingHTTPRequest, gRPCRequest

from torchship.serve.grpc import inference_pb2 as pb
from torchship.serve.ray.autoscaling import QUEUE_ROWS, QueueDepth
from torchship.serve.ray.routing import ModelRouter, model_of


def http(path: str, root: str = "") -> bytes:
    """A request as the proxy sends it."""
    scope = {"type": "http", "path": path, "root_path": root, "headers": [(b"a", b"b")]}
    return pickle.dumps(StreamingHTTPRequest(scope, proxy_actor_name="proxy"))


@pytest.mark.parametrize(
    ("path", "root", "name"),
    [
        ("/v2/models/moba/infer", "", "moba"),
        ("/v2/models/moba/versions/2/infer", "", "moba"),
        ("/many/v2/models/moba", "/many", "moba"),
        ("/v2/models/stats", "", None),
        ("/v2/models/", "", None),
        ("/v2/health/ready", "", None),
        ("", "", None),
    ],
)
def test_the_path_of_a_request_names_the_model(path: str, root: str, name: str | None) -> None:
    assert model_of([http(path, root)], "__call__") == name


def test_the_message_of_a_call_names_the_model() -> None:
    def sent(message: bytes) -> list[object]:
        return [pickle.dumps(gRPCRequest(user_request_proto=message))]

    infer = pb.ModelInferRequest(model_name="moba", id="1").SerializeToString()
    assert model_of(sent(infer), "ModelInfer") == "moba"
    asked = pb.ModelMetadataRequest(name="moba").SerializeToString()
    assert model_of(sent(asked), "ModelMetadata") == "moba"
    assert model_of(sent(b""), "ServerLive") is None
    assert model_of(sent(b"\xff\xff"), "ModelInfer") is None
    assert model_of(sent(infer), "Another") is None


class Planted:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_no_other_class_is_made_of_a_request(tmp_path: Path) -> None:
    folder = tmp_path / "planted"
    assert model_of([pickle.dumps(Planted(folder))], "__call__") is None
    assert not folder.exists()
    others: list[object] = [b"", b"\x80", "text", None, pickle.dumps({"path": "/v2"})]
    assert model_of([], "__call__") is None
    for other in others:
        assert model_of([other], "__call__") is None


def order(router: Any, name: str, replicas: list[Any]) -> list[str]:
    request = SimpleNamespace(
        args=[http(f"/v2/models/{name}/infer")], metadata=SimpleNamespace(call_method="__call__")
    )
    chosen = asyncio.run(ModelRouter.choose_replicas(router, replicas, request))  # type: ignore[arg-type]
    assert all(len(rank) == 1 for rank in chosen)
    return [rank[0].replica_id.unique_id for rank in chosen]


def test_a_model_stays_with_its_replica_until_that_is_busy() -> None:
    lengths: dict[str, int] = {}
    replicas = [SimpleNamespace(replica_id=SimpleNamespace(unique_id=id)) for id in "abcd"]
    router = SimpleNamespace(
        _busy_requests=4, _length=lambda replica: lengths.get(replica.replica_id.unique_id, 0)
    )
    names = [f"model{number}" for number in range(40)]
    first = {name: order(router, name, replicas) for name in names}
    assert {ranked[0] for ranked in first.values()} == set("abcd")
    for name in names:
        assert order(router, name, replicas[::-1]) == first[name]
        lengths = {first[name][0]: 4}
        assert order(router, name, replicas) == first[name][1:]
        lengths = dict(zip("abcd", (7, 5, 6, 4), strict=True))
        assert order(router, name, replicas) == ["d", "b", "c", "a"]
        lengths = {}
        left = [r for r in replicas if r.replica_id.unique_id != first[name][3]]
        assert order(router, name, left) == first[name][:3]


@pytest.mark.parametrize(
    ("rows", "at_proxies", "in_flight", "wanted"),
    [
        ([], 0, 0, 1),
        ([4, 4], 0, 2, 2),
        ([5, 4], 0, 2, 3),
        ([0, 0], 9, 9, 3),
        ([0, 0], 0, 9, 3),
        ([1000], 0, 1, 250),
    ],
)
def test_replicas_by_the_depth_of_the_queues(
    rows: list[int], at_proxies: int, in_flight: int, wanted: int
) -> None:
    context: Any = SimpleNamespace(
        aggregated_metrics={QUEUE_ROWS: dict(enumerate(rows))} if rows else {},
        total_queued_requests=at_proxies,
        total_num_requests=in_flight,
    )
    assert QueueDepth(4)(context) == (wanted, {})
