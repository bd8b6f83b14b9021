"""A worked example of a live model: a request and its answer, from one of its golden cases."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from torchship.script.format.golden import Case
from torchship.script.format.nodes import leaves
from torchship.script.format.tree import matches
from torchship.serve.engine.engine import Engine
from torchship.serve.errors import RequestError
from torchship.serve.protocol.messages import (
    InferRequest,
    InferResponse,
    encode_request,
    encode_response,
)
from torchship.serve.protocol.tensors import Value

MAX_BYTES = 1 << 20  # of a body in the document


@dataclass(frozen=True)
class Example:
    """Two bodies; a header length is None where the body is JSON alone."""

    case: str
    request: bytes
    request_length: int | None
    response: bytes
    response_length: int | None

    @property
    def is_json(self) -> bool:
        """Whether both bodies are JSON alone."""
        return self.request_length is None and self.response_length is None

    def as_base64(self) -> dict[str, object]:
        """Return both bodies as text, and the lengths of their JSON."""
        return {
            "request": base64.b64encode(self.request).decode(),
            "request_header_length": self.request_length,
            "response": base64.b64encode(self.response).decode(),
            "response_header_length": self.response_length,
        }


def example_of(engine: Engine) -> Example | None:
    """Return the smallest example that a model's golden cases give; None if all are too large.

    `forward` goes before other methods, JSON before binary data.
    """
    found = [made for case in engine.golden for made in _from(engine, case)]
    usable = [made for made in found if len(made[1].request) + len(made[1].response) <= MAX_BYTES]
    return min(usable, key=lambda made: made[0])[1] if usable else None


def _from(engine: Engine, case: Case) -> list[tuple[tuple[bool, bool, int], Example]]:
    step, manifest = case.steps[0], engine.manifest
    values = engine.signature(case.method).to_wire(step.inputs)
    outputs: dict[str, Value] = {
        name: tensor
        for leaf in leaves(manifest.methods[case.method].outputs)  # in the model's order
        for name, tensor in step.outputs.items()
        if matches(leaf.name, name)
    }
    response = InferResponse(manifest.name, manifest.version, outputs)
    made = []
    for binary in (False, True):
        parameters: dict[str, object] = {}
        if case.method != "forward":
            parameters["method"] = case.method
        if binary:
            parameters["binary_data_output"] = True
        request = InferRequest(values, parameters=parameters)
        try:
            asked, length = encode_request(request, {name: binary for name in values}.__getitem__)
            answered, answer_length = encode_response(request, response)
        except RequestError:  # JSON cannot carry it
            continue
        example = Example(case.name, asked, length, answered, answer_length)
        order = (case.method != "forward", binary, len(asked) + len(answered))
        made.append((order, example))
    return made
