"""Large JSON: every datatype and shape survives the round trip; invalid messages are refused."""

import json
import math
import struct
from typing import Any

import orjson
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from torchship.script.format.dtypes import BY_WIRE
from torchship.serve.errors import RequestError
from torchship.serve.protocol.messages import (
    InferRequest,
    InferResponse,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from torchship.serve.protocol.tensors import (
    DATATYPES,
    WITHOUT_JSON,
    Strings,
    Value,
    Wire,
    datatype_of,
    to_binary,
)

SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)


@st.composite
def values(draw: st.DrawFn, datatypes: Any = DATATYPES, shapes: Any = SHAPES) -> Value:
    """Any bits of a datatype are a value of it, NaNs and subnormals too; of BOOL 0 and 1 are."""
    datatype, shape = draw(st.sampled_from(datatypes)), draw(shapes)
    count = math.prod(shape)
    if datatype == "BYTES":
        return Strings(shape, draw(st.lists(st.binary(max_size=9), min_size=count, max_size=count)))
    dtype = BY_WIRE[datatype]
    size = count * dtype.size
    if datatype == "BOOL":
        bits = bytes(draw(st.lists(st.integers(0, 1), min_size=size, max_size=size)))
    else:
        bits = draw(st.binary(min_size=size, max_size=size))
    raw = torch.tensor(list(bits), dtype=torch.uint8)
    return raw.view(dtype.torch).reshape(shape)


TENSORS = st.dictionaries(st.text(max_size=5), values(), min_size=1, max_size=4)


def same(one: Wire, other: Wire) -> bool:
    return (datatype_of(one), tuple(one.shape), bytes(to_binary(one))) == (
        datatype_of(other),
        tuple(other.shape),
        bytes(to_binary(other)),
    )


def encoded(inputs: dict[str, Value]) -> tuple[bytes, int]:
    content, length = encode_request(InferRequest(inputs), lambda name: True)
    assert length is not None
    return content, length


@given(TENSORS)
def test_a_binary_request_round_trips_bit_by_bit(inputs: dict[str, Value]) -> None:
    content, length = encoded(inputs)
    back = decode_request(content, str(length)).inputs
    assert list(back) == list(inputs)
    assert all(same(back[name], value) for name, value in inputs.items())


@given(TENSORS)
def test_a_binary_response_round_trips_bit_by_bit(outputs: dict[str, Value]) -> None:
    request = InferRequest({}, parameters={"binary_data_output": True})
    content, length = encode_response(request, InferResponse("m", "1", outputs))
    back = decode_response(content, str(length)).outputs
    assert list(back) == list(outputs)
    assert all(same(back[name], value) for name, value in outputs.items())


@given(values([name for name in DATATYPES if name not in (*WITHOUT_JSON, "BYTES")]))
@example(torch.tensor([1, math.nan]))
@example(torch.tensor([-math.inf], dtype=torch.float64))
@example(torch.tensor([0x7F800001], dtype=torch.int32).view(torch.float32))  # a signalling NaN
def test_a_json_request_round_trips_or_has_no_json_form(value: Value) -> None:
    assert isinstance(value, torch.Tensor)
    finite = not value.is_floating_point() or bool(value.isfinite().all())
    try:
        content, length = encode_request(InferRequest({"x": value}), lambda name: False)
    except RequestError:
        assert not finite
        return
    assert finite
    assert length is None
    back = decode_request(content).inputs["x"]
    # -0.0 and subnormals too.
    assert same(back, value)


@given(st.lists(st.text(max_size=5), max_size=5))
def test_text_round_trips_in_json(texts: list[str]) -> None:
    value = Strings((len(texts),), [text.encode() for text in texts])
    content, _ = encode_request(InferRequest({"x": value}), lambda name: False)
    assert decode_request(content).inputs["x"] == value


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_truncation_is_refused(datatype: str) -> None:
    value: Value = (
        Strings((3,), [b"ab", b"", b"cde"])
        if datatype == "BYTES"
        else torch.ones(3, dtype=BY_WIRE[datatype].torch)
    )
    content, length = encoded({"x": value, "y": value})
    decode_request(content, str(length))
    for end in range(len(content)):
        with pytest.raises(RequestError):
            decode_request(content[:end], str(length))
        # The length cut as well, so that the tensors alone can tell.
        with pytest.raises(RequestError):
            decode_request(content[:end], str(min(length, end)))


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_other_header_length_is_refused(datatype: str) -> None:
    value: Value = (
        Strings((2,), [b"ab", b""])
        if datatype == "BYTES"
        else torch.ones(2, dtype=BY_WIRE[datatype].torch)
    )
    content, length = encoded({"x": value})
    for said in [*range(-3, length), *range(length + 1, len(content) + 50), 2**31, 2**63, 2**64]:
        with pytest.raises(RequestError):
            decode_request(content, str(said))
    for text in ("", " ", "+5", "5.0", "0x10", "٣", "1e3", f"{length},{length}", "9" * 5000):
        with pytest.raises(RequestError):
            decode_request(content, text)


@pytest.mark.parametrize("datatype", DATATYPES)
def test_bytes_left_over_are_refused(datatype: str) -> None:
    value: Value = (
        Strings((2,), [b"ab", b""])
        if datatype == "BYTES"
        else torch.ones(2, dtype=BY_WIRE[datatype].torch)
    )
    content, length = encoded({"x": value})
    for more in (b"\0", bytes(8)):
        with pytest.raises(RequestError, match="bytes of binary data after the JSON"):
            decode_request(content + more, str(length))


def test_a_length_of_json_alone_is_its_own_in_plain_digits() -> None:
    content, none = encode_request(InferRequest({"x": torch.ones(2)}), lambda name: False)
    length = len(content)
    assert none is None
    decode_request(content, str(length))
    arabic = str(length).translate({ord("0") + digit: 0x660 + digit for digit in range(10)})
    for said in (str(length + 1), str(length + 1000), arabic):
        with pytest.raises(RequestError, match="expected a length from 1 to"):
            decode_request(content, said)


def test_a_size_past_the_end_says_what_is_left() -> None:
    entry = {"name": "x", "datatype": "FP32", "shape": [2],
             "parameters": {"binary_data_size": 12}}  # fmt: skip
    head = dumps({"inputs": [entry]})
    with pytest.raises(RequestError, match="binary_data_size is 12, and 8 bytes are left"):
        decode_request(head + bytes(8), str(len(head)))


@st.composite
def lies(draw: st.DrawFn) -> tuple[bytes, int]:
    """A request with tensors whose sizes do not add up to the bytes that follow."""
    tensors = draw(st.lists(values(), min_size=1, max_size=3))
    data = [bytes(to_binary(value)) for value in tensors]
    said = [len(piece) for piece in data]
    place = draw(st.integers(0, len(said) - 1))
    wrong = draw(st.integers(0, 200) | st.integers(2**31, 2**70))
    if wrong == said[place]:
        wrong += 1
    said[place] = wrong
    entries = [
        {"name": str(number), "datatype": datatype_of(value), "shape": list(value.shape),
         "parameters": {"binary_data_size": size}}
        for number, (value, size) in enumerate(zip(tensors, said, strict=True))
    ]  # fmt: skip
    head = dumps({"inputs": entries})
    return head + b"".join(data), len(head)


def dumps(content: object) -> bytes:
    return json.dumps(content).encode()  # which writes integers of any size


@given(lies())
def test_a_wrong_binary_data_size_is_refused(lie: tuple[bytes, int]) -> None:
    with pytest.raises(RequestError):
        decode_request(lie[0], str(lie[1]))


@given(values(), SHAPES)
@example(torch.ones(2), (4,))
def test_a_shape_that_is_not_the_datas_is_refused(value: Value, shape: tuple[int, ...]) -> None:
    if math.prod(shape) == math.prod(value.shape):
        return
    data = bytes(to_binary(value))
    entry = {"name": "x", "datatype": datatype_of(value), "shape": list(shape),
             "parameters": {"binary_data_size": len(data)}}  # fmt: skip
    head = orjson.dumps({"inputs": [entry]})
    with pytest.raises(RequestError):
        decode_request(head + data, str(len(head)))


@given(st.lists(st.binary(max_size=6), min_size=1, max_size=4), st.data())
def test_a_wrong_length_of_a_string_is_refused(items: list[bytes], data: st.DataObject) -> None:
    # Of the last: what it takes too much or leaves over, nothing after it can make up for.
    length = data.draw(st.integers(0, 40) | st.integers(2**31, 2**32 - 1))
    if length == len(items[-1]):
        return
    pieces = [struct.pack("<I", len(item)) + item for item in items[:-1]]
    raw = b"".join((*pieces, struct.pack("<I", length), items[-1]))
    entry = {"name": "x", "datatype": "BYTES", "shape": [len(items)],
             "parameters": {"binary_data_size": len(raw)}}  # fmt: skip
    head = orjson.dumps({"inputs": [entry]})
    with pytest.raises(RequestError, match=r"announces|elements"):
        decode_request(head + raw, str(len(head)))


@pytest.mark.parametrize("byte", [2, 128, 255])
def test_a_bool_is_0_or_1(byte: int) -> None:
    content, length = encoded({"x": torch.tensor([True, False])})
    with pytest.raises(RequestError, match="expected BOOL bytes of 0 or 1"):
        decode_request(content[:-1] + bytes([byte]), str(length))
