"""Calls of golden cases made as clients make theirs: through the bytes of request and response.

What a client receives depends on decoding, checking, joining, splitting and encoding too. A model
whose outputs are right but cannot be encoded would be ready, and every request would fail.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future

import torch

from torchship.script.format.golden import Call
from torchship.script.format.manifest import Manifest
from torchship.script.format.tree import Flat
from torchship.serve.engine.admission import Admissions, Admitted
from torchship.serve.engine.batching import Batching
from torchship.serve.engine.execution import BatchRunner
from torchship.serve.engine.limits import Limits
from torchship.serve.engine.queue import Job
from torchship.serve.engine.runnable import Runnable
from torchship.serve.errors import DisagreementError
from torchship.serve.protocol.drafts import LARGE_JSON, AnswerDraft
from torchship.serve.protocol.messages import (
    InferRequest,
    decode_request,
    decode_response,
    encode_outputs,
    encode_request,
)
from torchship.serve.protocol.request_header import WantedOutput
from torchship.serve.protocol.tensors import (
    WITHOUT_JSON,
    RawTensor,
    Wire,
    datatype_of,
    to_binary,
)
from torchship.serve.protocol.wire_signature import Signature
from torchship.serve.system.heartbeat import Heartbeat


class GoldenRequests:
    """Takes requests through one engine's parts, in the calling thread."""

    def __init__(
        self,
        manifest: Manifest,
        batchings: Mapping[str, Batching],
        limits: Limits,
        runner: BatchRunner,
    ) -> None:
        """Take what the engine has."""
        self._manifest = manifest
        self._batchings = batchings
        self._methods = {
            name: (Signature(method), Admissions(method, batchings[name], limits))
            for name, method in manifest.methods.items()
        }
        self._runner = runner

    def calls(self, program: Runnable, heartbeat: Heartbeat) -> Call:
        """Return a function that makes the program's calls as clients make theirs.

        Each call shows in the heartbeat while it runs.
        """

        def call(method: str, inputs: Mapping[str, torch.Tensor]) -> Flat:
            signature, _ = self._methods[method]
            sent = signature.to_wire(inputs)
            came = _sent(sent, method, binary=True)
            if sum(value.nbytes for value in inputs.values()) <= LARGE_JSON:
                _check_alike("input", came, _sent(sent, method, binary=False))
            outputs = self._run(method, came, program, heartbeat)
            answered = self._answered(outputs, method, binary=True)
            if sum(value.nbytes for value in outputs.values()) <= LARGE_JSON:
                _check_alike("output", answered, self._answered(outputs, method, binary=False))
            return {name: v for name, v in answered.items() if isinstance(v, torch.Tensor)}

        return call

    def _run(
        self,
        method: str,
        inputs: Mapping[str, Wire],
        program: Runnable,
        heartbeat: Heartbeat,
    ) -> Mapping[str, RawTensor]:
        """Run a request as an engine does, one that is too large for one call in parts.

        Raises:
            TorchShipError: what a client would be told.
        """
        signature, admissions = self._methods[method]

        def run(given: Mapping[str, RawTensor], known: Admitted) -> Mapping[str, RawTensor]:
            job = Job(
                method=method,
                inputs=given,
                rows=known.rows,
                kind=known.kind,
                answer=Future(),
                symbols=known.symbols,
            )
            ((_, outcome),) = self._runner.run([job], lambda: program, heartbeat, [])
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        flat = signature.to_flat(inputs)
        admitted = admissions.admit(flat)
        if admitted.whole:
            return run(flat, admitted)
        parts = [run(part, known) for part, known in admissions.parts(flat, admitted)]
        return self._batchings[method].merge(parts)

    def _answered(
        self, outputs: Mapping[str, RawTensor], method: str, *, binary: bool
    ) -> Mapping[str, Wire]:
        """Return what a client reads in the response with these outputs."""
        form = {name: binary or _without_json(output) for name, output in outputs.items()}
        wanted = tuple(WantedOutput(name, form[name]) for name in outputs)
        request = InferRequest({}, wanted, parameters={"method": method, "non_finite": "string"})
        manifest = self._manifest
        made = encode_outputs(request, manifest.name, manifest.version, outputs, None)
        content, length = made.finish() if isinstance(made, AnswerDraft) else made
        return decode_response(content, None if length is None else str(length)).outputs


def _sent(inputs: Mapping[str, Wire], method: str, *, binary: bool) -> Mapping[str, Wire]:
    """Return what the server reads in a request with these inputs."""
    request = InferRequest(inputs, parameters={"method": method})
    body, length = encode_request(
        request, lambda name: binary or _without_json(inputs[name]), "string"
    )
    return decode_request(body, None if length is None else str(length)).inputs


def _without_json(value: Wire) -> bool:
    return datatype_of(value) in WITHOUT_JSON


def _check_alike(what: str, a: Mapping[str, Wire], b: Mapping[str, Wire]) -> None:
    """Compare tensors that were sent as binary data with the same ones sent as JSON.

    Raises:
        DisagreementError: a tensor differs.
    """
    for name in a.keys() | b.keys():
        if name not in a or name not in b or to_binary(a[name]) != to_binary(b[name]):
            raise DisagreementError(f"{what} '{name}' in JSON is another than in binary data")
