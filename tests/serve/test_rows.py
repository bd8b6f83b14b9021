"""A request gets its own rows, also of a model that does not keep to its signature."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from torchship.script.archive import open_archive
from torchship.serve.engine import Engine
from torchship.serve.limits import Limits


@pytest.mark.parametrize("quick_seconds", [0.0, 1.0])
def test_rows_that_a_model_leaves_out_are_nobody_elses(
    make_archive: Callable[..., Path], quick_seconds: float
) -> None:
    async def ask() -> list[list[list[float]]]:
        engine = Engine(open_archive(make_archive("positive")), Limits(quick_seconds=quick_seconds))
        await engine.start()
        rows = [torch.tensor([[value]]) for value in (1.0, -1.0, 2.0, 3.0)]
        answers = await asyncio.gather(*(engine.call("forward", {"x": row}) for row in rows))
        await engine.retire()
        return [answer["y"].tolist() for answer in answers]

    assert asyncio.run(ask()) == [[[2.0]], [], [[4.0]], [[6.0]]]
