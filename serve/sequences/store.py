"""The interface of a sequence store: state, turns, and the bytes of a stored state.

A store keeps the order of a sequence's requests, the limit on live sequences and the idle time;
`sequences` knows what the state means to a model.
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

LENGTH_BYTES = 8  # the header's length, at the beginning of safetensors
LONGEST_HEADER = 1 << 18  # bytes; a state has a few tensors, and reading many takes long
BEFORE = "before:"  # prefix of the tensors before the last step; no input has such a name


@dataclass(frozen=True)
class SequenceKey:
    """Identifies a sequence; clients choose ids, and each model has its own."""

    model: str
    id: str

    def __str__(self) -> str:
        return f"sequence '{self.id}' of model '{self.model}'"


@dataclass(frozen=True)
class SequenceState:
    """The state between two steps: tensors by the names of the state's inputs."""

    version: str
    """The model version on which the sequence began, and stays."""
    method: str
    tensors: Flat
    digest: str = ""
    """The SHA-256 of the archive that made it; "" if unknown, and then no archive accepts it."""
    step: str = ""
    """The idempotency key of the step that made it; "" for none, and for the first step."""
    before: Flat = field(default_factory=dict)
    """The tensors before that step, kept for its retry."""

    def to_bytes(self) -> bytes:
        """Return the state as safetensors, with `version`, `method` and `digest` as metadata."""
        tensors = self.tensors | {BEFORE + name: tensor for name, tensor in self.before.items()}
        metadata = {"version": self.version, "method": self.method}
        metadata |= {"digest": self.digest} if self.digest else {}
        metadata |= {"step": self.step} if self.step else {}
        whole = {name: plain(tensor).contiguous() for name, tensor in tensors.items()}
        return safetensors.torch.save(whole, metadata)

    @classmethod
    def from_bytes(cls, data: bytes) -> SequenceState:
        """Read the bytes of `to_bytes`.

        Raises:
            RequestError: the bytes are something else.
        """
        tensors, metadata = read_state(data)
        if not {"version", "method"} <= metadata.keys():
            raise RequestError("the state: expected 'version' and 'method' in its metadata")
        now = {name: tensor for name, tensor in tensors.items() if not name.startswith(BEFORE)}
        before = {name.removeprefix(BEFORE): tensors[name] for name in tensors.keys() - now.keys()}
        digest, step = metadata.get("digest", ""), metadata.get("step", "")
        return cls(metadata["version"], metadata["method"], now, digest, step, before)


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
    """Exclusive access of one request to a sequence."""

    def __init__(
        self, state: SequenceState | None, expired: bool = False, damaged: bool = False
    ) -> None:
        self.state = state
        self.expired = expired
        """There is no state, because it expired."""
        self.damaged = damaged
        """There is no state, because the stored bytes cannot be read."""
        self.changed = False

    def keep(self, state: SequenceState) -> None:
        """Set the sequence's state."""
        self.state, self.changed = state, True

    def end(self) -> None:
        """End the sequence."""
        self.state, self.changed = None, True


class TurnQueue:
    """Lets the requests of each sequence in this process run one after the other."""

    def __init__(self) -> None:
        self._locks: dict[SequenceKey, tuple[asyncio.Lock, int]] = {}

    def __len__(self) -> int:
        """Return how many sequences have a request that waits or has its turn."""
        return len(self._locks)

    @asynccontextmanager
    async def wait(self, key: SequenceKey) -> AsyncIterator[None]:
        """Wait for the earlier requests of a sequence; the block has exclusive access."""
        lock, length = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = lock, length + 1
        try:
            async with lock:  # asyncio's lock is fair
                yield
        finally:
            length = self._locks[key][1] - 1
            if length:
                self._locks[key] = lock, length
            else:
                del self._locks[key]


class Store(ABC):
    """Keeps the state of sequences."""

    most: int
    """The limit on live sequences."""

    @abstractmethod
    def turn(self, key: SequenceKey, opening: bool) -> AbstractAsyncContextManager[Turn]:
        """Wait for exclusive access to a sequence, which need not exist, for the length of a block.

        Requests of one sequence get their turns in the order of their calls. When the block ends,
        even by an exception, the effect of `Turn.keep` or `Turn.end` is stored; without either the
        sequence is unchanged. `opening` says that the block may begin a sequence, which counts
        towards the limit from the beginning of the block.

        Raises:
            TooManySequencesError: the sequence does not exist, and the store is full.
            StateStoreError: the store failed.
        """

    @abstractmethod
    async def live(self) -> int:
        """Return how many sequences are live."""

    @abstractmethod
    async def close(self) -> None:
        """Close the store's connections and timers."""


class NoStore(Store):
    """The store of a server that keeps no sequences; streams still have state."""

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
    """Return the error for a store that is full."""
    return TooManySequencesError(
        f"too many sequences: the server holds at most {most}; end some, or try again later"
    )
