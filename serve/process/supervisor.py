"""The process that the user starts: it owns the port and the keys, and keeps the workers alive.

It does not import torch or run a model, so no model, file or client can block it. Several workers
each have a listening socket (SO_REUSEPORT), and the kernel distributes connections. A single worker
listens on the supervisor's socket, where connections wait while the worker is replaced. For gRPC
each worker has a socket of its own, since its library takes none from others. A worker
listens when its archives are loaded; only the first one listens before, so that clients get "not
ready" instead of no connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import Coroutine
from contextlib import ExitStack
from functools import partial
from typing import Any

from torchship.script.errors import UsageError
from torchship.serve.errors import out_of_service
from torchship.serve.process import messages
from torchship.serve.process.changes import Changes
from torchship.serve.process.credentials import read_credentials
from torchship.serve.process.fork_server import ForkServer
from torchship.serve.process.sockets import bind, reserve, url_of
from torchship.serve.process.stores import Stores
from torchship.serve.process.watchdog import LOOK_SECONDS, Watchdog
from torchship.serve.process.worker_slot import Backoff, WorkerSlot, share_cores
from torchship.serve.service.rate_limit import TABLE_BYTES
from torchship.serve.settings import Settings
from torchship.serve.system.daemon_threads import on_thread
from torchship.serve.system.shared_memory import shared_file
from torchship.serve.system.standard_streams import drain_all
from torchship.serve.telemetry.logs import configure_logging
from torchship.serve.telemetry.samples import MetricFamily, Totals

log = logging.getLogger(__name__)

GRACE_SECONDS = 2.0  # for workers to end, after the time for requests in flight
SAMPLES_SECONDS = 2.0  # for a worker to send its metrics; after that its last ones count
UNSIGNED = "signatures are not checked: no --trusted-keys were given"


def run(settings: Settings) -> None:
    """Serve until a signal arrives and all workers have ended.

    Raises:
        UsageError: a setting, or a file that one names, is invalid; the address cannot be bound;
            or a worker ended before it was ready.
    """
    configure_logging(settings.log_format, settings.log_level)
    credentials = read_credentials(settings)
    several = settings.workers > 1
    with ExitStack() as stack:
        bound = stack.enter_context(
            reserve(settings.host, settings.port)
            if several
            else bind(settings.host, settings.port, listening=True)
        )
        grpc = (
            stack.enter_context(reserve(settings.host, settings.grpc_port))
            if settings.grpc_port is not None
            else None
        )
        rates = shared_file(TABLE_BYTES)
        stack.callback(os.close, rates)
        asyncio.run(Supervisor(settings, credentials, bound, rates, grpc).run())


class Supervisor:
    """Starts the workers, handles their messages, replaces those that die or hang, ends them."""

    def __init__(
        self,
        settings: Settings,
        credentials: messages.Credentials,
        bound: socket.socket,
        rates: int,
        grpc: socket.socket | None = None,
    ) -> None:
        self._settings = settings
        self._grpc = grpc
        self._credentials = credentials
        self._bound = bound
        self._rates = rates
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
        shares = share_cores(cores, settings.workers, settings.threads)
        self._slots = [WorkerSlot(number, share) for number, share in enumerate(shares)]
        self._watchdog = Watchdog(settings.call_seconds, settings.stall_seconds)
        self._stores = Stores(settings, credentials)
        self._changes = Changes(settings.load, self._send, self._live_numbers)
        self._totals = Totals(settings.workers > 1)
        self._quarantine: dict[str, str] = {}
        self._pinned: dict[str, str] = {}
        self._loading_deaths: dict[str, int] = {}
        self._first: list[messages.Loaded] = []  # of each worker, until all have started once
        self._tasks: set[asyncio.Task[None]] = set()
        self._gathering: dict[str, tuple[set[int], asyncio.Event]] = {}
        self._renewals = 0
        self._printed_url = False
        self._started = False  # all workers have been ready once
        self._early_phase_ended = False
        self._ending = asyncio.Event()
        self._failure: UsageError | None = None

    async def run(self) -> None:
        """Keep the workers running until a signal arrives, then wait for their end."""
        loop = asyncio.get_running_loop()
        self._fork_server = ForkServer()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, number)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._run(self._renew()))
        try:
            await self._fetch()
            await self._serve(loop)
        finally:
            self._stores.close()
            self._fork_server.close()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)
        if self._failure is not None:
            raise self._failure

    async def _fetch(self) -> None:
        """Fetch what the stores have, or until a signal arrives.

        Raises:
            UsageError: a store cannot be read, or the cache cannot be written.
        """
        fetching = asyncio.ensure_future(self._stores.start())
        ending = asyncio.ensure_future(self._ending.wait())
        await asyncio.wait({fetching, ending}, return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if not self._ending.is_set():
            await fetching
        fetching.cancel()

    async def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        """Keep the workers running until a signal arrives, then wait for their end."""
        keepers = [loop.create_task(self._keep(slot)) for slot in self._slots]
        watching = loop.create_task(self._watch())
        await self._ending.wait()
        settings = self._settings
        timeout = settings.drain_seconds + settings.shutdown_seconds + GRACE_SECONDS
        _, late = await asyncio.wait(keepers, timeout=timeout)
        self._fork_server.close()
        for slot in self._slots if late else ():
            slot.signal(signal.SIGKILL)
        await asyncio.gather(*keepers)
        watching.cancel()

    def _end(self, number: int) -> None:
        """Shut down on the first signal; a later SIGINT ends the workers at once."""
        at_once = self._ending.is_set() and number == signal.SIGINT
        self._ending.set()
        for slot in self._slots:
            slot.signal(signal.SIGINT if at_once else signal.SIGTERM)

    def _fail(self, text: str) -> None:
        if self._failure is None:
            self._failure = UsageError(text)
        self._end(signal.SIGTERM)

    async def _renew(self) -> None:
        """Read keys and certificates again; keep the present ones if the new ones are invalid.

        A disk that does not answer blocks neither the supervisor nor a later renewal.
        """
        self._renewals += 1
        number = self._renewals
        read = partial(read_credentials, self._settings, self._credentials)
        try:
            credentials = await on_thread(read, daemon=True)
        except UsageError as error:
            log.error("keys and certificates stay as they are: %s", error)
            return
        if number < self._renewals:  # a later renewal has read newer files
            return
        self._credentials = credentials
        self._stores.renew(credentials)
        for slot in self._slots:
            self._send(slot.number, messages.Renew(credentials=self._credentials))
        log.info("keys and certificates were read again")

    async def _keep(self, slot: WorkerSlot) -> None:
        """Run one worker after the other in a slot, until the shutdown."""
        backoff = Backoff()
        while not self._ending.is_set():
            began = time.monotonic()
            try:
                code = await self._run_one(slot)
            except Exception as error:  # no error may leave the slot without a worker
                log.exception("starting worker %d", slot.number)
                code, slot.failure = 1, f"could not be started: {error}"
            if slot.number == 0:
                self._end_early_phase()
            if self._ending.is_set():
                return
            how = slot.failure or (
                f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            )
            if code >= 0 and not self._started:  # the worker has printed the reason
                self._fail(f"worker {slot.number} {how} before it was ready")
                return
            pause = backoff.pause(time.monotonic() - began)
            after = f" in {pause:g} s" if pause else ""
            _print(f"worker {slot.number} {how}; starting another{after}")
            if pause:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._ending.wait(), pause)

    async def _run_one(self, slot: WorkerSlot) -> int:
        """Start a worker, handle its messages until it ends, and return its exit code."""
        listener = None if self._settings.workers > 1 else self._bound.fileno()
        await slot.start(
            self._fork_server, self._rates, listener, lambda data: self._on_message(slot, data)
        )
        try:
            if self._ending.is_set():
                slot.signal(signal.SIGTERM)
            early = slot.number == 0 and not self._early_phase_ended
            host, port = self._bound.getsockname()[:2]
            overrides: dict[str, object] = {"config": None, "host": host, "port": port}
            overrides["load"] = self._changes.wanted
            if self._grpc is not None:
                overrides["grpc_port"] = self._grpc.getsockname()[1]
            overrides["paths"] = self._stores.paths
            if self._loading_deaths:  # load one at a time, to find the archive that ends workers
                overrides["loads"] = 1
            settings = self._settings.model_dump(mode="json") | overrides
            self._send(
                slot.number,
                messages.Start(
                    settings=json.dumps(settings),
                    number=slot.number,
                    cores=slot.cores,
                    early=early,
                    pinned=self._pinned,
                    quarantine=self._quarantine,
                    credentials=self._credentials,
                    addresses=self._stores.addresses,
                ),
            )
            self._changes.joined(slot.number)
            return await slot.wait()
        finally:
            self._on_ended(slot)

    def _on_ended(self, slot: WorkerSlot) -> None:
        """Record that the worker of a slot has ended."""
        if slot.code < 0 and not self._ending.is_set():
            self._suspect(slot)
        self._changes.left(slot.number, comes_back=not self._ending.is_set())
        self._totals.remove(slot.pid)
        for missing, complete in self._gathering.values():
            missing.discard(slot.pid)
            if not missing:
                complete.set()
        slot.release()

    def _suspect(self, slot: WorkerSlot) -> None:
        """Quarantine an archive if two workers died while they loaded it."""
        for digest, name in slot.loading.items():
            deaths = self._loading_deaths[digest] = self._loading_deaths.get(digest, 0) + 1
            if deaths > 1 and len(slot.loading) == 1:
                why = f"a process ended by signal {-slot.code} twice while it loaded the archive"
                self._quarantine_archive(digest, out_of_service(name, why))

    def _quarantine_archive(self, digest: str, reason: str) -> None:
        """Make all present and future workers stop serving an archive."""
        if digest not in self._quarantine:
            log.error("%s", reason)
            self._quarantine[digest] = reason
            for slot in self._slots:
                self._send(slot.number, messages.Quarantine(digest=digest, reason=reason))

    async def _watch(self) -> None:
        """End workers that hang; skip a check if this process itself was paused."""
        last = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = time.monotonic()
            late, last = now - last > 4 * LOOK_SECONDS, now
            for slot in () if late else self._slots:
                heartbeat = slot.heartbeat()
                complaint = heartbeat and self._watchdog.complaint(heartbeat, now)
                if not heartbeat or not complaint or slot.failure:
                    continue
                slot.failure = f"was ended: {complaint}"
                log.error("worker %d: %s", slot.number, complaint)
                if heartbeat.call in slot.on_loop:
                    name, digest = slot.on_loop[heartbeat.call]
                    self._quarantine_archive(digest, out_of_service(name, complaint))
                slot.signal(signal.SIGKILL)

    def _on_message(self, slot: WorkerSlot, data: bytes) -> None:
        message = messages.from_worker(data)
        match message:
            case messages.Refused(text=text):
                if self._started:
                    log.error("worker %d cannot start: %s", slot.number, text)
                else:
                    self._fail(text)
            case messages.Listening(url=url):
                self._on_listening(slot, url)
            case messages.Loaded():
                self._on_loaded(slot, message)
            case messages.ReportLine(line=line):
                several = self._settings.workers > 1
                _print(f"worker {slot.number}: {line}" if several else line)
            case messages.Change():
                self._run(self._change(slot.number, message))
            case messages.Outcome():
                self._changes.finished(slot.number, message)
                if message.failure is None:
                    self._pin(message.digests)
                    for digest in message.digests.values():  # the user asked to load it again
                        self._quarantine.pop(digest, None)
            case messages.OnLoop(engine=engine, name=name, digest=digest):
                slot.on_loop[engine] = name, digest
            case messages.ArchiveLoading(digest=digest, name=name, begins=begins):
                if begins:
                    slot.loading[digest] = name
                else:
                    slot.loading.pop(digest, None)
                    self._loading_deaths.pop(digest, None)
            case messages.Hung(digest=digest, reason=reason):
                self._quarantine_archive(digest, reason)
            case messages.SamplesWanted(id=id):
                self._run(self._send_samples(slot.number, id))
            case messages.Samples(id=id, families=families):
                self._take_samples(slot, id, families)
        self._print_start()

    async def _change(self, asked: int, change: messages.Change) -> None:
        """Load or unload a model in all workers; load what its store has now."""
        if change.what == "load":
            await self._stores.look()
        await self._changes.apply(asked, change)

    def _on_listening(self, slot: WorkerSlot, url: str) -> None:
        slot.listening = True
        if not self._printed_url:
            self._printed_url = True
            if self._settings.trusted_keys is None:
                _print_error(UNSIGNED)
            _print(f"listening on {url}")
            if self._grpc is not None:
                tls = self._credentials.certificate is not None
                _print(f"listening on {url_of(self._grpc, tls, 'grpc')}")
        elif self._started:
            _print(f"worker {slot.number} is back")

    def _on_loaded(self, slot: WorkerSlot, message: messages.Loaded) -> None:
        slot.loaded = True
        self._pin(message.live | self._pinned)
        if not self._started:
            self._first.append(message)
        if self._early_phase_ended:
            self._send(slot.number, messages.Listen())
        elif slot.number == 0:
            self._end_early_phase()

    def _print_start(self) -> None:
        """Print what is ready or has failed, once, when all workers have started."""
        if self._started or not all(p.loaded and p.listening for p in self._slots):
            return
        self._started = True
        lines = dict.fromkeys(line for loaded in self._first for line in loaded.summary)
        bad = [line for line in lines if not line.startswith("ready:")]
        for line in bad or lines:
            _print(line)

    def _pin(self, digests: dict[str, str]) -> None:
        if self._settings.mode != "poll" and self._settings.workers > 1:
            self._pinned = digests

    def _end_early_phase(self) -> None:
        """Let the other workers listen, because the first one is ready or has died."""
        if not self._early_phase_ended:
            self._early_phase_ended = True
            for slot in self._slots[1:]:
                if slot.loaded:
                    self._send(slot.number, messages.Listen())

    async def _send_samples(self, asked: int, id: str) -> None:
        """Collect the metrics of all workers and send them to the worker that asked."""
        complete = asyncio.Event()
        missing = {slot.pid for slot in self._slots if slot.loaded or slot.number == asked}
        part = uuid.uuid4().hex
        self._gathering[part] = missing, complete
        for slot in self._slots:
            if slot.pid in missing:
                self._send(slot.number, messages.SamplesWanted(id=part))
        try:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(complete.wait(), SAMPLES_SECONDS)
        finally:
            del self._gathering[part]
        self._send(asked, messages.Samples(id=id, families=self._totals.merged()))

    def _take_samples(self, slot: WorkerSlot, id: str, families: list[MetricFamily]) -> None:
        self._totals.update(slot.pid, families)
        if id in self._gathering:
            missing, complete = self._gathering[id]
            missing.discard(slot.pid)
            if not missing:
                complete.set()

    def _live_numbers(self) -> list[int]:
        return [slot.number for slot in self._slots if slot.alive]

    def _send(self, number: int, message: messages.ToWorker) -> None:
        self._slots[number].send(message.encoded())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _print(line: str) -> None:
    print(line, flush=True)


def _print_error(line: str) -> None:
    """Print a line to standard error, before the next line on standard output."""
    print(line, file=sys.stderr, flush=True)
    drain_all()
