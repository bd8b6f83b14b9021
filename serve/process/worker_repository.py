"""A worker's repository, which passes each load and unload on to all workers."""

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

LONGEST_NAME = 1024  # characters; no model has a longer name


class WorkerRepository(Repository):
    """A repository that requests changes from the supervisor, and applies those it receives."""

    def __init__(
        self,
        *arguments: Any,
        channel: Channel,
        pinned: Mapping[str, str],
        **named: Any,
    ) -> None:
        """See `Repository`; `pinned` has the digests of the archives that other workers serve."""
        super().__init__(*arguments, report=self._report_line, **named)
        self._channel = channel
        self._pinned = pinned
        self._pending: dict[str, asyncio.Future[None]] = {}

    def _report_line(self, line: str) -> None:
        self._send(messages.ReportLine(line=line))

    def _send(self, message: messages.FromWorker) -> None:
        self._channel.send(message.encoded())

    def unpin(self) -> None:
        """Stop requiring the archives of the other workers: later loads read the present files."""
        self._pinned = {}

    @contextmanager
    def _loading_of(self, name: str, digest: str) -> Iterator[None]:
        """Report to the supervisor which archive is being loaded, in case that ends the process."""
        self._send(messages.ArchiveLoading(name=name, digest=digest, begins=True))
        try:
            yield
        finally:
            self._send(messages.ArchiveLoading(name=name, digest=digest, begins=False))

    async def _start_engine(self, archive: Archive) -> Engine:
        """Verify an archive; see `Repository`.

        Raises:
            ArchiveError: also if the other workers serve a different archive as this model.
        """
        name, digest = archive.require_manifest().name, archive.digest
        if self._pinned.get(f"{name}/{archive.require_manifest().version}", digest) != digest:
            raise ArchiveError(
                "the file has changed since the other workers loaded it: restart the server to "
                "serve the new one, or use --mode poll"
            )
        # `_loading_of` reported the file's name; now the model's name is known.
        self._send(messages.ArchiveLoading(name=name, digest=digest, begins=True))
        with self._heartbeat.loading():
            return await super()._start_engine(archive)

    def _engine_of(self, archive: Archive) -> Engine:
        engine = super()._engine_of(archive)
        name, digest = archive.require_manifest().name, archive.digest
        self._send(messages.OnLoop(engine=engine.number, name=name, digest=digest))
        return engine

    def _has_hung(self, engine: Engine, reason: str) -> None:
        """Make all workers take out the model that has hung in this one."""
        super()._has_hung(engine, reason)
        self._send(messages.Hung(digest=engine.digest, reason=reason))

    async def load_model(self, name: str) -> None:
        """Load a model in every worker; see `Repository.load_model`."""
        self._must_be_explicit("load")
        if len(name) > LONGEST_NAME:
            raise UnknownModelError(f"model {short(name)} is not in the repository")
        await self._ask("load", name)

    async def unload_model(self, name: str) -> None:
        """Unload a model in every worker; see `Repository.unload_model`."""
        self._must_be_explicit("unload")
        if len(name) <= LONGEST_NAME:
            await self._ask("unload", name)

    async def _ask(self, what: Literal["load", "unload"], name: str) -> None:
        change = messages.Change(id=uuid.uuid4().hex, what=what, model=name)
        pending = self._pending[change.id] = asyncio.get_running_loop().create_future()
        self._send(change)
        try:
            await pending
        finally:
            del self._pending[change.id]

    async def make_change(self, change: messages.Change) -> None:
        """Apply a change in this worker, and report its outcome."""
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
        self._send(messages.Outcome(id=change.id, failure=failure, digests=self.digests()))

    def finish_change(self, outcome: messages.Outcome) -> None:
        """Complete a change that this worker requested."""
        pending = self._pending.get(outcome.id)
        if pending is None or pending.done():  # the client disconnected
            return
        if outcome.failure is None:
            pending.set_result(None)
        else:
            pending.set_exception(outcome.failure.error())
