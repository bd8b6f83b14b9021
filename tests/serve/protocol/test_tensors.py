import math
import struct
from typing import Literal

import numpy as np
import orjson
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from torchship.script.format.dtypes import DTYPES, Dtype
from torchship.serve.errors import RequestError
from torchship.serve.protocol import tensors as tensors_module
from torchship.serve.protocol.tensors import (
    Strings,
    Value,
    check_datatype,
    check_shape,
    datatype_of,
    to_binary,
    to_json,
    unpacked,
)


def from_binary(what: str, datatype: str, shape: tuple[int, ...], data: memoryview) -> Value:
    return unpacked(tensors_module.from_binary(what, datatype, shape, data))


def from_json(
    what: str, datatype: str, shape: tuple[int, ...], data: object, *, bools: bool = True
) -> Value:
    return unpacked(tensors_module.from_json(what, datatype, shape, data, bools=bools))


SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)
STRINGS = SHAPES.flatmap(
    lambda shape: st.lists(
        st.binary(max_size=6), min_size=math.prod(shape), max_size=math.prod(shape)
    ).map(lambda items: Strings(shape, items))
)


def bits(value: Value) -> bytes:
    return bytes(to_binary(value))


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Any bits in any dtype and shape: NaNs with payloads, subnormals, infinities."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(SHAPES)
    size = math.prod(shape) * dtype.size
    raw = draw(st.binary(min_size=size, max_size=size))
    if dtype.name == "bool":
        raw = bytes(byte & 1 for byte in raw)
    flat = torch.tensor(list(raw), dtype=torch.uint8)
    return flat.view(dtype.torch).reshape(shape)


@given(tensors() | STRINGS)
def test_binary_data_round_trips_bit_for_bit(value: Value) -> None:
    data = bits(value)
    back = from_binary("input 'x'", datatype_of(value), tuple(value.shape), memoryview(data))
    assert type(back) is type(value)
    assert tuple(back.shape) == tuple(value.shape)
    assert datatype_of(back) == datatype_of(value)
    assert bits(back) == data


@given(tensors() | STRINGS, st.data())
def test_binary_data_of_another_length_is_refused(value: Value, data: st.DataObject) -> None:
    raw = bits(value)
    if data.draw(st.booleans()):
        raw += data.draw(st.binary(min_size=1, max_size=9))
    elif raw:
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    else:
        raw = b"\0"
    with pytest.raises(RequestError, match=r"^input 'x': "):
        from_binary("input 'x'", datatype_of(value), tuple(value.shape), memoryview(raw))


@given(st.sampled_from([d.wire for d in DTYPES] + ["BYTES"]), SHAPES, st.binary(max_size=64))
def test_any_binary_data_is_a_tensor_or_refused(
    datatype: str, shape: tuple[int, ...], raw: bytes
) -> None:
    try:
        value = from_binary("input 'x'", datatype, shape, memoryview(raw))
    except RequestError:
        return
    assert bits(value) == raw


def test_a_binary_tensor_is_a_copy() -> None:
    body = bytearray(struct.pack("<x8f", *range(8)))
    value = from_binary("input 'x'", "FP32", (8,), memoryview(body)[1:])
    assert isinstance(value, torch.Tensor)
    value.fill_(7)
    assert body == struct.pack("<x8f", *range(8))


@pytest.mark.parametrize(
    ("datatype", "shape", "raw", "message"),
    [
        ("FP32", (2, 2), b"\0" * 12, "expected 16 bytes for FP32[2,2], got 12"),
        ("BOOL", (2,), b"\1\2", "expected BOOL bytes of 0 or 1, got 2"),
        ("BYTES", (1,), b"\5\0\0\0abcd", "element 0 announces 5 bytes, and 4 are left"),
        ("BYTES", (2,), b"\1\0\0\0a", "expected 2 elements for BYTES[2], got 1 and 0 more bytes"),
        ("BYTES", (1,), b"\0\0\0", "expected 1 elements for BYTES[1], got 0 and 3 more bytes"),
        ("BYTES", (), b"\0\0\0\0\1", "expected 1 elements for BYTES[], got 1 and 1 more bytes"),
    ],
)
def test_what_a_binary_refusal_says(
    datatype: str, shape: tuple[int, ...], raw: bytes, message: str
) -> None:
    with pytest.raises(RequestError) as caught:
        from_binary("input 'x'", datatype, shape, memoryview(raw))
    assert str(caught.value) == f"input 'x': {message}"


def finite(width: Literal[32, 64] = 64) -> st.SearchStrategy[float]:
    return st.floats(width=width, allow_nan=False, allow_infinity=False)


JSON_VALUES = {
    "BOOL": st.booleans(),
    "FP32": finite(32),
    "FP64": finite(),
}
for _dtype in DTYPES:
    if not _dtype.is_float and _dtype.name != "bool":
        _info = torch.iinfo(_dtype.torch)
        JSON_VALUES[_dtype.wire] = st.integers(_info.min, _info.max)


@given(st.sampled_from(sorted(JSON_VALUES)), SHAPES, st.booleans(), st.data())
def test_json_data_round_trips_exactly(
    datatype: str, shape: tuple[int, ...], nested: bool, data: st.DataObject
) -> None:
    count = math.prod(shape)
    values = data.draw(st.lists(JSON_VALUES[datatype], min_size=count, max_size=count))
    said: object = np.array(values, dtype=object).reshape(shape).tolist() if nested else values
    if not shape:
        said = values
    parsed = orjson.loads(orjson.dumps(said))
    tensor = from_json("input 'x'", datatype, shape, parsed)
    assert isinstance(tensor, torch.Tensor)
    assert tuple(tensor.shape) == shape
    # As Python sees it, repr tells -0.0 from 0.0.
    assert [repr(value) for value in tensor.reshape(-1).tolist()] == [repr(v) for v in values]
    text = orjson.dumps(to_json("output 'y'", tensor), option=orjson.OPT_SERIALIZE_NUMPY)
    back = from_json("output 'y'", datatype, shape, orjson.loads(text))
    assert bits(back) == bits(tensor)


@given(finite(32))
@example(0.1)
def test_a_float32_is_the_same_double_in_json(value: float) -> None:
    tensor = torch.tensor([value], dtype=torch.float32)
    text = orjson.dumps(to_json("output 'y'", tensor), option=orjson.OPT_SERIALIZE_NUMPY)
    assert repr(orjson.loads(text)[0]) == repr(tensor.item())


@given(st.lists(st.text(max_size=5), max_size=5))
def test_strings_round_trip_through_json(texts: list[str]) -> None:
    value = from_json("input 'x'", "BYTES", (len(texts),), texts)
    assert value == Strings((len(texts),), [text.encode() for text in texts])
    assert to_json("output 'y'", value) == texts


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | finite() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=12,
)


@given(st.sampled_from([d.wire for d in DTYPES] + ["BYTES"]), SHAPES, JSON)
def test_any_json_data_is_a_tensor_or_refused(
    datatype: str, shape: tuple[int, ...], data: object
) -> None:
    try:
        value = from_json("input 'x'", datatype, shape, data)
    except RequestError as refused:
        assert str(refused).startswith("input 'x': ")
        return
    assert tuple(value.shape) == shape


AS_STRINGS = (
    '; for a NaN or an infinity send it as the string "NaN", "Infinity" or "-Infinity", or the '
    "tensor as binary data"
)


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "message"),
    [
        ("FP32", (2,), [1.0], "expected 2 values for FP32[2], got 1"),
        ("FP32", (1,), 1.0, "expected data to be a list, got float"),
        ("FP32", (1,), [None], f"expected FP32 values, got null{AS_STRINGS}"),
        ("FP64", (1,), ["nan"], f"expected FP64 values, got 'nan'{AS_STRINGS}"),
        ("FP32", (1,), [" -INF"], f"expected FP32 values, got ' -INF'{AS_STRINGS}"),
        ("INT32", (1,), [None], "expected INT32 values, got null"),
        ("INT32", (1,), ["NaN"], "expected INT32 values, got 'NaN'"),
        ("FP32", (1,), [True], "expected FP32 values, got True"),
        ("FP32", (1,), ["1"], "expected FP32 values, got '1'"),
        ("FP32", (1,), [1e39], "expected FP32 values up to 3.4028234663852886e+38, got 1e+39"),
        ("BOOL", (1,), [1], "expected BOOL values, got 1"),
        ("INT32", (1,), [1.0], "expected INT32 values, got 1.0"),
        ("INT32", (1,), [True], "expected INT32 values, got True"),
        ("UINT8", (2,), [0, 256], "expected UINT8 values from 0 to 255, got 256"),
        ("UINT64", (1,), [-1], "expected UINT64 values from 0 to 18446744073709551615, got -1"),
        ("BYTES", (1,), [1], "expected BYTES values, got 1"),
        ("FP16", (1,), [1.0], "FP16 has no JSON form, send it as binary data"),
        ("BF16", (1,), [1.0], "BF16 has no JSON form, send it as binary data"),
        ("INT8", (2, 2), [[1, 2], [3]], "expected data nested as INT8[2,2], got 1 values for 2"),
        (
            "INT8",
            (2, 2),
            [[1, 2], 3],
            "expected data nested as INT8[2,2], got a single value for 2",
        ),
        ("INT8", (2, 1), [[1]], "expected 2 rows of data, got 1"),
        ("INT8", (1, 2), [[[1], [2]]], "expected INT8 values, got [1]"),
    ],
)
def test_what_a_json_refusal_says(
    datatype: str, shape: tuple[int, ...], data: object, message: str
) -> None:
    with pytest.raises(RequestError) as caught:
        from_json("input 'x'", datatype, shape, data)
    assert str(caught.value) == f"input 'x': {message}"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            torch.tensor([1.0, math.nan, math.inf]),
            "2 of 3 values are not finite, which JSON cannot carry: ask for it with binary_data, "
            "or for such values as the parameter non_finite says, 'string' or 'null'",
        ),
        (torch.ones(1).half(), "FP16 has no JSON form, ask for it with binary_data"),
        (torch.ones(1).bfloat16(), "BF16 has no JSON form, ask for it with binary_data"),
        (Strings((1,), [b"\xff"]), "JSON carries UTF-8 text only, use binary data"),
    ],
)
def test_what_json_cannot_carry(value: Value, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        to_json("output 'y'", value)
    assert str(caught.value) == f"output 'y': {message}"


def test_a_tensor_with_strides_travels_in_row_major_order() -> None:
    transposed = torch.arange(6, dtype=torch.int32).reshape(2, 3).T
    assert to_json("output 'y'", transposed) == [0, 3, 1, 4, 2, 5]
    assert bits(transposed) == struct.pack("<6i", 0, 3, 1, 4, 2, 5)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            list(range(99, -2, -1)),
            "expected a shape, a list of sizes from 0 on, got [99, 98, 97, 96, 95, 94, ...]",
        ),
        ([2, -1], "expected a shape, a list of sizes from 0 on, got [2, -1]"),
        ([2.0], "expected a shape, a list of sizes from 0 on, got [2.0]"),
        ([True], "expected a shape, a list of sizes from 0 on, got [True]"),
        (2, "expected a shape, a list of sizes from 0 on, got 2"),
        (None, "expected a shape, a list of sizes from 0 on, got None"),
        ([1] * 33, "expected at most 32 dimensions, got 33"),
        ([0, 2**40], "the shape [0, 1099511627776] is too large for a tensor without elements"),
    ],
)
def test_which_shapes_are_refused(shape: object, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        check_shape("input 'x'", shape)
    assert str(caught.value) == f"input 'x': {message}"


def test_an_unknown_datatype_is_refused() -> None:
    for datatype in ("FLOAT", None, ["FP32"]):
        with pytest.raises(RequestError, match=r"^input 'x': expected a datatype out of BOOL, "):
            check_datatype("input 'x'", datatype)


@given(st.sampled_from(DTYPES))
def test_every_dtype_of_the_archive_has_a_datatype(dtype: Dtype) -> None:
    assert check_datatype("input 'x'", dtype.wire) == datatype_of(torch.empty(0, dtype=dtype.torch))
