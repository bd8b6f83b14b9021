"""The same client over gRPC."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType

import grpc
import torch

from torchship.script.format.manifest import Method
from torchship.script.format.tree import Flat
from torchship.serve.errors import STATUS, ServerError
from torchship.serve.grpc import inference_pb2 as pb
from torchship.serve.grpc.call import SERVICE
from torchship.serve.grpc.conversion import parse, read_response, write_request
from torchship.serve.protocol.messages import InferRequest
from torchship.serve.protocol.wire_signature import Signature

HTTP_OF = {known.grpc: known.http for known in reversed(STATUS.values())}
"""An HTTP status for each gRPC status that the server gives: the first of the table."""


class GrpcClient:
    """A connection to a server's gRPC port; close it, or use it in a `with` statement."""

    def __init__(self, address: str, timeout: float = 60.0) -> None:
        """Connect to an address such as `127.0.0.1:8001`, when the first request is sent."""
        self._address = address.removeprefix("grpc://")
        self._timeout = timeout
        # The environment's proxy is for other hosts, as in `Client`.
        options = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", -1)]
        self._channel = grpc.insecure_channel(self._address, options)
        self._infer: Callable[..., bytes] = self._channel.unary_unary(
            f"/{SERVICE}/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=None,
        )

    def __enter__(self) -> GrpcClient:
        """Return the client."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def infer(
        self,
        name: str,
        signature: Method,
        inputs: Mapping[str, torch.Tensor],
        method: str = "forward",
        binary: bool = True,
        version: str | None = None,
    ) -> Flat:
        """Run a method of a model on the server; inputs and outputs are flat, as in `Program.call`.

        `binary` chooses raw or typed contents.

        Raises:
            ServerError: the server cannot be reached, or answers with an error.
            RequestError: typed contents cannot carry an input, an input is unknown, or the answer
                does not follow the protocol.
        """
        request = InferRequest(
            Signature(signature).to_wire(inputs),
            parameters={"method": method, "binary_data_output": binary},
        )
        message = write_request(name, version, request, binary)
        try:
            answer = self._infer(message, timeout=self._timeout)
        except grpc.RpcError as error:
            assert isinstance(error, grpc.Call)
            status = HTTP_OF.get(error.code().name, 0)
            raise ServerError(status, str(error.details())) from None
        response = read_response(parse(pb.ModelInferResponse, answer))
        return {
            name: value
            for name, value in response.outputs.items()
            if isinstance(value, torch.Tensor)
        }
