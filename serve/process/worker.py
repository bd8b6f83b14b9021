"""One of the processes that have the models: what its supervisor says to it, and it to that."""

from __future__ import annotations

import asyncio
import faulthandler
import json
import logging
import os
import signal
import socket
import uuid
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

from torchship.script.errors import UsageError
from torchship.script.runtime import operators, printing
from torchship.serve.http.rate_limit import RateTable
from torchship.serve.process import messages
from torchship.serve.process.channel import Channel
from torchship.serve.process.checks import check_places, check_workers
from torchship.serve.process.server import (
    Server,
    Shared,
    make_repository,
    make_server,
    serve,
    trusted_keys_of,
)
from torchship.serve.process.sockets import bind, url_of
from torchship.serve.process.worker_repository import WorkerRepository
from torchship.serve.repository.discovery import find_archives, printable
from torchship.serve.settings import Settings
from torchship.serve.system.heartbeat import Heartbeat
from torchship.serve.system.standard_streams import take_over
from torchship.serve.telemetry.logs import configure_logging
from torchship.serve.telemetry.metrics import Metrics
from torchship.serve.telemetry.samples import MetricFamily

log = logging.getLogger(__name__)

ORPHAN = 5  # times `stall_seconds`: then a process ends that hangs, and whose watchdog has died


@dataclass(frozen=True)
class Descriptors:
    """What a worker is born with: open files, and the socket to listen on if there is one."""

    channel: int
    pulse: int
    rates: int
    listener: int | None

    @staticmethod
    def of(numbers: list[int]) -> Descriptors:
        """Return the descriptors in the order in which they are handed down."""
        channel, pulse, rates, *listener = numbers
        return Descriptors(channel, pulse, rates, listener[0] if listener else None)


class Worker(Server):
    """A server that ends with its supervisor, and listens when it is told to."""

    channel: Channel
    repository: WorkerRepository
    early = False
    bound: socket.socket
    _loaded: messages.Loaded | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Load the archives; wait for the word to listen, unless this worker is early."""
        self._word = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._wanted: dict[str, asyncio.Future[list[MetricFamily]]] = {}
        self.metrics.gather = self._gather
        self._nowhere = os.open(os.devnull, os.O_WRONLY)
        self._heartbeat()
        if self.early:
            await self._accept(sockets)
        await self.begin(self._tell_loaded)
        self.channel.listen(self._hear, self._orphaned)
        if not self.early:
            if not self.should_exit:
                await self._word.wait()
            if self.should_exit:
                assert self.loading is not None
                self.loading.cancel()
                self.repository.release()
                return
            await self._accept(sockets)

    async def _accept(self, sockets: list[socket.socket] | None) -> None:
        await super().startup(sockets)
        self.tell(messages.Listening(url=url_of(self.bound, self.config.ssl is not None)))

    def tell(self, message: messages.FromWorker) -> None:
        """Tell the supervisor."""
        self.channel.send(message.encoded())

    def _heartbeat(self) -> None:
        """Have the system end this process if it hangs and no supervisor is there to do it."""
        seconds = ORPHAN * self.settings.stall_seconds
        faulthandler.dump_traceback_later(seconds, exit=True, file=self._nowhere)
        asyncio.get_running_loop().call_later(self.settings.stall_seconds, self._heartbeat)

    def _tell_loaded(self) -> None:
        summary = tuple(self.repository.summary())
        self.tell(messages.Loaded(summary=summary, live=self.repository.digests()))
        self.repository.unpin()

    def _hear(self, data: bytes) -> None:
        match messages.to_worker(data):
            case messages.Listen():
                self._word.set()
            case messages.Change() as change:
                self._run(self.repository.make(change))
            case messages.Outcome() as outcome:
                self.repository.answered(outcome)
            case messages.Renew(credentials=credentials):
                self.renew(credentials)
            case messages.Quarantine(digest=digest, reason=reason):
                self.repository.quarantine_digest(digest, reason)
            case messages.SamplesWanted(id=id):
                self._run(self._tell_figures(id))
            case messages.Samples(id=id, families=families):
                wanted = self._wanted.get(id)
                if wanted is not None and not wanted.done():
                    wanted.set_result(families)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell_figures(self, id: str) -> None:
        families = await self.metrics.own(self.repository.status())
        figures = messages.Samples(id=id, families=families)
        self.channel.send(await asyncio.to_thread(figures.encoded))

    async def _gather(self) -> list[MetricFamily]:
        """Return the figures of all workers, which the supervisor collects."""
        id = uuid.uuid4().hex
        wanted = self._wanted[id] = asyncio.get_running_loop().create_future()
        self.tell(messages.SamplesWanted(id=id))
        try:
            families: list[MetricFamily] = await wanted
            return families
        finally:
            del self._wanted[id]

    def _orphaned(self) -> None:
        log.warning("the supervisor is gone: this worker ends")
        self.handle_exit(signal.SIGTERM, None)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End as every server does, and do not wait for the word any more."""
        super().handle_exit(sig, frame)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._word.set)


def _log_print(model: str, line: str) -> None:
    """Log a line that a model has printed."""
    log.info("%s: %s", model, line, extra={"model": model})


def name_process(name: str) -> None:
    """Have `ps` and `top` show this process by a name of at most 15 characters, on Linux."""
    with suppress(OSError), open("/proc/self/comm", "w") as file:
        file.write(name)


def run(given: Descriptors) -> None:
    """Serve as the supervisor says, until a signal comes or the supervisor has gone."""
    os.dup2(2, 1)  # what a library prints is no line of the server's
    take_over(2)
    channel = Channel(socket.socket(fileno=given.channel))
    first = channel.receive()
    if first is None:
        return
    start = messages.to_worker(first)
    assert isinstance(start, messages.Start)
    name_process(f"torchship-w{start.number}")
    if hasattr(os, "sched_setaffinity"):
        with suppress(OSError):  # the machine has fewer cores than when the server was started
            os.sched_setaffinity(0, start.cores)
    settings = Settings(**json.loads(start.settings))
    configure_logging(settings.log_format, settings.log_level)
    printing.install(_log_print)
    operators.allow(settings.operators)
    shared = Shared(Heartbeat.at(given.pulse), RateTable(given.rates), start.credentials)
    try:
        server = _make(settings, start, shared, channel)
        server.bound = (
            bind(settings.host, settings.port, shared=True)
            if given.listener is None
            else socket.socket(fileno=given.listener)
        )
    except UsageError as error:
        channel.send(messages.Refused(text=printable(str(error))).encoded())
        return
    server.early = start.early
    serve(server, [server.bound])


def _make(settings: Settings, start: messages.Start, shared: Shared, channel: Channel) -> Worker:
    keys = trusted_keys_of(start.credentials)
    if start.early:
        find_archives(settings.paths, empty=settings.mode != "fixed")
        check_places(settings, keys)
        if settings.workers > 1:
            check_workers(settings, keys)
    metrics = Metrics()
    repository = make_repository(
        *(settings, shared, metrics, WorkerRepository),
        channel=channel,
        pulse=shared.pulse,
        pinned=start.pinned,
        quarantine=start.quarantine,
    )
    server = make_server(settings, repository, metrics, shared, Worker)
    assert isinstance(server, Worker)
    server.channel = channel
    return server
