"""Metrics as Prometheus and Triton's client read them, of one process and of two."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from engine_calls import call_engine
from torchship.serve.engine.limits import Limits
from torchship.serve.http.app import create_app
from torchship.serve.repository.repository import Repository
from torchship.serve.telemetry.metrics import Metrics
from torchship.serve.telemetry.records import BatchReport, Record
from torchship.serve.telemetry.samples import MetricFamily, expose

triton: Any = import_module("tritonclient.http")

ROW = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
LOGARITHM = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}


def samples(text: str) -> list[Sample]:
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def value(found: list[Sample], name: str, **labels: str) -> float:
    """The sum of what has these labels; 0 when nothing has."""
    return sum(s.value for s in found if s.name == name and labels.items() <= s.labels.items())


@asynccontextmanager
async def serving(
    *paths: Path, limits: Limits | None = None
) -> AsyncIterator[tuple[httpx.AsyncClient, Metrics]]:
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        repository = Repository(paths, limits=limits, observer=metrics.observer)
        stack.callback(repository.release)
        await repository.load()
        app = create_app(repository, metrics=metrics)
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x")
        yield await stack.enter_async_context(client), metrics


async def scrape(client: httpx.AsyncClient) -> list[Sample]:
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return samples(answer.text)


def test_requests_and_batches_are_counted(archives: dict[str, Path]) -> None:
    # Rows wait until the batch is full: eight requests of a row are one batch.
    limits = Limits(max_batch=8, delay_seconds=3600)

    async def check() -> None:
        async with serving(archives["memory"], limits=limits) as (client, _):
            body = {"inputs": [ROW]}
            answers = [client.post("/v2/models/memory/infer", json=body) for _ in range(8)]
            assert {a.status_code for a in await asyncio.gather(*answers)} == {200}
            assert (await client.get("/v2/models/memory")).status_code == 200
            found = await scrape(client)
        memory = {"model": "memory", "version": "1"}
        assert value(found, "torchship_requests_total", code="200", **memory) == 8
        assert value(found, "torchship_requests_total", **memory) == 8
        assert value(found, "torchship_requests_total", code="200", model="", version="") == 1
        assert value(found, "torchship_request_seconds_count", **memory) == 8
        assert value(found, "torchship_queue_seconds_count", **memory) == 8
        assert value(found, "torchship_batch_rows_sum", **memory) == 8
        assert value(found, "torchship_batch_rows_count", **memory) == 1
        assert value(found, "torchship_inference_seconds_count", **memory) == 1
        assert value(found, "torchship_executions_total", **memory) == 1
        assert value(found, "torchship_inference_seconds_sum", **memory) > 0
        assert value(found, "torchship_queue_rows", **memory) == 0

    asyncio.run(check())


def test_a_request_that_the_model_refuses_is_counted(archives: dict[str, Path]) -> None:
    async def check() -> None:
        async with serving(archives["logarithm"]) as (client, _):
            bad = {"inputs": [LOGARITHM | {"data": [101]}]}
            assert (await client.post("/v2/models/logarithm/infer", json=bad)).status_code == 400
            found = await scrape(client)
        logarithm = {"model": "logarithm", "version": "1"}
        assert value(found, "torchship_requests_total", code="400", **logarithm) == 1
        assert value(found, "torchship_batch_rows_count", **logarithm) == 1
        assert value(found, "torchship_executions_total", **logarithm) == 0

    asyncio.run(check())


async def seven() -> int:
    return 7


def test_states_are_read_when_they_are_asked_for(make_archive: Any) -> None:
    bad = make_archive("half", edit=lambda flat: {name: v + 1 for name, v in flat.items()})

    async def check() -> None:
        async with serving(make_archive("memory"), bad) as (client, metrics):
            found = await scrape(client)
            assert value(found, "torchship_models", state="verified") == 1
            assert value(found, "torchship_models", state="failed") == 1
            (failure,) = (s for s in found if s.name == "torchship_model_failure")
            assert (failure.labels["model"], failure.value) == ("half", 1)
            assert set(failure.labels) == {"model", "version"}  # a reason is no label: any text
            assert value(found, "torchship_live_sequences") == 0
            assert value(found, "torchship_resident_memory_bytes") > 1 << 20
            steps = [{"sequence_id": number, "sequence_start": True} for number in (1, 2)]
            for parameters in (*steps, {"sequence_id": 1, "sequence_end": True}):
                body = {"inputs": [ROW], "parameters": parameters}
                answer = await client.post("/v2/models/memory/infer", json=body)
                assert answer.status_code == 200
            assert value(await scrape(client), "torchship_live_sequences") == 1
            metrics.live_sequences = seven
            assert value(await scrape(client), "torchship_live_sequences") == 7

    asyncio.run(check())


def test_rows_that_wait_are_the_queues_depth(archives: dict[str, Path]) -> None:
    async def check() -> None:
        metrics = Metrics()
        repository = Repository([archives["memory"]], observer=metrics.observer)
        await repository.load()
        engine = repository.find("memory")
        body = {name: value.repeat(3, 1) for name, value in _row().items()}
        call = asyncio.ensure_future(call_engine(engine, "forward", body))
        # One turn of the event loop brings them into the queue; the next one wakes the engine.
        await asyncio.sleep(0)
        status = repository.status()
        await call
        families = await metrics.own(status)
        repository.release()
        found = samples(expose(families)[0].decode())
        assert value(found, "torchship_queue_rows", model="memory", version="1") == 3

    asyncio.run(check())


def _row() -> dict[str, Any]:
    import torch

    return {"x": torch.ones(1, 2), "h": torch.zeros(1, 2)}


def test_names_that_clients_make_up_are_no_labels(archives: dict[str, Path]) -> None:
    async def check() -> None:
        async with serving(archives["memory"]) as (client, _):
            for number in range(20):
                for path in (f"m{number}", f"memory/versions/{number + 2}"):
                    answer = await client.post(f"/v2/models/{path}/infer", json={"inputs": [ROW]})
                    assert answer.status_code == 404
                await client.get(f"/v2/nothing/{number}")
            found = await scrape(client)
        names = {(s.labels["model"], s.labels["version"]) for s in found if "model" in s.labels}
        assert names == {("memory", "1"), ("", "")}
        assert value(found, "torchship_requests_total", code="404", model="") == 60

    asyncio.run(check())


def test_sizes_that_clients_choose_are_no_labels(archives: dict[str, Path]) -> None:
    async def check() -> None:
        async with serving(archives["logarithm"]) as (client, _):
            for size in range(1, 20):
                body = {"inputs": [LOGARITHM | {"shape": [size], "data": [1] * size}]}
                await client.post("/v2/models/logarithm/infer", json=body)
            found = await scrape(client)
        sizes = {s.labels["batch_size"] for s in found if "batch_size" in s.labels}
        assert sizes == {"1"}
        assert value(found, "torchship_executions_total", model="logarithm") == 19

    asyncio.run(check())


def own(metrics: Metrics) -> list[MetricFamily]:
    return asyncio.run(metrics.own(Repository([]).status()))


def test_two_applications_in_one_process_count_for_themselves() -> None:
    first, second = Metrics(), Metrics()
    record = Record()
    record.status = 200
    first.model("", "").request(record, 0.5)
    assert value(samples(expose(own(first))[0].decode()), "torchship_requests_total") == 1
    assert value(samples(expose(own(second))[0].decode()), "torchship_requests_total") == 0


def test_open_metrics_are_sent_on_request() -> None:
    metrics = Metrics()
    metrics.observer("m", "1")(BatchReport("forward", 4, 2, [0.001, 0.002], 0.003, 0))
    text, content_type = expose(own(metrics), "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    families = open_families(text.decode())  # type: ignore[no-untyped-call]
    found = [sample for family in families for sample in family.samples]
    assert value(found, "torchship_queue_seconds_count", model="m") == 2
    assert value(found, "torchship_batch_rows_sum", model="m") == 4


def test_any_worker_answers_for_all(launch: Any, archives: dict[str, Path]) -> None:
    with launch("--workers", 2, archives["logarithm"]) as server:
        assert server.line() == "ready: logarithm/1"

        def ask(verb: str, path: str, **said: Any) -> httpx.Response:
            # On a new connection each time, which may come to any worker.
            return httpx.request(verb, server.url + path, trust_env=False, timeout=60, **said)

        for _ in range(12):
            answer = ask("POST", "/v2/models/logarithm/infer", json={"inputs": [LOGARITHM]})
            assert answer.status_code == 200
        for _ in range(6):
            found = samples(ask("GET", "/metrics").text)
            assert value(found, "torchship_requests_total", model="logarithm", code="200") == 12
            assert value(found, "torchship_batch_rows_sum", model="logarithm", version="1") == 12
            assert value(found, "torchship_models", state="verified") == 1
            memory = [s for s in found if s.name == "torchship_resident_memory_bytes"]
            assert len({s.labels["pid"] for s in memory}) == 2
            assert all(s.value > 1 << 20 for s in memory)
            (stats,) = ask("GET", "/v2/models/logarithm/stats").json()["model_stats"]
            assert stats["inference_stats"]["success"]["count"] == 12
            assert stats["execution_count"] == 12


def test_tritons_client_gets_statistics(server: Any) -> None:
    with (
        triton.InferenceServerClient(server.url.removeprefix("http://"), concurrency=8) as client,
        httpx.Client(base_url=server.url, trust_env=False, timeout=60) as http,
    ):
        x = triton.InferInput("x", [2, 2], "FP32")
        x.set_data_from_numpy(np.ones((2, 2), np.float32))
        pending = [client.async_infer("memory", [x]) for _ in range(12)]
        for request in pending:
            request.get_result()
        wrong = http.post("/v2/models/memory/infer", json={"inputs": [ROW | {"name": "q"}]})
        assert wrong.status_code == 400
        (stats,) = client.get_inference_statistics("memory")["model_stats"]
        assert client.get_inference_statistics("memory", "1")["model_stats"] == [stats]
        everything = client.get_inference_statistics()["model_stats"]
        assert http.get("/v2/models/nobody/stats").status_code == 404
        assert http.get("/v2/models/memory/versions/7/stats").status_code == 404
        versions = http.get("/v2/models/tiny/stats").json()["model_stats"]
    assert (stats["name"], stats["version"]) == ("memory", "1")
    assert stats in everything
    assert [entry["version"] for entry in versions] == ["10", "9", "1"]
    assert stats["inference_count"] == 24
    assert 1 <= stats["execution_count"] <= 12
    assert stats["last_inference"] > 1.6e12  # milliseconds since the epoch
    inference = stats["inference_stats"]
    assert list(inference) == [
        *("success", "fail", "queue", "compute_input", "compute_infer", "compute_output"),
        *("cache_hit", "cache_miss"),
    ]
    for name in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert (name, inference[name]["count"]) == (name, 12)
        assert inference[name]["ns"] > 0
    assert inference["fail"]["count"] == 1
    assert inference["cache_hit"] == inference["cache_miss"] == {"count": 0, "ns": 0}
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    assert sum(inference[part]["ns"] for part in parts) <= inference["success"]["ns"]
    batches = stats["batch_stats"]
    executions = [batch["compute_infer"]["count"] for batch in batches]
    assert sum(executions) == stats["execution_count"]
    sizes = [batch["batch_size"] for batch in batches]
    assert sum(s * n for s, n in zip(sizes, executions, strict=True)) == stats["inference_count"]
    assert all(batch["compute_infer"]["ns"] > 0 for batch in batches)
