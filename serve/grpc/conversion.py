"""Requests and answers of the protocol as gRPC messages, to the messages of every transport."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from torchship.script.format.manifest import Manifest
from torchship.serve.errors import RequestError
from torchship.serve.grpc import inference_pb2 as pb
from torchship.serve.grpc.tensor_contents import read_contents, write_contents
from torchship.serve.protocol.messages import InferRequest, InferResponse, check_outputs
from torchship.serve.protocol.request_header import read_head
from torchship.serve.protocol.tensors import (
    RawTensor,
    Strings,
    Wire,
    check_datatype,
    check_shape,
    datatype_of,
    from_binary,
    to_binary,
    unpacked,
)

M = TypeVar("M", bound=Message)

BINARY_DATA_SIZE = "binary_data_size"  # of HTTP; here the contents have their own length


def parse(kind: type[M], data: bytes) -> M:
    """Return the message that the bytes hold.

    Raises:
        RequestError: they hold none, or one whose text is not UTF-8.
    """
    try:
        return kind.FromString(data)
    except DecodeError:
        name = kind.DESCRIPTOR.name
        raise RequestError(f"the message: expected a {name}, got other bytes") from None


def read_request(message: pb.ModelInferRequest) -> InferRequest:
    """Return the request that a message holds; its raw tensors share the message's memory.

    Raises:
        RequestError: it does not follow the protocol, or contradicts itself.
    """
    raw = list(message.raw_input_contents)
    if raw and len(raw) != len(message.inputs):
        raise RequestError(
            f"expected one of raw_input_contents for each of {len(message.inputs)} inputs, "
            f"got {len(raw)}"
        )
    inputs = []
    for number, tensor in enumerate(message.inputs):
        if raw and tensor.HasField("contents") and tensor.contents.ByteSize():
            raise RequestError(
                f"input '{tensor.name}': expected either contents or raw_input_contents, got both"
            )
        parameters = values_of(tensor.parameters)
        parameters.pop(BINARY_DATA_SIZE, None)
        inputs.append(
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": list(tensor.shape),
                "parameters": parameters,
                "data": memoryview(raw[number]) if raw else tensor.contents,
            }
        )
    outputs = [
        {"name": output.name, "parameters": values_of(output.parameters)}
        for output in message.outputs
    ]
    head = read_head(
        {
            "id": message.id or None,
            "parameters": values_of(message.parameters),
            "inputs": inputs,
            "outputs": outputs,
        }
    )
    tensors: dict[str, Wire] = {}
    for header in head.inputs:
        data = header.data
        if isinstance(data, memoryview):
            read = from_binary(header.what, header.datatype, header.shape, data)
        else:
            assert isinstance(data, pb.InferTensorContents)
            read = read_contents(header.what, header.datatype, header.shape, data)
        tensors[header.name] = read
    return InferRequest(tensors, head.outputs, head.id, head.parameters)


def typed_bytes(message: pb.ModelInferRequest) -> int:
    """Return the size of the contents that have to be read element by element."""
    return 0 if message.raw_input_contents else message.ByteSize()


def values_of(
    parameters: Mapping[str, pb.InferParameter] | Mapping[str, pb.ModelRepositoryParameter],
) -> dict[str, object]:
    """Return parameters as Python values; None for one without a value."""
    found: dict[str, object] = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        found[name] = None if choice is None else getattr(parameter, choice)
    return found


def write_answer(
    manifest: Manifest, request: InferRequest, outputs: Mapping[str, Wire]
) -> pb.ModelInferResponse:
    """Return the answer to a request, with the outputs that it asks for.

    They are raw, which is faster and what every client reads, unless the request wants each of them
    otherwise: `binary_data_output` false, or `binary_data` false of an output. A message has either
    raw or typed outputs.

    Raises:
        RequestError: a requested output does not exist, or has no typed form.
    """
    names = [output.name for output in request.outputs] or list(outputs)
    check_outputs(names, outputs)
    response = pb.ModelInferResponse(
        model_name=manifest.name, model_version=manifest.version, id=request.id or ""
    )
    typed = _wants_typed(request)
    for name in names:
        value = outputs[name]
        tensor = response.outputs.add(name=name, datatype=datatype_of(value), shape=value.shape)
        if typed:
            write_contents(f"output '{name}'", value, tensor.contents)
        else:
            response.raw_output_contents.append(bytes(to_binary(value)))
    return response


def _wants_typed(request: InferRequest) -> bool:
    general = request.parameters.get("binary_data_output") is not False
    if not request.outputs:
        return not general
    wanted = (general if output.binary is None else output.binary for output in request.outputs)
    return not any(wanted)


def write_request(
    model: str, version: str | None, request: InferRequest, raw: bool = True
) -> pb.ModelInferRequest:
    """Return the message of a client's request, with raw or typed contents.

    Raises:
        RequestError: an input has no typed form.
    """
    message = pb.ModelInferRequest(
        model_name=model, model_version=version or "", id=request.id or ""
    )
    for name, given in request.parameters.items():
        set_parameter(message.parameters[name], given)
    for output in request.outputs:
        message.outputs.add(name=output.name)
    for name, value in request.inputs.items():
        tensor = message.inputs.add(name=name, datatype=datatype_of(value), shape=value.shape)
        if raw:
            message.raw_input_contents.append(bytes(to_binary(value)))
        else:
            write_contents(f"input '{name}'", value, tensor.contents)
    return message


def set_parameter(parameter: pb.InferParameter, value: object) -> None:
    """Set a parameter to a value of one of its types."""
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int):
        parameter.int64_param = value
    elif isinstance(value, float):
        parameter.double_param = value
    else:
        parameter.string_param = str(value)


def read_response(message: pb.ModelInferResponse) -> InferResponse:
    """Return a server's answer.

    Raises:
        RequestError: it does not follow the protocol.
    """
    raw = list(message.raw_output_contents)
    if raw and len(raw) != len(message.outputs):
        raise RequestError(
            f"expected one of raw_output_contents for each of {len(message.outputs)} outputs, "
            f"got {len(raw)}"
        )
    outputs = {}
    for number, tensor in enumerate(message.outputs):
        what = f"output '{tensor.name}'"
        datatype = check_datatype(what, tensor.datatype)
        shape = check_shape(what, list(tensor.shape))
        read: RawTensor | Strings
        if raw:
            read = from_binary(what, datatype, shape, memoryview(raw[number]))
        else:
            read = read_contents(what, datatype, shape, tensor.contents)
        outputs[tensor.name] = unpacked(read)
    return InferResponse(message.model_name, message.model_version, outputs, message.id or None)
