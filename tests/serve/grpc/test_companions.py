"""Calls that come one at a time share batches: a batch waits for those that are under way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import grpc
import numpy as np

from rpc import request
from served import make
from torchship.serve.engine.limits import Limits
from torchship.serve.grpc import inference_pb2 as pb
from torchship.serve.grpc.servicer import InferenceServicer
from torchship.serve.http.app import create_app
from torchship.serve.repository.repository import Repository
from torchship.serve.settings import Settings
from torchship.serve.telemetry.metrics import Metrics
from torchship.serve.telemetry.records import Observer

ROUNDS = 100  # in one of which both calls come in the millisecond for which a batch waits
TURNS = 50  # of the event loop: enough for a call that waits for nobody to be answered


class Context:
    """A call whose client has sent nothing but its message."""

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        return None

    def peer(self) -> str:
        return "ipv4:127.0.0.1:4711"

    def time_remaining(self) -> float | None:
        return None

    def set_trailing_metadata(self, metadata: tuple[tuple[str, str], ...], /) -> None:
        raise AssertionError(metadata)

    async def abort(self, code: grpc.StatusCode, details: str, /) -> NoReturn:
        raise AssertionError(details)


async def _batches(path: Path, together: bool) -> list[int]:
    """The requests of each batch while a call begins whose predecessors came two at a time."""
    sizes: list[int] = []

    def observer(name: str, version: str) -> Observer:
        return lambda report: sizes.append(report.requests)

    on_the_event_loop = Limits(inline_threshold_seconds=60)
    repository = Repository([path], limits=on_the_event_loop, observer=observer)
    await repository.load()
    app, metrics, settings = create_app(repository), Metrics(), Settings()
    servicer = InferenceServicer(
        *(repository, app.state.sequences, settings, metrics, app.front.accounting),
        keys=None,
        memory=app.body_memory,
        who_asks=app.proxies.client,
    )
    message = request("memory", x=np.ones((1, 2), np.float32))

    def call() -> asyncio.Task[pb.ModelInferResponse]:
        return asyncio.ensure_future(servicer.ModelInfer(message, Context()))

    try:
        for _ in range(ROUNDS):
            if together:
                await asyncio.gather(call(), call())
            sizes.clear()
            first = call()
            for _ in range(TURNS):
                await asyncio.sleep(0)
            await asyncio.gather(first, call())
            if sizes == [2]:
                break
    finally:
        servicer.close()
        app.codec.close()
        await app.state.sequences.close()
        repository.release()
    assert repository.join(60)
    return sizes


def test_a_batch_waits_for_the_calls_that_come_with_it(tmp_path: Path) -> None:
    assert asyncio.run(_batches(make(tmp_path, "memory"), together=True)) == [2]


def test_a_batch_waits_for_nobody_where_calls_come_alone(tmp_path: Path) -> None:
    assert asyncio.run(_batches(make(tmp_path, "memory"), together=False)) == [1, 1]
