"""The messages: what is generated, where the classes lie, and tensors to contents and back."""

from __future__ import annotations

import pickle
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchship.serve.errors import RequestError
from torchship.serve.grpc import generate
from torchship.serve.grpc import inference_pb2 as pb
from torchship.serve.grpc.conversion import (
    parse,
    read_request,
    read_response,
    write_answer,
    write_request,
)
from torchship.serve.grpc.tensor_contents import read_contents, write_contents
from torchship.serve.protocol.messages import InferRequest
from torchship.serve.protocol.request_header import WantedOutput
from torchship.serve.protocol.tensors import RawTensor, Strings, pack

theirs: Any = import_module("tritonclient.grpc.service_pb2")
config: Any = import_module("tritonclient.grpc.model_config_pb2")


def test_what_is_generated_is_what_the_proto_says() -> None:
    for name, content in generate.generated(generate.HERE / generate.PROTO).items():
        assert (generate.HERE / name).read_bytes() == content, f"run {generate.__name__}"


def described(message: Any) -> dict[int, tuple[str, int, bool]]:
    return {f.number: (f.name, f.type, f.is_repeated) for f in message.fields}


def test_every_field_has_the_number_and_type_of_tritons_protocol() -> None:
    """Except the answers to load and unload, which have fields for KServe's client only."""
    for name, message in pb.DESCRIPTOR.message_types_by_name.items():
        known = theirs.DESCRIPTOR.message_types_by_name.get(name)
        known = known or config.DESCRIPTOR.message_types_by_name[name]
        if name not in ("RepositoryModelLoadResponse", "RepositoryModelUnloadResponse"):
            assert described(message).items() <= described(known).items(), name
        for nested in message.nested_types:
            assert described(nested) == described(known.nested_types_by_name[nested.name])
    for kind in pb.DataType.items():
        assert kind in config.DataType.items()
    ours = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    for method in ours:
        known = theirs.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
        assert method.input_type.full_name == known[method.name].input_type.full_name
        assert method.output_type.full_name == known[method.name].output_type.full_name
        assert method.client_streaming == known[method.name].client_streaming


def test_the_classes_are_pickled_by_reference() -> None:
    message = pb.ModelInferRequest(model_name="a")
    message.inputs.add(name="x", datatype="FP32", shape=[1])
    assert pickle.loads(pickle.dumps(message)) == message
    assert pickle.loads(pickle.dumps(pb.InferTensorContents)) is pb.InferTensorContents


TENSORS = {
    "BOOL": torch.tensor([[True, False]]),
    "INT8": torch.tensor([-128, 127], dtype=torch.int8),
    "INT16": torch.tensor([-(2**15), 2**15 - 1], dtype=torch.int16),
    "INT32": torch.tensor([-(2**31), 2**31 - 1], dtype=torch.int32),
    "INT64": torch.tensor([-(2**63), 2**63 - 1]),
    "UINT8": torch.tensor([0, 255], dtype=torch.uint8),
    "UINT16": torch.tensor([0, 2**16 - 1], dtype=torch.uint16),
    "UINT32": torch.tensor([0, 2**32 - 1], dtype=torch.uint32),
    "UINT64": torch.tensor([0, 2**64 - 1], dtype=torch.uint64),
    "FP32": torch.tensor([[1.5], [float("nan")], [float("-inf")]]),
    "FP64": torch.tensor([1e300, float("inf")], dtype=torch.float64),
}


@pytest.mark.parametrize("datatype", TENSORS)
@pytest.mark.parametrize("size", [1, 0, 40_000])
def test_typed_contents_carry_every_value(datatype: str, size: int) -> None:
    tensor = TENSORS[datatype]
    if size != 1:
        tensor = tensor.flatten()[:1].repeat(size)
    contents = pb.InferTensorContents()
    write_contents("x", pack(tensor), contents)
    contents = pb.InferTensorContents.FromString(contents.SerializeToString())
    read = read_contents("x", datatype, tuple(tensor.shape), contents)
    assert isinstance(read, RawTensor)
    assert bytes(read.data) == bytes(pack(tensor).data)
    assert read.dtype == tensor.dtype


def test_typed_strings_and_what_follows_the_values_in_the_message() -> None:
    contents = pb.InferTensorContents()
    write_contents("x", Strings((2,), [b"a", b"\xff"]), contents)
    assert read_contents("x", "BYTES", (2,), contents) == Strings((2,), [b"a", b"\xff"])
    with_more = pb.InferTensorContents(fp32_contents=[1, 2]).SerializeToString()
    unknown = b"\x7a\x04more"  # a field 15 of a later version
    read = read_contents("x", "FP32", (2,), pb.InferTensorContents.FromString(with_more + unknown))
    assert isinstance(read, RawTensor)
    assert read.tensor().tolist() == [1, 2]


@pytest.mark.parametrize(
    ("datatype", "contents", "message"),
    [
        ("FP16", {}, "x: FP16 has no typed form, send it in raw_input_contents"),
        ("FP32", {"fp64_contents": [1]}, "x: expected FP32 values in fp32_contents, got fp64_con"),
        ("FP32", {"fp32_contents": [1] * 3}, "x: expected 2 values for FP32.2., got 3"),
        ("FP32", {}, "x: expected 2 values for FP32.2., got 0"),
        ("INT8", {"int_contents": [1, -129]}, "x: expected INT8 values from -128 to 127, got -129"),
        ("UINT16", {"uint_contents": [0, 1 << 16]}, "from 0 to 65535, got 65536"),
    ],
)
def test_contents_that_do_not_fit(datatype: str, contents: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read_contents("x", datatype, (2,), pb.InferTensorContents(**contents))


def raw_request(**more: Any) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="m", **more)
    message.inputs.add(name="x", datatype="FP32", shape=[1])
    message.raw_input_contents.append(b"\0\0\0\0")
    return message


def test_raw_contents_and_parameters_are_read_without_a_copy() -> None:
    message = raw_request(id="seven")
    message.parameters["sequence_id"].uint64_param = 2**64 - 1
    message.parameters["sequence_start"].bool_param = True
    message.parameters["other"].double_param = 0.5
    message.outputs.add(name="y").parameters["classification"].int64_param = 3
    read = read_request(message)
    assert (read.id, read.sequence_id, read.sequence_start) == ("seven", str(2**64 - 1), True)
    assert read.outputs == (WantedOutput("y", None, 3),)
    assert read.inputs["x"] == RawTensor(torch.float32, (1,), memoryview(b"\0\0\0\0"))


def no_input(message: pb.ModelInferRequest) -> None:
    del message.raw_input_contents[:]


def mixed(message: pb.ModelInferRequest) -> None:
    message.inputs[0].contents.fp32_contents.append(1)


def two_raw(message: pb.ModelInferRequest) -> None:
    message.raw_input_contents.append(b"")


def negative(message: pb.ModelInferRequest) -> None:
    message.inputs[0].shape[0] = -1


def twice(message: pb.ModelInferRequest) -> None:
    message.inputs.add(name="x", datatype="FP32", shape=[1])
    message.raw_input_contents.append(b"\0\0\0\0")


def shared(message: pb.ModelInferRequest) -> None:
    message.inputs[0].parameters["shared_memory_region"].string_param = "a"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (no_input, "input 'x': expected 1 values for FP32.1., got 0"),
        (mixed, "input 'x': expected either contents or raw_input_contents, got both"),
        (two_raw, "expected one of raw_input_contents for each of 1 inputs, got 2"),
        (negative, "input 'x': expected a shape, a list of sizes from 0 on, got .-1."),
        (twice, "input 'x' is given twice"),
        (shared, "input 'x': parameter 'shared_memory_region' is not supported"),
    ],
)
def test_requests_that_contradict_themselves(edit: Any, message: str) -> None:
    request = raw_request()
    edit(request)
    with pytest.raises(RequestError, match=message):
        read_request(request)


def test_bytes_that_are_no_message() -> None:
    for wrong in (b"\xff", raw_request().SerializeToString()[:-1], b"\x0a\x01\xff"):
        with pytest.raises(RequestError, match="expected a ModelInferRequest, got other bytes"):
            parse(pb.ModelInferRequest, wrong)


@pytest.mark.parametrize("raw", [True, False])
def test_a_clients_request_comes_back(raw: bool) -> None:
    given = InferRequest({"x": torch.ones(2, 1)}, (WantedOutput("y"),), "1", {"method": "act"})
    read = read_request(write_request("m", "2", given, raw))
    assert (read.outputs, read.id, read.method) == ((WantedOutput("y"),), "1", "act")
    x = read.inputs["x"]
    assert isinstance(x, RawTensor)
    assert torch.equal(x.tensor(), torch.ones(2, 1))


class Named:
    name, version = "m", "1"


@pytest.mark.parametrize(
    ("general", "each", "typed"),
    [
        (None, None, False),
        (True, None, False),
        (False, None, True),
        (False, [None, None], True),
        (None, [False, False], True),
        (None, [False, None], False),  # a message has either raw or typed outputs
        (False, [True, None], False),
    ],
)
def test_outputs_are_raw_unless_each_is_wanted_otherwise(
    general: bool | None, each: list[bool | None] | None, typed: bool
) -> None:
    wanted = tuple(WantedOutput(n, b) for n, b in zip("ab", each or [], strict=False))
    parameters: dict[str, object] = {} if general is None else {"binary_data_output": general}
    request = InferRequest({}, wanted, None, parameters)
    found = {"a": pack(torch.ones(1)), "b": Strings((1,), [b"text"])}
    answer = write_answer(Named(), request, found)  # type: ignore[arg-type]
    assert bool(answer.raw_output_contents) != typed
    outputs = read_response(answer).outputs
    assert torch.equal(outputs["a"], torch.ones(1))  # type: ignore[arg-type]
    assert outputs["b"] == Strings((1,), [b"text"])


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with suppress(RequestError):
        read_request(parse(pb.ModelInferRequest, content))


@settings(max_examples=40)
@given(st.data())
def test_any_message_is_read_or_refused(data: st.DataObject) -> None:
    message = pb.ModelInferRequest()
    numbers = st.integers(-(2**63), 2**63 - 1)
    for _ in range(data.draw(st.integers(0, 3))):
        tensor = message.inputs.add(
            name=data.draw(st.text(max_size=2)),
            datatype=data.draw(st.sampled_from([*TENSORS, "BYTES", "FP16", "BF16", "", "A"])),
            shape=data.draw(st.lists(numbers | st.integers(0, 3), max_size=3)),
        )
        tensor.contents.MergeFromString(data.draw(st.binary(max_size=0)))
        tensor.contents.int_contents.extend(data.draw(st.lists(st.integers(0, 9), max_size=4)))
        tensor.contents.bytes_contents.extend(data.draw(st.lists(st.binary(), max_size=2)))
        key = data.draw(st.sampled_from(["binary_data_size", "classification", "a"]))
        tensor.parameters[key].int64_param = data.draw(numbers)
    message.raw_input_contents.extend(data.draw(st.lists(st.binary(max_size=9), max_size=3)))
    for name in ("method", "priority", "timeout", "sequence_id", "sequence_start", "non_finite"):
        if data.draw(st.booleans()):
            parameter = message.parameters[name]
            match data.draw(st.integers(0, 5)):
                case 0:
                    parameter.bool_param = data.draw(st.booleans())
                case 1:
                    parameter.int64_param = data.draw(numbers)
                case 2:
                    parameter.string_param = data.draw(st.text(max_size=300))
                case 3:
                    parameter.double_param = data.draw(st.floats())
                case 4:
                    parameter.uint64_param = data.draw(st.integers(0, 2**64 - 1))
    with suppress(RequestError):
        read_request(message)


def test_the_descriptor_is_found_wherever_the_package_lies() -> None:
    assert Path(pb.__file__).with_name("inference.binpb").stat().st_size < 1 << 16
    assert np.frombuffer(b"\0\0\x80\x3f", np.float32)[0] == 1  # this host is little-endian
