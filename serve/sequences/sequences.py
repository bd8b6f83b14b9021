"""Sequences: steps of a recurrent model whose state stays on the server.

A step is an ordinary call with the state among its inputs, so steps of different sequences are
batched like any requests. The parameters are those of Triton's sequence extension.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import TypeVar

import torch

from torchship.script.runtime.program import check_inputs, initial_state
from torchship.serve.engine.engine import Engine
from torchship.serve.errors import (
    DeadlineError,
    LostSequenceError,
    NoStateError,
    RequestError,
    UnknownModelError,
)
from torchship.serve.protocol.drafts import Body
from torchship.serve.protocol.large_json import LargeJsonCodec
from torchship.serve.protocol.messages import InferRequest
from torchship.serve.protocol.output_encoding import Encode, encode_answer
from torchship.serve.protocol.tensors import pack_all
from torchship.serve.repository.repository import Repository
from torchship.serve.sequences.memory_store import MemoryStore
from torchship.serve.sequences.steps import fits, found, going_on
from torchship.serve.sequences.store import (
    SequenceKey,
    SequenceState,
    Store,
    Turn,
    read_state,
)
from torchship.serve.telemetry.records import Record

T = TypeVar("T")


@dataclass(frozen=True)
class Stream:
    """A sequence that belongs to one connection."""

    sequences: Sequences
    key: SequenceKey
    version: str | None
    """The requested version."""
    opened: str
    """The version that was live when the stream was opened."""
    turn: Turn

    @property
    def on_version(self) -> str:
        """The version on which the sequence runs, or will begin."""
        return self.turn.state.version if self.turn.state else self.opened

    async def step(
        self, request: InferRequest, gone: Callable[[], bool] | None, record: Record
    ) -> Body:
        """Run the next step; the first step, and one after an end, starts with the initial state.

        `gone` and `record` are as in `Sequences.answer`.

        Raises:
            RequestError: the request names another sequence; otherwise as `Sequences.answer`.
        """
        if request.sequence_id is not None:
            raise RequestError("parameter 'sequence_id': a stream is a sequence of its own")
        # A lost state stays lost until a message says sequence_start: messages that the client has
        # already sent expect their sequence to continue, and must not begin another.
        start = request.sequence_start or self.turn.state is None
        sequences = self.sequences
        return await sequences.step(
            *(self.turn, self.key, self.version, request, start, sequences.encode),
            *(request.timeout, gone, record),
        )


class Sequences:
    """The sequences of all models of a repository.

    A sequence is identified by its model and id. It stays on the version on which it began. Its
    steps may use different methods if these have the same state.
    """

    def __init__(
        self,
        repository: Repository,
        store: Store,
        codec: LargeJsonCodec | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep the state of the repository's models in a store; the clock is for timeouts."""
        self._repository = repository
        self.encode: Encode[Body] = partial(encode_answer, codec or LargeJsonCodec())
        """Encodes answers as HTTP has them."""
        self._clock = clock
        self._store = store
        # A stream's sequence is used by its own connection only, so it stays in this process.
        self._streams = store if isinstance(store, MemoryStore) else MemoryStore(inf, store.most)
        self.most = store.most

    async def live(self) -> int:
        """Return how many sequences are live.

        Raises:
            StateStoreError: the store failed.
        """
        streams = 0 if self._streams is self._store else await self._streams.live()
        return streams + await self._store.live()

    async def close(self) -> None:
        """Close the store."""
        await self._store.close()
        await self._streams.close()

    async def answer(
        self,
        model: str,
        version: str | None,
        request: InferRequest,
        gone: Callable[[], bool] | None = None,
        record: Record | None = None,
    ) -> Body:
        """Run a step of a sequence as `run` does, and return the answer as HTTP has it."""
        return await self.run(model, version, request, self.encode, gone, record)

    async def run(
        self,
        model: str,
        version: str | None,
        request: InferRequest,
        encode: Encode[T],
        gone: Callable[[], bool] | None = None,
        record: Record | None = None,
    ) -> T:
        """Run a step of a sequence when it gets its turn, and return the encoded answer.

        `gone` returns whether the client has disconnected, in which case the step is not run. On
        any error, encoding included, the state stays unchanged. A request with the idempotency key
        of the sequence's last step is a retry and runs on the state before that step. The version
        and the time when the outputs were ready are written to `record`.

        Raises:
            UnknownSequenceError, ExpiredSequenceError, LostSequenceError: there is no sequence.
            TooManySequencesError: a further sequence cannot begin.
            NoStateError, RequestError, InputError, ModelError: the request is invalid.
            DeadlineError: the request's timeout passed before its turn.
            StateStoreError: the store failed.
        """
        if request.sequence_id is None:
            raise RequestError("expected a sequence_id with sequence_start or sequence_end")
        key = SequenceKey(model, request.sequence_id)
        arrived = self._clock()
        async with self._turn(key, request.sequence_start) as turn:
            timeout = request.timeout
            if timeout is not None:
                timeout -= self._clock() - arrived
                if timeout <= 0:
                    raise DeadlineError("the request waited longer than its timeout")
            start = request.sequence_start
            return await self.step(
                *(turn, key, version, request, start, encode, timeout, gone, record)
            )

    @asynccontextmanager
    async def stream(self, model: str, version: str | None) -> AsyncIterator[Stream]:
        """Open a new sequence for the length of the block.

        Raises:
            UnknownModelError, NotReadyError: there is no such live model.
            TooManySequencesError: a further sequence cannot begin.
        """
        opened = self._repository.find(model, version).manifest.version
        key = SequenceKey(model, f"stream-{uuid.uuid4().hex}")
        async with self._streams.turn(key, opening=True) as turn:
            try:
                yield Stream(self, key, version, opened, turn)
            finally:
                turn.end()

    async def step(
        self,
        turn: Turn,
        key: SequenceKey,
        version: str | None,
        request: InferRequest,
        start: bool,
        encode: Encode[T],
        timeout: float | None = None,
        gone: Callable[[], bool] | None = None,
        record: Record | None = None,
    ) -> T:
        """Run one step in the caller's turn; see `run`."""
        if start:
            engine = self._repository.find(key.model, version)
        else:
            engine = self._engine(turn, key, version)
        record = record or Record()
        record.model, record.version = engine.manifest.name, engine.manifest.version
        signature = engine.signature(request.method)
        method = signature.method
        if not method.state:
            raise NoStateError(
                f"model '{key.model}' method '{request.method}' has no state: expected a request "
                "without a sequence"
            )
        inputs = signature.to_flat(request.inputs)
        if start:
            carried = initial_state(method, inputs, check_inputs(method, inputs))
        else:
            carried = going_on(engine, key, turn, request, inputs)
        inputs |= pack_all(carried)
        wanted = signature.wanted(request.asked)
        if wanted is not None:
            wanted |= {state.output for state in method.state}
        with engine:  # a reload meanwhile must not close the engine of this step
            outputs = await engine.call(
                request.method,
                inputs,
                wanted=wanted,
                priority=request.priority,
                timeout=timeout,
                gone=gone,
            )
        record.inference_finished = time.perf_counter()
        content = await encode(engine.manifest, request, outputs)
        if request.sequence_end:
            turn.end()
        else:
            tensors = {
                state.input: outputs[state.output].tensor()
                for state in method.state
                if state.output in outputs
            }
            kept = SequenceState(engine.manifest.version, request.method, tensors, engine.digest)
            if request.idempotency_key and not start:  # retrying a start needs no earlier state
                kept = replace(kept, step=request.idempotency_key, before=carried)
            turn.keep(kept)
        return content

    def _engine(self, turn: Turn, key: SequenceKey, version: str | None) -> Engine:
        """Return the engine of a sequence; a requested version must be the sequence's own.

        Raises:
            LostSequenceError: the archive that made the state was unloaded or replaced.
        """
        state = found(turn, key)
        if version not in (None, state.version):
            raise RequestError(
                f"{key} is on version '{state.version}': expected that or none, got '{version}'"
            )
        try:
            engine = self._repository.find(key.model, state.version)
        except UnknownModelError:
            raise LostSequenceError(
                f"{key} has ended: it was on version '{state.version}', which is gone; start anew"
            ) from None
        if state.digest != engine.digest:
            raise LostSequenceError(
                f"{key} has ended: its state was made by another archive of version "
                f"'{state.version}' than the one that is served now; start anew"
            )
        known = engine.signatures.get(state.method)
        if known is None or not fits(known.method, state.tensors):
            raise LostSequenceError(
                f"{key} has ended: what is stored is no state of that model; start anew"
            )
        return engine

    @asynccontextmanager
    async def _turn(self, key: SequenceKey, opening: bool) -> AsyncIterator[Turn]:
        """Get a turn from the store; a sequence that turns out to be lost is freed."""
        async with self._store.turn(key, opening) as turn:
            try:
                yield turn
            except LostSequenceError:
                turn.end()
                raise

    async def export(self, model: str, id: str) -> bytes:
        """Return a sequence's state as safetensors.

        Its metadata are `version`, `method` and `digest` (the SHA-256 of the archive).

        Raises:
            UnknownSequenceError, ExpiredSequenceError, LostSequenceError: there is none.
            StateStoreError: the store failed.
        """
        async with self._turn_of(model, id) as (_, _, state):
            return replace(state, step="", before={}).to_bytes()

    async def put(self, model: str, id: str, data: bytes) -> None:
        """Set the state of a sequence, which begins if it does not exist.

        Version and method come from the metadata; the defaults are the newest version and
        `forward`. A state without a digest, made by a client, is accepted for the served archive.

        Raises:
            LostSequenceError: the digest is that of another archive.
            RequestError, InputError: the bytes are not a state of that method.
            NoStateError: the method has no state.
            UnknownModelError, NotReadyError: the version is not live.
            TooManySequencesError: a further sequence cannot begin.
            StateStoreError: the store failed.
        """
        tensors, metadata = read_state(data)
        name = metadata.get("method", "forward")
        engine = self._repository.find(model, metadata.get("version"))
        method = engine.signature(name).method
        if not method.state:
            raise NoStateError(f"model '{model}' method '{name}' has no state")
        names = {state.input for state in method.state}
        if not fits(method, tensors):
            raise RequestError(
                f"the state: expected {_listed(names)}, got {_listed(tensors) or 'none'}"
            )
        version, digest = engine.manifest.version, engine.digest
        if metadata.get("digest", digest) != digest:
            raise LostSequenceError(
                f"the state was made by another archive of model '{model}' version '{version}' "
                f"than the one that is served now: expected digest {digest}; start anew"
            )
        check_inputs(method, tensors)
        async with self._turn(SequenceKey(model, id), opening=True) as turn:
            turn.keep(SequenceState(version, name, tensors, digest))

    async def reset(self, model: str, id: str) -> None:
        """Reset a sequence to the initial state that the manifest defines.

        Raises:
            UnknownSequenceError, ExpiredSequenceError, LostSequenceError: there is none.
            StateStoreError: the store failed.
        """
        async with self._turn_of(model, id) as (key, turn, state):
            method = self._engine(turn, key, None).signature(state.method).method
            zeros = {
                name: torch.zeros_like(state.tensors[name])
                for name in (part.input for part in method.state if part.start == "zeros")
            }
            turn.keep(replace(state, tensors=zeros, step="", before={}))

    async def end(self, model: str, id: str) -> None:
        """Free a sequence's state.

        Raises:
            UnknownSequenceError, ExpiredSequenceError, LostSequenceError: there is none.
            StateStoreError: the store failed.
        """
        async with self._turn_of(model, id) as (_, turn, _):
            turn.end()

    @asynccontextmanager
    async def _turn_of(
        self, model: str, id: str
    ) -> AsyncIterator[tuple[SequenceKey, Turn, SequenceState]]:
        """Get a turn of an existing sequence."""
        key = SequenceKey(model, id)
        async with self._turn(key, opening=False) as turn:
            yield key, turn, found(turn, key)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))
