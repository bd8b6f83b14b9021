"""One inference request, from what was asked to the encoded answer, for every transport."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias, TypeVar

from torchship.serve.engine.engine import Engine
from torchship.serve.protocol.messages import InferRequest
from torchship.serve.protocol.output_encoding import Encode
from torchship.serve.protocol.tensors import check_sizes
from torchship.serve.sequences.sequences import Sequences
from torchship.serve.telemetry.records import Record

T = TypeVar("T")

Target: TypeAlias = tuple[str, str | None]
"""A model's name and version; without a version the newest is meant."""


class InferenceService:
    """Runs requests and steps of sequences on engines that the transports have found."""

    def __init__(self, sequences: Sequences, max_tensor_bytes: int | None = None) -> None:
        """Refuse input tensors of more than `max_tensor_bytes`; None for no limit."""
        self._sequences = sequences
        self._max_tensor_bytes = max_tensor_bytes

    async def run(
        self,
        engine: Engine,
        target: Target,
        request: InferRequest,
        encode: Encode[T],
        record: Record,
        gone: Callable[[], bool] | None = None,
    ) -> T:
        """Run a request on the engine that its target names, or its sequence's.

        `gone` returns whether the client has left. The times are written to `record`.

        Raises:
            TorchShipError: as `Engine.call`, `Sequences.run` and `encode`.
            TensorTooLargeError: an input is over the limit.
        """
        if self._max_tensor_bytes is not None:
            check_sizes(request.inputs, self._max_tensor_bytes)
        if request.in_sequence:
            record.decoded = time.perf_counter()
            return await self._sequences.run(*target, request, encode, gone, record)
        signature = engine.signature(request.method)
        inputs = signature.to_flat(request.inputs)
        record.decoded = time.perf_counter()
        outputs = await engine.call(
            request.method,
            inputs,
            wanted=signature.wanted(request.asked),
            priority=request.priority,
            timeout=request.timeout,
            gone=gone,
        )
        record.inference_finished = time.perf_counter()
        return await encode(engine.manifest, request, outputs)
