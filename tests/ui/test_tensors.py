"""The page's tensors: dtypes, safetensors, text, and differences as Python finds them."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import safetensors.torch
import torch

from page_calls import call, calls, packed, unpacked
from torchship.script.format.dtypes import DTYPES
from torchship.script.format.manifest import Tolerance
from torchship.script.runtime.agreement import compare

NAMES = [dtype.name for dtype in DTYPES]
SHAPES = [(), (2, 3), (0, 4, 1)]
FLOATS = [dtype.name for dtype in DTYPES if dtype.is_float]


def some(name: str, *shape: int) -> torch.Tensor:
    dtype = getattr(torch, name)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(3)) * 3
    return values.abs().to(dtype) if name.startswith("u") else values.to(dtype)


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_every_half_is_read_and_written(name: str) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    halves = torch.from_numpy(bits.view(np.int16)).view(getattr(torch, name))
    text = call("engine/text.mjs", "toText", packed(halves))
    values = np.array([float(value) for value in text.split(", ")], np.float32)
    np.testing.assert_array_equal(values, halves.float().numpy())
    leaf = {"name": "x", "dtype": name, "shape": ["n"]}
    read = unpacked(call("engine/text.mjs", "fromText", text, leaf, None))
    numbers = ~halves.isnan()
    assert torch.equal(read.view(torch.int16)[numbers], halves.view(torch.int16)[numbers])
    assert bool(read[~numbers].isnan().all())


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_numbers_between_halves_are_rounded_to_even(name: str) -> None:
    generator = np.random.RandomState(5)
    values = (generator.randn(4000) * 10.0 ** generator.randint(-9, 5, 4000)).astype(np.float32)
    values = np.concatenate(
        [values, np.array([65519.9, 65520, -65520, 5.9e-8, 2.9e-8, 1.5e-5, 1.0004883], np.float32)]
    )
    expected = (
        torch.from_numpy(values).to(getattr(torch, name)).view(torch.int16).numpy().view(np.uint16)
    )
    function = f"to{name.title()}"
    assert (
        calls("engine/half.mjs", function, [[float(value)] for value in values])
        == expected.tolist()
    )


def test_safetensors_are_those_of_python() -> None:
    tensors = {f"{name}.{len(shape)}": some(name, *shape) for name in NAMES for shape in SHAPES}
    data = safetensors.torch.save(tensors, {"k": "v"})
    read = call("engine/safetensors.mjs", "readSafetensors", {"bytes": data.hex()})
    assert read["metadata"] == {"k": "v"}
    assert described({key: unpacked(value) for key, value in read["tensors"].items()}) == described(
        tensors
    )
    given = {key: packed(value) for key, value in tensors.items()}
    written = call("engine/safetensors.mjs", "writeSafetensors", given, {"k": "v"})
    again = safetensors.torch.load(bytes.fromhex(written["bytes"]))
    assert described(again) == described(tensors)


def described(tensors: dict[str, torch.Tensor]) -> dict[str, object]:
    return {key: (value.dtype, value.shape, value.tolist()) for key, value in tensors.items()}


def test_a_short_file_is_refused() -> None:
    data = safetensors.torch.save({"a": torch.ones(3)})
    answers = calls(
        "engine/safetensors.mjs",
        "readSafetensors",
        [[{"bytes": data[:end].hex()}] for end in (4, 20, -1)],
    )
    assert ["error" in answer for answer in answers] == [True] * 3
    assert answers[0]["error"] == "safetensors: expected 8 bytes or more, got 4"


def cases() -> list[tuple[torch.Tensor, torch.Tensor, Tolerance]]:
    """Pairs of an output and a golden value that differ in every way there is."""
    loose, none = Tolerance(atol=1e-5, rtol=1.3e-6), Tolerance(atol=0, rtol=0)
    pairs = [(torch.ones(2), torch.ones(3), none), (torch.ones(2), torch.ones(2).double(), none)]
    for name in FLOATS:
        golden = some(name, 4, 5)
        eps = torch.finfo(golden.dtype).eps
        nan, infinite = golden.clone(), golden.clone()
        nan[1, 2], infinite[0, 0] = math.nan, math.inf
        pairs += [(golden, golden, none), (nan, golden, loose), (nan, nan, loose)]
        pairs += [(infinite, golden, loose), (golden, infinite, loose), (infinite, infinite, loose)]
        other = infinite.clone()
        other[1, 1] *= -0.0
        infinite[1, 1] = 0.0  # equal, and not bit-identical
        pairs += [(other, infinite, none)]
        pairs += [(-golden, golden, loose), (golden * (1 + 2 * eps), golden, loose)]
        pairs += [
            (golden * (1 + 4 * eps), golden, none),
            (torch.zeros_like(golden) * -1, golden * 0, none),
        ]
    for name in NAMES:
        if name not in FLOATS:
            golden = some(name, 3, 3)
            other = golden.clone()
            other[1, 1] = not bool(other[1, 1]) if name == "bool" else 7
            pairs += [(golden, golden, none), (other, golden, none)]
            pairs += [(other, golden, Tolerance(atol=9.0, rtol=0.1))]
    large = torch.tensor([2**62 + 1])
    return [*pairs, (large, large - 1, none), (torch.ones(0), torch.ones(0), none)]


def test_differences_are_those_of_python() -> None:
    pairs = cases()
    given = [
        [packed(actual), packed(golden), {"atol": tolerance.atol, "rtol": tolerance.rtol}]
        for actual, golden, tolerance in pairs
    ]
    found = calls("engine/compare.mjs", "compare", given)
    assert len(found) == len(pairs)
    for (actual, golden, tolerance), answer in zip(pairs, found, strict=True):
        expected = compare(actual, golden, tolerance)
        what = f"{actual} {golden} {expected}"
        assert answer["agreed"] == expected.agreed, what
        assert bool(answer["reason"]) == bool(expected.reason), what
        assert answer["identical"] == expected.bit_identical, what
        if expected.max_abs is None:
            assert answer["absolute"] is None, what
        else:
            assert float(answer["absolute"]) == pytest.approx(expected.max_abs, rel=1e-12), what
            assert expected.max_rel is not None
            relative = [  # torch makes the largest number of some infinities
                min(float(value), sys.float_info.max)
                for value in (answer["relative"], expected.max_rel)
            ]
            assert relative[0] == pytest.approx(relative[1], rel=1e-12), what
            assert float(answer["ulp"]) == pytest.approx(expected.max_ulp, rel=1e-12), what


def test_text_is_read_back_bit_for_bit() -> None:
    shapes = [(), (5,), (3, 4), (2, 3, 4)]
    tensors = [some(name, *shape) for name in NAMES for shape in shapes]
    leaves = [{"name": "x", "dtype": name, "shape": ["n"]} for name in NAMES for _ in shapes]
    texts = calls("engine/text.mjs", "toText", [[packed(tensor)] for tensor in tensors])
    given = [
        [text, leaf, [*tensor.shape]]
        for text, leaf, tensor in zip(texts, leaves, tensors, strict=True)
    ]
    for tensor, answer in zip(tensors, calls("engine/text.mjs", "fromText", given), strict=True):
        assert torch.equal(unpacked(answer), tensor), answer


TEXTS = [
    ("1 2 3, 4", ["batch", 2], None, [[1, 2], [3, 4]]),
    ("[[1, 2], [3, 4]]", ["n", "m"], None, [[1, 2], [3, 4]]),
    ("1 2 3 4 5 6", ["n", "m"], [2, 2], None),
    ("1 2 3 4 5 6", ["n", "m"], [1, 2], [[1, 2], [3, 4], [5, 6]]),
    ("nan -inf 1e3", [3], None, [math.nan, -math.inf, 1000.0]),
]  # fmt: skip


def test_shapes_follow_from_what_was_typed() -> None:
    given = [
        [text, {"name": "x", "dtype": "float32", "shape": shape}, before]
        for text, shape, before, _ in TEXTS
    ]
    found = calls("engine/text.mjs", "fromText", given)
    for (*_, expected), answer in zip(TEXTS, found, strict=True):
        if expected is None:
            expected = [[1, 2], [3, 4], [5, 6]]
        assert torch.equal(unpacked(answer).nan_to_num(9), torch.tensor(expected).nan_to_num(9))


WRONG = [
    ("1 2 3", "float32", ["batch", 2], "input 'x': expected values for float32[batch, 2], got 3"),
    ("1 two", "float32", [2], "input 'x': expected numbers, got 'two'"),
    ("1.5", "int64", [1], "input 'x': expected whole numbers for int64, got '1.5'"),
    ("256", "uint8", [1], "input 'x': expected uint8 from 0 to 255, got 256"),
    ("2", "bool", [1], "input 'x': expected 0, 1, true or false, got '2'"),
    (
        "[[1, 2], [3]]",
        "float32",
        ["n", "m"],
        "input 'x': expected lists of the same length, as for [2, 2]",
    ),
]


def test_wrong_texts_are_refused_with_what_was_expected() -> None:
    given = [
        [text, {"name": "x", "dtype": dtype, "shape": shape}, None]
        for text, dtype, shape, _ in WRONG
    ]
    assert [answer["error"] for answer in calls("engine/text.mjs", "fromText", given)] == [
        message for *_, message in WRONG
    ]


def test_large_integers_in_lists_keep_their_digits() -> None:
    leaf = {"name": "x", "dtype": "int64", "shape": ["n"]}
    answer = call(
        "engine/text.mjs", "fromText", "[9007199254740993, -9223372036854775808]", leaf, None
    )
    assert unpacked(answer).tolist() == [9007199254740993, -(2**63)]


def test_every_float32_reads_back() -> None:
    bits = np.random.RandomState(2).randint(-(2**31), 2**31, 3000, np.int64).astype(np.int32)
    tensor = torch.from_numpy(bits).view(torch.float32)
    tensor = tensor[~tensor.isnan()]
    text = call("engine/text.mjs", "toText", packed(tensor))
    leaf = {"name": "x", "dtype": "float32", "shape": ["n"]}
    read = unpacked(call("engine/text.mjs", "fromText", text, leaf, None))
    assert read.numpy().tobytes() == tensor.numpy().tobytes()


def test_metrics_are_read_by_model() -> None:
    text = (
        "# HELP torchship_request_seconds Whole requests.\n"
        'torchship_request_seconds_count{model="m \\"1\\"",version="2"} 4.0\n'
        'torchship_request_seconds_sum{model="m \\"1\\"",version="2"} 0.5\n'
        'torchship_request_seconds_count{model="",version=""} 9.0\n'
    )
    assert call("engine/metrics.mjs", "requestsOf", text) == {
        'm "1"/2': {"requests": 4, "seconds": 0.5}
    }
