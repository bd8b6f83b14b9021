"""A request gets its own rows, even if the model violates its signature."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine_calls import call_engine
from torchship.script.errors import ModelError
from torchship.script.runtime.archive import open_archive
from torchship.serve.engine.engine import Engine
from torchship.serve.engine.limits import Limits


@pytest.mark.parametrize("inline_threshold_seconds", [0.0, 1.0])
def test_rows_that_a_model_leaves_out_do_not_affect_other_requests(
    make_archive: Callable[..., Path], inline_threshold_seconds: float
) -> None:
    async def ask() -> list[object]:
        engine = Engine(
            open_archive(make_archive("positive")),
            Limits(inline_threshold_seconds=inline_threshold_seconds),
        )
        await engine.start()
        rows = [torch.tensor([[value]]) for value in (1.0, -1.0, 2.0, 3.0)]
        calls = (call_engine(engine, "forward", {"x": row}) for row in rows)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        await engine.retire()
        return [a if isinstance(a, BaseException) else a["y"].tolist() for a in answers]

    one, none, two, three = asyncio.run(ask())
    assert [one, two, three] == [[[2.0]], [[4.0]], [[6.0]]]
    assert isinstance(none, ModelError)
    assert str(none) == "output 'y': expected float32[1,1], got float32[0,1]"


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(("value", "got"), [(150.0, "float32[{}]"), (250.0, "int64[{},1]")])
def test_an_output_of_another_shape_or_dtype_is_no_answer(
    make_archive: Callable[..., Path], rows: int, value: float, got: str
) -> None:
    async def ask(value: float) -> object:
        engine = Engine(open_archive(make_archive("reshaped")))
        await engine.start()
        try:
            return (await call_engine(engine, "forward", {"x": torch.full((rows, 1), value)}))[
                "y"
            ].tolist()
        finally:
            await engine.retire()

    assert asyncio.run(ask(2.0)) == [[4.0]] * rows
    with pytest.raises(ModelError) as refused:
        asyncio.run(ask(value))
    assert str(refused.value) == (f"output 'y': expected float32[{rows},1], got {got.format(rows)}")
