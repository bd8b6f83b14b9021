"""Deadlines, cancellation, keys and rates over gRPC."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from rpc import Connection, calling, outputs, refused, request, trailing
from served import launched, make
from torchship.serve.grpc import inference_pb2 as pb

ALICE, BOB = "alice-knows-this-key", "bob-knows-another-key"
TRIED = 200_000  # rounds of `held`
HELD_SECONDS = 4


def held(rounds: float) -> pb.ModelInferRequest:
    return request("held", x=np.array([[rounds]], np.float32))


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    archive = make(tmp_path_factory.mktemp("held"), "held")
    options = ("--grpc-port", 0, "--quick-us", 0, "--max-batch", 1, "--access-log", "all")
    with launched(*options, archive) as process:
        assert process.line() == "ready: held/1"
        yield process


@pytest.fixture(scope="module")
def long(busy: Any) -> int:
    """Return the rounds that hold the model for some seconds on this machine, as busy as it is."""
    with calling(busy) as connection:
        connection.infer(held(1))  # with all that a first call takes
        began = time.monotonic()
        connection.infer(held(TRIED))
        return int(TRIED * HELD_SECONDS / (time.monotonic() - began))


def rows_waiting(server: Any) -> int:
    text = httpx.get(f"{server.url}/metrics", trust_env=False, verify=False).text
    found = re.search(r'torchship_queue_rows\{model="held",version="1"\} (\d+)', text)
    return 0 if found is None else int(found[1])


def until_waiting(server: Any, rows: int) -> None:
    """Return once so many rows wait for the model."""
    end = time.monotonic() + 60
    while rows_waiting(server) != rows:
        assert time.monotonic() < end, f"{rows} rows never waited"


def occupy(server: Any, infer: Any, rounds: int) -> list[Any]:
    """Return calls of which the first is in the model, and the last waits behind it.

    Two calls may reach the model in either order, so there may be some that are answered already.
    """
    calls = [infer.future(held(rounds)), infer.future(held(1))]
    while rows_waiting(server) != 1:
        if calls[-1].done():
            calls.append(infer.future(held(1)))
    return calls


def ran(server: Any) -> int:
    """Return how many rows the model has run for requests."""
    stats = httpx.get(f"{server.url}/v2/models/held/stats", trust_env=False).json()
    return int(stats["model_stats"][0]["inference_count"])


def test_what_is_late_or_cancelled_while_it_waits_is_never_run(busy: Any, long: int) -> None:
    before = ran(busy)
    with calling(busy) as connection:
        infer: Any = connection.method("ModelInfer")
        calls = occupy(busy, infer, long)
        cancelled = infer.future(held(3))
        until_waiting(busy, 2)
        cancelled.cancel()
        late = infer.future(held(2), timeout=0.5)
        with pytest.raises(grpc.RpcError) as error:
            late.result()
        assert refused(error.value)[0] == "DEADLINE_EXCEEDED"
        assert outputs(calls[0].result())["y"] == np.float32(2 * np.float32(long)).tobytes()
        assert outputs(calls[-1].result())["y"] == np.float32(2).tobytes()
        assert outputs(connection.infer(held(4)))["y"] == np.float32(8).tobytes()
    assert ran(busy) - before == len(calls) + 1
    said = busy.stderr("status=499")
    assert "Traceback" not in said
    assert len(re.findall(r"status=(?:408|499) ", said)) == 2


def test_a_deadline_that_has_time_is_no_limit(busy: Any) -> None:
    with calling(busy) as connection:
        answer = connection.infer(held(5), timeout=60)
        assert outputs(answer)["y"] == np.float32(10).tobytes()


def test_a_client_that_leaves_its_stream_takes_what_waits_with_it(busy: Any, long: int) -> None:
    before = ran(busy)
    with calling(busy) as connection:
        infer: Any = connection.method("ModelInfer")
        calls = occupy(busy, infer, long)
        stream = connection.stream(iter([held(2)] * 3))
        until_waiting(busy, 4)
        stream.cancel()
        for call in calls:
            call.result()
        connection.infer(held(4))
    assert ran(busy) - before == len(calls) + 1


def test_the_timeout_parameter_is_a_deadline_too(busy: Any, long: int) -> None:
    with calling(busy) as connection:
        infer: Any = connection.method("ModelInfer")
        calls = occupy(busy, infer, long // 2)
        short = held(2)
        short.parameters["timeout"].int64_param = 1
        with pytest.raises(grpc.RpcError) as error:
            connection.infer(short, timeout=60)
        assert refused(error.value) == (
            "DEADLINE_EXCEEDED",
            "the request waited longer than its timeout",
        )
        for call in calls:
            call.result()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "keys").write_text(f"alice:{ALICE}\nbob:{BOB}:0.01\n")
    options = ("--grpc-port", 0, "--mode", "explicit", "--load", "memory")
    archive = make(folder, "memory")
    with launched(*options, "--api-keys", folder / "keys", archive.parent) as process:
        assert process.line() == "ready: memory/1"
        yield process


def key(value: str, name: str = "authorization") -> list[tuple[str, str]]:
    return [(name, f"Bearer {value}" if name == "authorization" else value)]


def memory(**parameters: Any) -> pb.ModelInferRequest:
    return request("memory", x=np.ones((1, 2), np.float32), parameters=parameters)


@pytest.fixture(scope="module")
def to_guarded(guarded: Any) -> Iterator[Connection]:
    with calling(guarded) as found:
        yield found


def test_every_method_but_health_asks_for_a_key(to_guarded: Connection) -> None:
    for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        if method.client_streaming:
            stream = to_guarded.stream(iter([memory()]))
            with pytest.raises(grpc.RpcError) as error:
                next(stream)
        elif method.name in ("ServerLive", "ServerReady"):
            to_guarded.raw(method.name, b"")
            continue
        else:
            with pytest.raises(grpc.RpcError) as error:
                to_guarded.raw(method.name, b"")
        assert refused(error.value) == (
            "UNAUTHENTICATED",
            "no API key: expected 'Authorization: Bearer KEY' or 'X-API-Key: KEY'",
        )


def test_keys_in_both_places_and_models_loaded_with_them(to_guarded: Connection) -> None:
    start = memory(sequence_id=1, sequence_start=True)
    assert to_guarded.infer(start, metadata=key(ALICE)).outputs
    assert to_guarded.infer(start, metadata=key(ALICE, "x-api-key")).outputs
    with pytest.raises(grpc.RpcError) as error:
        to_guarded.infer(start, metadata=key(ALICE[:-1]))
    assert refused(error.value) == ("UNAUTHENTICATED", "the API key is unknown")
    load = to_guarded.method("RepositoryModelLoad")
    done = load(pb.RepositoryModelLoadRequest(model_name="memory"), metadata=key(ALICE))
    assert (done.model_name, done.isLoaded) == ("memory", True)
    as_kserve = pb.RepositoryModelLoadRequest(repository_name="memory")  # its field 1
    assert load(as_kserve, metadata=key(ALICE)).isLoaded
    with pytest.raises(grpc.RpcError) as error:
        load(pb.RepositoryModelLoadRequest(model_name="no"), metadata=key(ALICE))
    assert refused(error.value)[0] == "NOT_FOUND"


def test_one_rate_over_both_protocols_and_over_messages(
    guarded: Any, to_guarded: Connection
) -> None:
    headers = {"Authorization": f"Bearer {BOB}"}
    assert httpx.get(f"{guarded.url}/v2", headers=headers, trust_env=False).status_code == 200
    with pytest.raises(grpc.RpcError) as error:
        to_guarded.infer(memory(), metadata=key(BOB))
    status, text = refused(error.value)
    assert (status, text) == (
        "RESOURCE_EXHAUSTED",
        "API key 'bob' may make 0.01 requests a second",
    )
    assert 90 < int(trailing(error.value)["retry-after"]) <= 100
    with pytest.raises(grpc.RpcError) as error:
        next(to_guarded.stream(iter([memory()]), metadata=key(BOB)))
    assert refused(error.value)[0] == "RESOURCE_EXHAUSTED"
