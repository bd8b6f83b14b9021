"""What a store of sequences is: the state that one carries on, its turns, and its bytes.

A store keeps the order of a sequence's requests, the cap on live sequences and the idle time; what
the state means to a model is the business of `sequences`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import orjson
import safetensors.torch
from safetensors import SafetensorError

from torchship.script.format.plain_tensors import plain
from torchship.script.format.tree import Flat
from torchship.serve.errors import RequestError, TooManySequencesError

LENGTH_BYTES = 8  # of the header, at the beginning of safetensors
LONGEST_HEADER = 1 << 18  # bytes; a state has a few tensors, and to read many takes long
BEFORE = "before:"  # marks the tensors of the state before the last step; no input has such a name


@dataclass(frozen=True)
class SequenceKey:
    """Which sequence: ids are the client's own, and each model has its own."""

    model: str
    id: str

    def __str__(self) -> str:
        return f"sequence '{self.id}' of model '{self.model}'"


@dataclass(frozen=True)
class SequenceState:
    """What a sequence carries from step to step: tensors by the names of the state's inputs."""

    version: str
    """The model version on which it began, and stays."""
    method: str
    tensors: Flat
    digest: str = ""
    """The SHA-256 of the archive that made it; "" where nobody said: then no archive goes on."""
    step: str = ""
    """The idempotency key of the step that made it; "" for none, and for a sequence's start."""
    before: Flat = field(default_factory=dict)
    """The tensors before that step, kept for its retry."""

    def to_bytes(self) -> bytes:
        """Return it as safetensors, with `version`, `method` and `digest` as metadata."""
        tensors = self.tensors | {BEFORE + name: tensor for name, tensor in self.before.items()}
        said = {"version": self.version, "method": self.method}
        said |= {"digest": self.digest} if self.digest else {}
        said |= {"step": self.step} if self.step else {}
        whole = {name: plain(tensor).contiguous() for name, tensor in tensors.items()}
        return safetensors.torch.save(whole, said)

    @classmethod
    def from_bytes(cls, data: bytes) -> SequenceState:
        """Return what `to_bytes` wrote.

        Raises:
            RequestError: the bytes are something else.
        """
        tensors, said = read_state(data)
        if not {"version", "method"} <= said.keys():
            raise RequestError("the state: expected 'version' and 'method' in its metadata")
        now = {name: tensor for name, tensor in tensors.items() if not name.startswith(BEFORE)}
        before = {name.removeprefix(BEFORE): tensors[name] for name in tensors.keys() - now.keys()}
        digest, step = said.get("digest", ""), said.get("step", "")
        return cls(said["version"], said["method"], now, digest, step, before)


def read_state(data: bytes) -> tuple[Flat, dict[str, str]]:
    """Return the tensors and the metadata in safetensors bytes.

    Raises:
        RequestError: they are not safetensors, or their header is too long.
    """
    length = int.from_bytes(data[:LENGTH_BYTES], "little")
    if length > LONGEST_HEADER:
        raise RequestError(
            f"the state: expected at most {LONGEST_HEADER} bytes of safetensors' header, "
            f"got {length}"
        )
    end = LENGTH_BYTES + length
    try:
        tensors = safetensors.torch.load(data)
        return tensors, orjson.loads(data[LENGTH_BYTES:end]).get("__metadata__") or {}
    except (SafetensorError, KeyError, ValueError) as error:
        raise RequestError(f"the state is not safetensors: {error}") from None


class Turn:
    """A sequence while one request has it to itself."""

    def __init__(
        self, state: SequenceState | None, expired: bool = False, damaged: bool = False
    ) -> None:
        self.state = state
        self.expired = expired
        """There is no state, and there was one that nobody used for too long."""
        self.damaged = damaged
        """There is no state, since the store holds something else in its place."""
        self.changed = False

    def keep(self, state: SequenceState) -> None:
        """Let the sequence go on with this state."""
        self.state, self.changed = state, True

    def end(self) -> None:
        """Let the sequence be no more."""
        self.state, self.changed = None, True


class TurnQueue:
    """The requests of each sequence in this process, one behind the other."""

    def __init__(self) -> None:
        self._locks: dict[SequenceKey, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def wait(self, key: SequenceKey) -> AsyncIterator[None]:
        """Be the first in a sequence's line for the block's length, in the order of asking."""
        lock, length = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = lock, length + 1
        try:
            async with lock:  # asyncio's lock is handed on in order
                yield
        finally:
            length = self._locks[key][1] - 1
            if length:
                self._locks[key] = lock, length
            else:
                del self._locks[key]


class Store(ABC):
    """Where the state of sequences is."""

    most: int
    """The cap on live sequences."""

    @abstractmethod
    def turn(self, key: SequenceKey, opening: bool) -> AbstractAsyncContextManager[Turn]:
        """Wait in line for a sequence, which need not be there; have it for the block's length.

        Requests of one sequence come in the order in which they asked. What the block made of the
        turn is stored when it ends, be it by an exception; without `keep` and `end` the sequence
        is as it was. `opening` says that the block may begin a sequence: that counts from here on.

        Raises:
            TooManySequencesError: one is to begin, and the store is full.
            StateStoreError: the store failed.
        """

    @abstractmethod
    async def live(self) -> int:
        """Return how many sequences there are."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of what the store has open."""


class NoStore(Store):
    """The store of a server that keeps no sequences; streams have their state all the same."""

    def __init__(self, most: int, why: str) -> None:
        self.most = most
        self._why = why

    def turn(self, key: SequenceKey, opening: bool) -> AbstractAsyncContextManager[Turn]:
        """Refuse.

        Raises:
            RequestError: always.
        """
        raise RequestError(
            f"{key}: this server keeps no sequences ({self._why}): send the state as inputs"
        )

    async def live(self) -> int:
        """Return 0."""
        return 0

    async def close(self) -> None:
        """Do nothing."""


def too_many(most: int) -> TooManySequencesError:
    """Return the error of a store that is full."""
    return TooManySequencesError(
        f"too many sequences: the server holds at most {most}; end some, or try again later"
    )
