"""Encodes a model's outputs as the bytes of an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias, TypeVar

from torchship.script.format.manifest import Manifest
from torchship.serve.protocol.classification import classified
from torchship.serve.protocol.drafts import LARGE_JSON, AnswerDraft, Body
from torchship.serve.protocol.large_json import LargeJsonCodec
from torchship.serve.protocol.messages import InferRequest, encode_outputs
from torchship.serve.protocol.tensors import RawTensor, Wire

T = TypeVar("T")

Encode: TypeAlias = Callable[[Manifest, InferRequest, Mapping[str, RawTensor]], Awaitable[T]]
"""Makes a transport's answer of a model's outputs; `encode_answer` is that of HTTP."""


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

    def made(found: Mapping[str, Wire]) -> Body | AnswerDraft:
        return encode_outputs(request, manifest.name, manifest.version, found, request.id)

    answer = await encode_ranked(manifest, request, outputs, made)
    return await codec.finish(answer) if isinstance(answer, AnswerDraft) else answer


async def encode_ranked(
    manifest: Manifest,
    request: InferRequest,
    outputs: Mapping[str, RawTensor],
    encode: Callable[[Mapping[str, Wire]], T],
) -> T:
    """Encode the outputs, with class labels in place of those that are asked for as such.

    Raises:
        RequestError: an output has no classes; or as `encode`.
    """
    ranked = [output.name for output in request.outputs if output.classes]

    def made() -> T:
        return encode(classified(outputs, request.outputs, manifest.labels) if ranked else outputs)

    if sum(outputs[name].nbytes for name in ranked if name in outputs) > LARGE_JSON:
        # Sorting releases the GIL, and the rest runs element by element, so a thread is enough.
        return await asyncio.to_thread(made)
    return made()
