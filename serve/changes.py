"""Loading and unloading over several workers: what one is asked to do, every one of them does.

A worker that is asked tells the supervisor; that tells all workers, and when each has said what
came of it, the one that was asked answers. Messages are lines on the pipes between the supervisor
and its own children: a word, and the message pickled.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import pickle
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from torchship.script.errors import TorchShipError
from torchship.serve.errors import UnknownModelError
from torchship.serve.repository import Repository
from torchship.serve.tensors import short

log = logging.getLogger(__name__)

What = Literal["load", "unload"]

LONGEST_NAME = 1024  # characters; a line on a pipe has an end


@dataclass(frozen=True)
class Change:
    """A model that is to be loaded or unloaded."""

    id: str
    what: What
    model: str


@dataclass(frozen=True)
class Outcome:
    """What came of a change; None for the error if it was made."""

    id: str
    error: Exception | None


def to_line(word: str, message: object) -> str:
    """Return a message as a line, without its end."""
    return f"{word} {base64.b64encode(pickle.dumps(message)).decode()}"


def of_line(line: str) -> object:
    """Return the message of a line that `to_line` made."""
    return pickle.loads(base64.b64decode(line.partition(" ")[2]))


class Changes:
    """The supervisor's side: every worker makes each change, one change after the other."""

    def __init__(
        self,
        wanted: Iterable[str],
        tell: Callable[[int, bytes], None],
        workers: Callable[[], Iterable[int]],
    ) -> None:
        """Take the models loaded at start, how to send a worker a line, and who the workers are."""
        self._wanted = dict.fromkeys(wanted)
        self._tell = tell
        self._workers = workers
        self._lock = asyncio.Lock()
        self._now: Change | None = None
        self._awaited: set[int] = set()
        self._errors: dict[int, Exception] = {}
        self._fewer = asyncio.Event()

    @property
    def wanted(self) -> tuple[str, ...]:
        """The models that a new worker is to load."""
        return tuple(self._wanted)

    async def make(self, asked: int, change: Change) -> None:
        """Have a change made by all workers; then tell the one that was asked."""
        async with self._lock:
            self._now, self._errors = change, {}
            for worker in self._workers():
                self.joined(worker)
            while self._awaited:
                self._fewer.clear()
                await self._fewer.wait()
            self._now = None
            error = self._errors[min(self._errors)] if self._errors else None
            if error is None and change.what == "load":
                self._wanted[change.model] = None
            elif error is None:
                self._wanted.pop(change.model, None)
            self._tell(asked, f"{to_line('done', Outcome(change.id, error))}\n".encode())

    def heard(self, worker: int, outcome: Outcome) -> None:
        """Take what came of the change at a worker."""
        if self._now is not None and self._now.id == outcome.id:
            if outcome.error is not None:
                self._errors[worker] = outcome.error
            self.left(worker)

    def joined(self, worker: int) -> None:
        """Have a worker, which may have just begun, make the change that is being made."""
        if self._now is not None:
            self._awaited.add(worker)
            self._tell(worker, f"{to_line('make', self._now)}\n".encode())

    def left(self, worker: int) -> None:
        """Wait for a worker no more: it has answered, or is dead."""
        self._awaited.discard(worker)
        self._fewer.set()


class SharedRepository(Repository):
    """A worker's repository: all workers make the changes that one of them is asked for."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """See `Repository`."""
        super().__init__(*arguments, **named)
        self._asked: dict[str, asyncio.Future[None]] = {}

    async def load_model(self, name: str) -> None:
        """Have every worker load a model; see `Repository.load_model`."""
        self._must_be_explicit("load")
        if len(name) > LONGEST_NAME:
            raise UnknownModelError(f"model {short(name)} is not in the repository")
        await self._ask("load", name)

    async def unload_model(self, name: str) -> None:
        """Have every worker unload a model; see `Repository.unload_model`."""
        self._must_be_explicit("unload")
        if len(name) <= LONGEST_NAME:
            await self._ask("unload", name)

    async def _ask(self, what: What, name: str) -> None:
        change = Change(uuid.uuid4().hex, what, name)
        asked = self._asked[change.id] = asyncio.get_running_loop().create_future()
        print(to_line("change", change), flush=True)
        try:
            await asked
        finally:
            del self._asked[change.id]

    async def make(self, change: Change) -> None:
        """Make a change here, and say what came of it."""
        error: Exception | None = None
        try:
            if change.what == "load":
                await super().load_model(change.model)
            else:
                await super().unload_model(change.model)
        except TorchShipError as raised:
            error = raised
        except Exception:
            log.exception("could not %s %s", change.what, change.model)
            error = RuntimeError(f"a worker could not {change.what} a model: its log says why")
        print(to_line("outcome", Outcome(change.id, error)), flush=True)

    def answered(self, outcome: Outcome) -> None:
        """Take what came of a change that was asked for here."""
        asked = self._asked.get(outcome.id)
        if asked is None or asked.done():  # the client has left
            return
        asked.set_result(None) if outcome.error is None else asked.set_exception(outcome.error)
