import math
from contextlib import suppress

import orjson
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchship.script.format.dtypes import BY_TORCH
from torchship.serve.errors import RequestError
from torchship.serve.protocol.json_values import FEW_BYTES
from torchship.serve.protocol.messages import (
    InferRequest,
    InferResponse,
    decode_index_request,
    decode_request,
    decode_response,
    encode_outputs,
    encode_request,
    encode_response,
)
from torchship.serve.protocol.request_header import WantedOutput
from torchship.serve.protocol.tensors import RawTensor, Strings, pack

X = {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}
RAW_X = {"name": "x", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}
REQUEST = InferRequest(
    inputs={
        "x": torch.tensor([[1.5, -2.5]]),
        "n": torch.tensor([2**62 + 1]),
        "s": Strings((2,), [b"one", b""]),
        "none": torch.empty(0, 3, dtype=torch.bool),
    },
    outputs=(WantedOutput("y"), WantedOutput("z", True), WantedOutput("a", False)),
    id="42",
    parameters={"method": "act", "binary_data_output": True, "other": 1},
)
BODIES = [
    encode_request(REQUEST, lambda name: True),
    encode_request(REQUEST, lambda name: False),
    encode_request(REQUEST, lambda name: name in ("n", "s")),
]


def body(*inputs: object, **head: object) -> bytes:
    return orjson.dumps({"inputs": list(inputs), **head})


@pytest.mark.parametrize(("content", "length"), BODIES, ids=["binary", "json", "mixed"])
def test_a_request_round_trips(content: bytes, length: int | None) -> None:
    back = decode_request(content, None if length is None else str(length))
    assert list(back.inputs) == list(REQUEST.inputs)
    for name, value in REQUEST.inputs.items():
        other = back.inputs[name]
        if isinstance(value, torch.Tensor):
            assert isinstance(other, RawTensor)
            assert other.dtype == value.dtype
            assert torch.equal(other.tensor(), value)
        else:
            assert other == value
    assert (back.outputs, back.id, back.parameters) == (
        REQUEST.outputs,
        REQUEST.id,
        REQUEST.parameters,
    )
    assert back.method == "act"
    assert back.binary_output


def test_priority_and_timeout_have_defaults() -> None:
    said: list[dict[str, object]] = [
        {},
        {"priority": 0, "timeout": 0},
        {"priority": 1, "timeout": 1500},
    ]
    asked = [InferRequest({}, parameters=parameters) for parameters in said]
    assert [(r.priority, r.timeout) for r in asked] == [(2, None), (2, None), (1, 0.0015)]


def test_only_binary_data_has_a_header_length() -> None:
    assert [length is None for _, length in BODIES] == [False, True, False]


@given(st.sampled_from(BODIES), st.data())
def test_a_truncated_request_is_refused(
    encoded: tuple[bytes, int | None], data: st.DataObject
) -> None:
    content, length = encoded
    cut = content[: data.draw(st.integers(0, len(content) - 1))]
    with pytest.raises(RequestError):
        decode_request(cut, None if length is None else str(length))


@given(st.sampled_from(BODIES), st.integers(-10, 2000) | st.text(max_size=4))
def test_a_wrong_header_length_is_refused(
    encoded: tuple[bytes, int | None], said: int | str
) -> None:
    content, length = encoded
    # A JSON request that announces its own whole length is right.
    if said == (len(content) if length is None else length):
        return
    if isinstance(said, str) and said.isdecimal() and said.isascii():
        return
    with pytest.raises(RequestError):
        decode_request(content, str(said))


@given(st.sampled_from(BODIES), st.data())
def test_a_damaged_request_is_read_or_refused(
    encoded: tuple[bytes, int | None], data: st.DataObject
) -> None:
    content, length = bytearray(encoded[0]), encoded[1]
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(RequestError):
        decode_request(bytes(content), None if length is None else str(length))


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**64 - 1) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "inputs",
                    "outputs",
                    "name",
                    "shape",
                    "datatype",
                    "data",
                    "parameters",
                    "id",
                    "method",
                    "binary_data_size",
                    "binary_data",
                    "binary_data_output",
                    "priority",
                    "timeout",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(ANYTHING)
def test_any_json_is_read_or_refused(anything: object) -> None:
    with suppress(RequestError):
        decode_request(orjson.dumps(anything))


@given(st.none() | ANYTHING)
def test_any_index_request_is_read_or_refused(anything: object) -> None:
    with suppress(RequestError):
        assert decode_index_request(orjson.dumps(anything)) in (True, False)


def test_an_index_request_may_be_empty() -> None:
    assert [decode_index_request(b) for b in (b"", b"{}", b'{"ready":true}')] == [
        False,
        False,
        True,
    ]


REFUSED = [
    (b"", None, "the body is not JSON: "),
    (b"[]", None, "expected a JSON object, got list"),
    (b"{}", None, "expected 'inputs' to be a list of objects"),
    (b'{"inputs": [1]}', None, "expected 'inputs' to be a list of objects"),
    (body({}), None, "expected every input to have a name, got None"),
    (body(X, X), None, "input 'x' is given twice"),
    (body(X, id=7), None, "expected the id to be a string, got 7"),
    (body(X, parameters=[]), None, "the request: expected parameters to be an object"),
    (body(X, parameters={"method": 1}), None, "parameter 'method': expected a str, got 1"),
    *(
        (
            body(X, parameters={"priority": value}),
            None,
            f"parameter 'priority': expected 1 or 2, or 0 for the default, got {value!r}",
        )
        for value in (3, -1, True, 1.0, "1", None)
    ),
    *(
        (
            body(X, parameters={"timeout": value}),
            None,
            "parameter 'timeout': expected microseconds, an integer from 0 (for none) on, "
            f"got {value!r}",
        )
        for value in (-1, False, 0.5, "1", 2**63)
    ),
    (
        body(X, parameters={"binary_data_output": "yes"}),
        None,
        "parameter 'binary_data_output': expected a bool, got 'yes'",
    ),
    (
        body(X, parameters={"shared_memory_region": "a"}),
        None,
        "the request: parameter 'shared_memory_region' is not supported",
    ),
    (
        body(X, outputs=[{"name": "y", "parameters": {"classification": "3"}}]),
        None,
        "output 'y': expected classification to be a number of classes, got '3'",
    ),
    (body(X, outputs=[{"name": "y"}] * 2), None, "output 'y' is asked for twice"),
    (body(X, outputs={}), None, "expected 'outputs' to be a list of objects"),
    (
        body(X, outputs=[{"name": "y", "parameters": {"binary_data": 1}}]),
        None,
        "output 'y': expected binary_data true or false",
    ),
    (
        body({"name": "x", "datatype": "FP32", "shape": [2]}),
        None,
        "input 'x': expected data or a binary_data_size",
    ),
    (
        body(X | RAW_X),
        None,
        "input 'x': expected either data or a binary_data_size, got both",
    ),
    (
        body(RAW_X),
        None,
        "input 'x' has a binary_data_size, and Inference-Header-Content-Length is missing",
    ),
    (
        body(RAW_X),
        str(len(body(RAW_X))),
        "input 'x': binary_data_size is 8, and 0 bytes are left",
    ),
    (
        body(RAW_X) + b"\0" * 9,
        str(len(body(RAW_X))),
        "expected 8 bytes of binary data after the JSON, got 9",
    ),
    (body(X), "0", "Inference-Header-Content-Length: expected a length from 1 to the body's "),
    (body(X), "-5", "Inference-Header-Content-Length: expected a length from 1 to the body's "),
    (body(X), "9" * 30, "Inference-Header-Content-Length: expected a length from 1 to the body's "),
    (
        body(RAW_X | {"parameters": {"binary_data_size": -1}}),
        "9",
        "the body is not JSON: ",
    ),
    (
        body(RAW_X | {"parameters": {"binary_data_size": True}}),
        None,
        "input 'x': expected a binary_data_size from 0 on, got True",
    ),
]


@pytest.mark.parametrize(("content", "length", "message"), REFUSED)
def test_what_a_refusal_says(content: bytes, length: str | None, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        decode_request(content, length)
    assert str(caught.value).startswith(message)


RESPONSE = InferResponse(
    "m", "3", {"y": torch.tensor([0.5]), "z": torch.tensor([[7]]), "h": torch.ones(2).half()}
)


def answered(request: InferRequest) -> tuple[dict[str, object], InferResponse]:
    content, length = encode_response(request, RESPONSE)
    head = orjson.loads(content[:length])
    return head, decode_response(content, None if length is None else str(length))


def test_outputs_travel_as_each_was_asked_for() -> None:
    wanted = (WantedOutput("z", False), WantedOutput("y"), WantedOutput("h", True))
    head, back = answered(InferRequest({}, wanted))
    outputs = head["outputs"]
    assert outputs == [
        {"name": "z", "datatype": "INT64", "shape": [1, 1], "data": [7]},
        {"name": "y", "datatype": "FP32", "shape": [1], "data": [0.5]},
        {
            "name": "h",
            "datatype": "FP16",
            "shape": [2],
            "parameters": {"binary_data_size": 4},
        },
    ]
    assert (head["model_name"], head["model_version"], "id" in head) == ("m", "3", False)
    assert isinstance(back.outputs["h"], torch.Tensor)
    assert back.outputs["h"].equal(torch.ones(2).half())


def test_binary_data_output_is_the_default_and_binary_data_wins() -> None:
    wanted = (WantedOutput("y"), WantedOutput("z", False))
    head, _ = answered(InferRequest({}, wanted, parameters={"binary_data_output": True}))
    outputs = head["outputs"]
    assert isinstance(outputs, list)
    assert [("data" in output) for output in outputs] == [False, True]


def test_all_outputs_when_none_is_asked_for() -> None:
    _, back = answered(InferRequest({}, parameters={"binary_data_output": True}))
    assert list(back.outputs) == ["y", "z", "h"]


VALUES = {
    torch.bool: torch.tensor([True, False, True, True]),
    torch.uint8: torch.tensor([0, 255, 7, 1], dtype=torch.uint8),
    torch.int16: torch.tensor([-32768, 32767, 0, 1], dtype=torch.int16),
    torch.int64: torch.tensor([-(1 << 63), (1 << 63) - 1, 0, 1]),
    torch.float32: torch.tensor([0.1, -0.0, 3.4e38, 1e-45]),
    torch.float64: torch.tensor([0.1, -0.0, 1.7e308, 5e-324], dtype=torch.float64),
}


@pytest.mark.parametrize("number", [None, 'a "b" ü'])
@pytest.mark.parametrize("repeats", [0, 1, FEW_BYTES, 1 << 18], ids=["none", "few", "many", "most"])
def test_json_is_the_same_however_many_values_there_are(number: str | None, repeats: int) -> None:
    outputs = {str(dtype): v.repeat(repeats, 1) for dtype, v in VALUES.items()}
    for request in (InferRequest({}), InferRequest({}, tuple(map(WantedOutput, outputs)))):
        found: dict[str, RawTensor] = {name: pack(value) for name, value in outputs.items()}
        made = encode_outputs(request, "m", "1", found, number)
        content, length = made if isinstance(made, tuple) else made.finish()
        assert length is None
        head = {"model_name": "m", "model_version": "1"}
        entries = [
            {"name": name, "datatype": BY_TORCH[v.dtype].wire, "shape": list(v.shape)}
            | {"data": v.flatten().tolist()}
            for name, v in outputs.items()
        ]
        said = {} if number is None else {"id": number}
        assert content == orjson.dumps({**head, **said, "outputs": entries})


@pytest.mark.parametrize("values", [[math.nan], [math.inf, -math.inf], [1e308, 1e308, 1e308]])
def test_few_values_whose_sum_is_not_finite(values: list[float]) -> None:
    found = {"y": pack(torch.tensor(values, dtype=torch.float64))}
    said: dict[str, object] = {"non_finite": "string"}
    made = encode_outputs(InferRequest({}, parameters=said), "m", "1", found, None)
    assert isinstance(made, tuple)
    names = {math.inf: "Infinity", -math.inf: "-Infinity"}
    expected = [v if math.isfinite(v) else names.get(v, "NaN") for v in values]
    assert orjson.loads(made[0])["outputs"][0]["data"] == expected
    if expected != values:
        with pytest.raises(RequestError, match=r"output 'y': .* not finite"):
            encode_outputs(InferRequest({}), "m", "1", found, None)


def test_an_output_that_is_not_there_is_refused() -> None:
    with pytest.raises(RequestError, match="unknown output 'q': expected 'y', 'z', 'h'"):
        answered(InferRequest({}, (WantedOutput("q"),)))


def test_an_empty_binary_tensor_has_its_header_length() -> None:
    response = InferResponse("m", "1", {"y": torch.empty(0, 2)})
    content, length = encode_response(
        InferRequest({}, parameters={"binary_data_output": True}), response
    )
    assert length == len(content)
    back = decode_response(content, str(length)).outputs["y"]
    assert isinstance(back, torch.Tensor)
    assert back.shape == (0, 2)
