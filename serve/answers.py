"""From a model's outputs to the answer's bytes."""

from __future__ import annotations

from torchship.script.manifest import Manifest
from torchship.script.tree import Flat
from torchship.serve.classification import classified
from torchship.serve.protocol import InferRequest, InferResponse, encode_response


def encode_answer(
    manifest: Manifest, request: InferRequest, outputs: Flat
) -> tuple[bytes, int | None]:
    """Return the body that answers a request, and its header length (None: JSON alone).

    Raises:
        RequestError: an output cannot be given in the form that was asked for.
    """
    found = classified(outputs, request.outputs, manifest.labels)
    response = InferResponse(manifest.name, manifest.version, found, request.id)
    return encode_response(request, response)
