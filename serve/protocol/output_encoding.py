"""From a model's outputs to the answer's bytes."""

from __future__ import annotations

import asyncio

from torchship.script.format.manifest import Manifest
from torchship.script.format.tree import Flat
from torchship.serve.protocol.classification import classified
from torchship.serve.protocol.drafts import LARGE_JSON, AnswerDraft, Body
from torchship.serve.protocol.large_json import LargeJsonCodec
from torchship.serve.protocol.messages import InferRequest, encode_outputs


async def encode_answer(
    codec: LargeJsonCodec, manifest: Manifest, request: InferRequest, outputs: Flat
) -> Body:
    """Return the body that answers a request, and its header length (None: JSON alone).

    Raises:
        RequestError: an output cannot be given in the form that was asked for.
        OverloadError: much JSON could not be made.
    """

    def made() -> Body | AnswerDraft:
        found = classified(outputs, request.outputs, manifest.labels)
        return encode_outputs(request, manifest.name, manifest.version, found, request.id)

    ranked = [output.name for output in request.outputs if output.classes]
    if sum(outputs[name].nbytes for name in ranked if name in outputs) > LARGE_JSON:
        # Sorting lets go of Python's lock; the rest is done an element at a time.
        answer = await asyncio.to_thread(made)
    else:
        answer = made()
    return await codec.finish(answer) if isinstance(answer, AnswerDraft) else answer
