"""A worker's repository: what one worker is asked to change, all change."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from torchship.script.errors import ArchiveError, TorchShipError
from torchship.script.runtime.archive import Archive
from torchship.serve.engine.engine import Engine
from torchship.serve.errors import UnknownModelError
from torchship.serve.process import messages
from torchship.serve.process.channel import Channel
from torchship.serve.protocol.tensors import short
from torchship.serve.repository.repository import Repository

log = logging.getLogger(__name__)

LONGEST_NAME = 1024  # characters; longer ones are no model's


class WorkerRepository(Repository):
    """A repository that asks the supervisor for each change, and makes those that it is told."""

    def __init__(
        self,
        *arguments: Any,
        channel: Channel,
        pinned: Mapping[str, str],
        **named: Any,
    ) -> None:
        """See `Repository`; `pinned` are the digests of what the other workers serve."""
        super().__init__(*arguments, report=self._report_line, **named)
        self._channel = channel
        self._pinned = pinned
        self._asked: dict[str, asyncio.Future[None]] = {}

    def _report_line(self, line: str) -> None:
        self._tell(messages.Said(line=line))

    def _tell(self, message: messages.FromWorker) -> None:
        self._channel.send(message.encoded())

    def unpin(self) -> None:
        """Take what is asked for from now on as its file is then."""
        self._pinned = {}

    @contextmanager
    def _loading_of(self, name: str, digest: str) -> Iterator[None]:
        """Let the supervisor know which archive is being loaded, in case that ends the process."""
        self._tell(messages.Proving(name=name, digest=digest, begins=True))
        try:
            yield
        finally:
            self._tell(messages.Proving(name=name, digest=digest, begins=False))

    async def _prove(self, archive: Archive) -> Engine:
        """Do as every repository.

        Raises:
            ArchiveError: also if the other workers serve another archive as this model.
        """
        name, digest = archive.require_manifest().name, archive.digest
        if self._pinned.get(f"{name}/{archive.require_manifest().version}", digest) != digest:
            raise ArchiveError(
                "the file has changed since the other workers loaded it: restart the server to "
                "serve the new one, or use --mode poll"
            )
        self._tell(messages.Proving(name=name, digest=digest, begins=True))  # by its model's name
        with self._pulse.loading():
            return await super()._prove(archive)

    def _engine_of(self, archive: Archive) -> Engine:
        engine = super()._engine_of(archive)
        name, digest = archive.require_manifest().name, archive.digest
        self._tell(messages.OnLoop(engine=engine.number, name=name, digest=digest))
        return engine

    def _has_hung(self, engine: Engine, reason: str) -> None:
        """Have all workers take out what has hung in this one."""
        super()._has_hung(engine, reason)
        self._tell(messages.Hung(digest=engine.digest, reason=reason))

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

    async def _ask(self, what: Literal["load", "unload"], name: str) -> None:
        change = messages.Change(id=uuid.uuid4().hex, what=what, model=name)
        asked = self._asked[change.id] = asyncio.get_running_loop().create_future()
        self._tell(change)
        try:
            await asked
        finally:
            del self._asked[change.id]

    async def make(self, change: messages.Change) -> None:
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
        failure = None if error is None else messages.Failure.of(error)
        self._tell(messages.Outcome(id=change.id, failure=failure, digests=self.digests()))

    def answered(self, outcome: messages.Outcome) -> None:
        """Take what came of a change that was asked for here."""
        asked = self._asked.get(outcome.id)
        if asked is None or asked.done():  # the client has left
            return
        if outcome.failure is None:
            asked.set_result(None)
        else:
            asked.set_exception(outcome.failure.error())
