"""From a model's outputs to the answer's bytes."""

from __future__ import annotations

from torchship.script.manifest import Manifest
from torchship.script.tree import Flat
from torchship.serve.classification import classified
from torchship.serve.codec import Codec
from torchship.serve.drafts import Body, Draft
from torchship.serve.protocol import InferRequest, encode_outputs


async def encode_answer(
    codec: Codec, manifest: Manifest, request: InferRequest, outputs: Flat
) -> Body:
    """Return the body that answers a request, and its header length (None: JSON alone).

    Raises:
        RequestError: an output cannot be given in the form that was asked for.
        OverloadError: much JSON could not be made.
    """
    found = classified(outputs, request.outputs, manifest.labels)
    made = encode_outputs(request, manifest.name, manifest.version, found, request.id)
    return await codec.finish(made) if isinstance(made, Draft) else made
