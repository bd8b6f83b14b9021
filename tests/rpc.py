"""Calls of the gRPC service, as messages and as bytes that no client library would send."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np

from torchship.serve.grpc import inference_pb2 as pb

SERVICE = "/inference.GRPCInferenceService/"

DTYPES = {
    "float32": "FP32", "float64": "FP64", "float16": "FP16", "bool": "BOOL",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
}  # fmt: skip


class Connection:
    """A connection to a server's gRPC port."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel

    def method(self, name: str) -> Callable[..., Any]:
        """Return a method of the service that takes a message and gives one."""
        described = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name[name]
        return self.channel.unary_unary(
            SERVICE + name,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=getattr(pb, described.output_type.name).FromString,
        )

    def infer(self, message: pb.ModelInferRequest, **more: Any) -> pb.ModelInferResponse:
        answer: pb.ModelInferResponse = self.method("ModelInfer")(message, **more)
        return answer

    def stream(self, messages: Iterator[pb.ModelInferRequest], **more: Any) -> Any:
        opened = self.channel.stream_stream(
            SERVICE + "ModelStreamInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )
        return opened(messages, **more)

    def raw(self, name: str, content: bytes, **more: Any) -> bytes:
        """Send bytes, and return the answer's."""
        method: Callable[..., bytes] = self.channel.unary_unary(SERVICE + name)
        return method(content, **more)


@contextmanager
def calling(
    server: Any, credentials: grpc.ChannelCredentials | None = None
) -> Iterator[Connection]:
    """Connect to a server, on a connection of its own."""
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
    ]
    opened = (
        grpc.insecure_channel(server.grpc, options)
        if credentials is None
        else grpc.secure_channel(server.grpc, credentials, options)
    )
    with opened as channel:
        yield Connection(channel)


def request(
    model: str, *, id: str = "", version: str = "", parameters: dict[str, Any] | None = None,
    **inputs: np.ndarray[Any, Any],
) -> pb.ModelInferRequest:  # fmt: skip
    """Return a request with raw contents."""
    message = pb.ModelInferRequest(model_name=model, model_version=version, id=id)
    for name, value in (parameters or {}).items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
        setattr(message.parameters[name], kind[type(value)], value)
    for name, array in inputs.items():
        add(message, name, DTYPES[array.dtype.name], array.shape)
        message.raw_input_contents.append(array.tobytes())
    return message


def add(
    message: pb.ModelInferRequest, name: str, datatype: str, shape: Any
) -> pb.InferTensorContents:
    """Add an input to a request, and return its typed contents."""
    tensor = message.inputs.add(name=name, datatype=datatype, shape=[int(n) for n in shape])
    return tensor.contents


def outputs(response: pb.ModelInferResponse) -> dict[str, bytes]:
    """Return an answer's raw outputs by name."""
    names = [output.name for output in response.outputs]
    return dict(zip(names, response.raw_output_contents, strict=True))


def refused(error: grpc.RpcError) -> tuple[str, str]:
    """Return the status and the message of an error."""
    assert isinstance(error, grpc.Call)
    return error.code().name, str(error.details())


def trailing(error: grpc.RpcError) -> dict[str, str]:
    """Return what came beside the status of an error."""
    found: Any = error
    return dict(found.trailing_metadata())
