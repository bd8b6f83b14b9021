"""A worker: a server process that is controlled by the supervisor's messages."""

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
from pathlib import Path
from types import FrameType
from typing import Any

from torchship.script.errors import UsageError
from torchship.script.runtime import operators, printing
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
from torchship.serve.service.rate_limit import RateTable
from torchship.serve.service.turns import Turn
from torchship.serve.settings import Settings
from torchship.serve.system.heartbeat import Heartbeat
from torchship.serve.system.interpreter import name_process
from torchship.serve.system.malloc_thresholds import raise_malloc_thresholds
from torchship.serve.system.standard_streams import take_over
from torchship.serve.telemetry.logs import configure_logging
from torchship.serve.telemetry.metrics import Metrics
from torchship.serve.telemetry.samples import MetricFamily

log = logging.getLogger(__name__)

ORPHAN = 5  # factor on `stall_seconds`, after which a hung worker without a supervisor ends


@dataclass(frozen=True)
class Descriptors:
    """The open files that a worker inherits; `listener` is None if it must bind its own."""

    channel: int
    heartbeat: int
    rates: int
    listener: int | None

    @staticmethod
    def of(numbers: list[int]) -> Descriptors:
        """Return the descriptors from the list that `WorkerSlot.start` passes."""
        channel, heartbeat, rates, *listener = numbers
        return Descriptors(channel, heartbeat, rates, listener[0] if listener else None)


class Worker(Server):
    """A server that ends with its supervisor, and listens when the supervisor says so."""

    channel: Channel
    repository: WorkerRepository
    early = False
    bound: socket.socket
    _loaded: messages.Loaded | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Load the archives; wait for permission to listen, unless this worker is early."""
        self._may_listen = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._pending_samples: dict[str, asyncio.Future[list[MetricFamily]]] = {}
        self.metrics.gather = self._gather
        self._devnull = os.open(os.devnull, os.O_WRONLY)
        self._restart_hang_timer()
        if self.early:
            await self._accept(sockets)
            if self.should_exit:
                return
        await self.begin(self._report_loaded)
        self.channel.listen(self._on_message, self._orphaned)
        if not self.early:
            if not self.should_exit:
                await self._may_listen.wait()
            if self.should_exit:
                assert self.loading is not None
                self.loading.cancel()
                self.repository.release()
                return
            await self._accept(sockets)

    async def _accept(self, sockets: list[socket.socket] | None) -> None:
        try:
            await self.listen_for_grpc()
        except UsageError as error:
            self.send(messages.Refused(text=printable(str(error))))
            self.should_exit = True
            return
        await super().startup(sockets)
        self.send(messages.Listening(url=url_of(self.bound, self.config.ssl is not None)))

    def send(self, message: messages.FromWorker) -> None:
        """Send a message to the supervisor."""
        self.channel.send(message.encoded())

    def _restart_hang_timer(self) -> None:
        """Restart the timer that ends this process if it hangs and its supervisor has died."""
        seconds = ORPHAN * self.settings.stall_seconds
        faulthandler.dump_traceback_later(seconds, exit=True, file=self._devnull)
        asyncio.get_running_loop().call_later(self.settings.stall_seconds, self._restart_hang_timer)

    def _report_loaded(self) -> None:
        summary = tuple(self.repository.summary())
        self.send(messages.Loaded(summary=summary, live=self.repository.digests()))
        self.repository.unpin()

    def _on_message(self, data: bytes) -> None:
        match messages.to_worker(data):
            case messages.Listen():
                self._may_listen.set()
            case messages.Change() as change:
                self._run(self.repository.make_change(change))
            case messages.Outcome() as outcome:
                self.repository.finish_change(outcome)
            case messages.Renew(credentials=credentials):
                self.renew(credentials)
            case messages.Quarantine(digest=digest, reason=reason):
                self.repository.quarantine_digest(digest, reason)
            case messages.SamplesWanted(id=id):
                self._run(self._send_samples(id))
            case messages.Samples(id=id, families=families):
                pending = self._pending_samples.get(id)
                if pending is not None and not pending.done():
                    pending.set_result(families)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_samples(self, id: str) -> None:
        families = await self.metrics.own(self.repository.status())
        samples = messages.Samples(id=id, families=families)
        self.channel.send(await asyncio.to_thread(samples.encoded))

    async def _gather(self) -> list[MetricFamily]:
        """Return the metrics of all workers, which the supervisor collects."""
        id = uuid.uuid4().hex
        pending = self._pending_samples[id] = asyncio.get_running_loop().create_future()
        self.send(messages.SamplesWanted(id=id))
        try:
            families: list[MetricFamily] = await pending
            return families
        finally:
            del self._pending_samples[id]

    def _orphaned(self) -> None:
        log.warning("the supervisor is gone: this worker ends")
        self.handle_exit(signal.SIGTERM, None)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Shut down as every server does, and stop waiting for permission to listen."""
        super().handle_exit(sig, frame)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._may_listen.set)


def _log_print(model: str, line: str) -> None:
    """Log a line that a model printed."""
    log.info("%s: %s", model, line, extra={"model": model})


def run(given: Descriptors) -> None:
    """Serve until a signal arrives or the supervisor ends."""
    raise_malloc_thresholds(os.environ)
    os.dup2(2, 1)  # standard output is the supervisor's: a library's prints go to standard error
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
    shared = Shared(
        heartbeat=Heartbeat.at(given.heartbeat),
        rates=RateTable(given.rates),
        credentials=start.credentials,
        verify_turn=Turn(given.rates),
    )
    try:
        server = _make(settings, start, shared, channel)
        server.bound = (
            bind(settings.host, settings.port, shared=True)
            if given.listener is None
            else socket.socket(fileno=given.listener)
        )
    except UsageError as error:
        text = str(error)
        for folder, address in start.addresses.items():
            text = text.replace(folder, address)
        channel.send(messages.Refused(text=printable(text)).encoded())
        return
    server.early = start.early
    serve(server, [server.bound])


def _make(settings: Settings, start: messages.Start, shared: Shared, channel: Channel) -> Worker:
    keys = trusted_keys_of(start.credentials)
    if start.early:
        find_archives(settings.local_paths, empty=settings.mode != "fixed")
        check_places(settings, keys)
        if settings.workers > 1:
            check_workers(settings, keys)
    metrics = Metrics()
    repository = make_repository(
        *(settings, shared, metrics, WorkerRepository),
        channel=channel,
        heartbeat=shared.heartbeat,
        pinned=start.pinned,
        quarantine=start.quarantine,
        addresses={Path(folder): address for folder, address in start.addresses.items()},
    )
    server = make_server(settings, repository, metrics, shared, Worker)
    assert isinstance(server, Worker)
    server.channel = channel
    return server
