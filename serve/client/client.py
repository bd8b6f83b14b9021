"""A small client of the Open Inference Protocol V2 that returns the model's values exactly."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import httpx
import orjson
import torch

from torchship.script.errors import UsageError
from torchship.script.format.dtypes import BY_NAME
from torchship.script.format.manifest import Method
from torchship.script.format.nodes import TensorNode, leaves
from torchship.script.format.tree import Flat
from torchship.serve.errors import RequestError, ServerError
from torchship.serve.protocol.messages import (
    HEADER_LENGTH,
    InferRequest,
    decode_response,
    encode_request,
)
from torchship.serve.protocol.request_header import WantedOutput
from torchship.serve.protocol.tensors import WITHOUT_JSON, datatype_of
from torchship.serve.protocol.wire_signature import Signature


class Client:
    """A connection to a server at `base_url`; close it, or use it in a `with` statement."""

    def __init__(
        self,
        base_url: str,
        timeout: float = 60.0,
        *,
        api_key: str | None = None,
        certificate: Path | None = None,
    ) -> None:
        """Ask a server, with an API key if it wants one.

        `certificate` is the PEM file of the certificate that a server with TLS must show, whatever
        name and authority it has; without, its name must be right and its authority known.

        Raises:
            UsageError: the certificate cannot be read.
        """
        # With trust_env, requests to a loopback address would go to the environment's proxy.
        self._http = httpx.Client(
            base_url=base_url,
            timeout=timeout,
            trust_env=False,
            headers={} if api_key is None else {"X-API-Key": api_key},
            verify=True if certificate is None else _only(certificate),
        )

    def __enter__(self) -> Client:
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
        self._http.close()

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

        `binary` chooses the binary tensor extension or JSON. FP16 and BF16, which have no JSON
        form, are binary either way; values that are not finite are strings in JSON.

        Raises:
            ServerError: the server cannot be reached, or answers with an error.
            RequestError: JSON cannot carry an input, an input is unknown, or the answer does not
                follow the protocol.
        """
        request = InferRequest(
            Signature(signature).to_wire(inputs),
            () if binary else _half_precision(signature),
            parameters={
                "method": method,
                "binary_data_output": binary,
                "non_finite": "string",
            },
        )
        body, header_length = encode_request(
            request,
            lambda name: binary or datatype_of(request.inputs[name]) in WITHOUT_JSON,
            "string",
        )
        headers = {"Content-Type": "application/json"}
        if header_length is not None:
            headers = {
                "Content-Type": "application/octet-stream",
                HEADER_LENGTH: str(header_length),
            }
        path = f"/v2/models/{name}" + ("" if version is None else f"/versions/{version}")
        answer = self._post(f"{path}/infer", body, headers)
        response = decode_response(answer.content, answer.headers.get(HEADER_LENGTH))
        return {
            name: value
            for name, value in response.outputs.items()
            if isinstance(value, torch.Tensor)
        }

    def _post(self, path: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
        try:
            answer = self._http.post(path, content=body, headers=headers)
        except httpx.HTTPError as error:
            raise ServerError(
                0, f"no answer from {self._http.base_url}: {type(error).__name__}: {error}"
            ) from None
        if answer.status_code != 200:
            raise ServerError(answer.status_code, _message(answer))
        return answer


def _only(certificate: Path) -> ssl.SSLContext:
    """Return a context that trusts one certificate, and what it vouches for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(certificate)
    except OSError as error:  # ssl.SSLError is one
        raise UsageError(f"cannot use the certificate '{certificate}': {error.strerror}") from None
    return context


def _half_precision(signature: Method) -> tuple[WantedOutput, ...]:
    """Return the outputs to ask for by name if some have no JSON form; else none, for all."""
    outputs = list(leaves(signature.outputs))
    binary = {
        leaf.name: isinstance(leaf, TensorNode) and BY_NAME[leaf.dtype].wire in WITHOUT_JSON
        for leaf in outputs
    }
    if not any(binary.values()):
        return ()
    if any("*" in name for name in binary):
        raise RequestError("outputs of half precision in a list or dict of any size: use binary")
    return tuple(WantedOutput(name, half) for name, half in binary.items())


def _message(answer: httpx.Response) -> str:
    try:
        return str(orjson.loads(answer.content)["error"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return f"HTTP status {answer.status_code}"
