"""Our gRPC service in Ray's gRPC proxies, which know of it only its methods.

A message passes through the proxy as its bytes: the replica reads it, with the limits and errors
that it has everywhere.
"""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.message import DecodeError

from torchship.serve.grpc import inference_pb2 as pb
from torchship.serve.grpc.call import SERVICE

METHODS = {m.name: m for m in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods}
STREAMED = frozenset(name for name, method in METHODS.items() if method.client_streaming)


def add_to_proxy(servicer: Any, server: Any) -> None:
    """Add the service to a proxy; `gRPCOptions.grpc_servicer_functions` names this function.

    Args:
        servicer: Ray's, whose methods are never called: the proxy puts its own in their place.
        server: the proxy.
    """
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        name: (
            grpc.stream_stream_rpc_method_handler(getattr(servicer, name))
            if name in STREAMED
            else grpc.unary_unary_rpc_method_handler(getattr(servicer, name))
        )
        for name in METHODS
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


def model_of_message(method: str, message: bytes) -> str | None:
    """Return the model that a message of a method names; None if it names none or is no message."""
    if method not in METHODS:
        return None
    kind: Any = getattr(pb, METHODS[method].input_type.name)
    try:
        return name_in(kind.FromString(message))
    except DecodeError:
        return None


def name_in(message: object) -> str | None:
    """Return the model that a message names; None if it names none."""
    return getattr(message, "model_name", "") or getattr(message, "name", "") or None
