"""Encodes a model's outputs as the bytes of an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from torchship.script.format.manifest import Manifest
from torchship.serve.protocol.classification import classified
from torchship.serve.protocol.drafts import LARGE_JSON, AnswerDraft, Body
from torchship.serve.protocol.large_json import LargeJsonCodec
from torchship.serve.protocol.messages import InferRequest, encode_outputs
from torchship.serve.protocol.tensors import RawTensor


async def encode_answer(
    codec: LargeJsonCodec,
    manifest: Manifest,
    request: InferRequest,
    outputs: Mapping[str, RawTensor],
) -> Body:
    """Return the body that answers a request, and its header length (None: JSON alone).

    Raises:
        RequestError: an output cannot be sent in the requested form.
        OverloadError: no helper process could encode large JSON.
    """
    ranked = [output.name for output in request.outputs if output.classes]

    def made() -> Body | AnswerDraft:
        found = classified(outputs, request.outputs, manifest.labels) if ranked else outputs
        return encode_outputs(request, manifest.name, manifest.version, found, request.id)

    if sum(outputs[name].nbytes for name in ranked if name in outputs) > LARGE_JSON:
        # Sorting releases the GIL, and the rest runs element by element, so a thread is enough.
        answer = await asyncio.to_thread(made)
    else:
        answer = made()
    return await codec.finish(answer) if isinstance(answer, AnswerDraft) else answer
