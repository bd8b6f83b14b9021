"""Rows and bytes that one call takes."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine_calls import call_engine
from programs import Loader, Run
from torchship.script.format.tree import Flat
from torchship.script.runtime.archive import open_archive
from torchship.serve.engine.engine import Engine
from torchship.serve.engine.limits import Limits
from torchship.serve.protocol.tensors import RawTensor, pack

SIZES = st.integers(1, 10_000)


@given(st.integers(1, 100), SIZES, st.integers(1, 500), st.integers(0, 300))
def test_a_call_takes_no_more_rows_or_bytes_than_allowed_and_at_least_a_row(
    max_batch: int, max_bytes: int, rows: int, row_bytes: int
) -> None:
    limits = Limits(max_batch=max_batch, max_batch_bytes=max_bytes)
    most = limits.rows_in_call(rows, rows * row_bytes)
    assert 1 <= most <= max_batch
    assert most == 1 or most * row_bytes <= max_bytes
    assert most == max_batch or (most + 1) * row_bytes > max_bytes


def test_small_batches_make_no_small_queue() -> None:
    assert Limits(max_batch_bytes=1).max_queue_bytes == 256 << 20
    assert Limits(max_batch_bytes=1 << 30).max_queue_bytes == 4 << 30


@pytest.mark.parametrize("inline_threshold_seconds", [0.0, 10.0])
def test_batches_requests_and_the_warm_up_keep_to_the_bytes(
    make_archive: Callable[..., Path],
    inline_threshold_seconds: float,
) -> None:
    calls: list[int] = []

    def counted(run: Run, method: str, inputs: Mapping[str, torch.Tensor]) -> Flat:
        calls.append(len(inputs["x"]))
        return run()

    async def ask() -> None:
        # Three rows of 4 bytes each.
        limits = Limits(
            max_batch=64, max_batch_bytes=14, inline_threshold_seconds=inline_threshold_seconds
        )
        engine = Engine(open_archive(make_archive("held")), limits, load=Loader(counted).load)
        await engine.start()
        assert max(calls) == 3
        calls.clear()
        rows = torch.arange(1.0, 8.0).unsqueeze(1)
        large = await call_engine(engine, "forward", {"x": rows})
        assert large["y"].equal(rows * 2)
        assert calls == [3, 3, 1]
        calls.clear()
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Mapping[str, RawTensor]]] = [
            loop.create_future() for _ in rows
        ]
        for row, future in zip(rows, futures, strict=True):
            assert engine.enter("forward", {"x": pack(row.unsqueeze(0))}, future)
        assert not engine.enter("forward", {"x": pack(rows)}, loop.create_future())
        answers = await asyncio.gather(*futures)
        assert [answer["y"].tensor().item() for answer in answers] == (rows * 2).flatten().tolist()
        assert calls == [3, 3, 1]
        await engine.retire()

    asyncio.run(ask())
