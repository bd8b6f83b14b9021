"""The process that a user starts: it has the port and the keys, and keeps the workers alive.

It imports no torch and runs no model, so nothing that a model, a file or a client does can hold it
up. Several workers each have a listening socket of their own (SO_REUSEPORT), so the kernel shares
connections out; a single worker listens on the supervisor's, where connections wait while another
takes its place. A worker begins to listen when its archives are loaded; only the very first one
listens before, so that a client is told what it has to wait for.
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
from torchship.serve.http.rate_limit import TABLE_BYTES
from torchship.serve.process import messages
from torchship.serve.process.changes import Changes
from torchship.serve.process.credentials import read_credentials
from torchship.serve.process.fork_server import ForkServer
from torchship.serve.process.sockets import bind, reserve
from torchship.serve.process.watchdog import LOOK_SECONDS, Watchdog
from torchship.serve.process.worker_slot import Backoff, WorkerSlot, share_cores
from torchship.serve.settings import Settings
from torchship.serve.system.daemon_threads import on_thread
from torchship.serve.system.shared_memory import shared_file
from torchship.serve.system.standard_streams import drain_all
from torchship.serve.telemetry.logs import configure_logging
from torchship.serve.telemetry.samples import MetricFamily, Totals

log = logging.getLogger(__name__)

GRACE_SECONDS = 2.0  # beyond the time that requests in flight have
FIGURES_SECONDS = 2.0  # for a worker to tell its figures; then those that it told last count
UNSIGNED = "signatures are not checked: no --trusted-keys were given"


def run(settings: Settings) -> None:
    """Serve until a signal comes and all workers have ended.

    Raises:
        UsageError: the settings or what they name cannot be used, the address cannot be listened
            on, or a worker ended before it was ready.
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
        rates = shared_file(TABLE_BYTES)
        stack.callback(os.close, rates)
        asyncio.run(Supervisor(settings, credentials, bound, rates).run())


class Supervisor:
    """Starts the workers, hears what they say, replaces those that die or hang, ends them all."""

    def __init__(
        self,
        settings: Settings,
        credentials: messages.Credentials,
        bound: socket.socket,
        rates: int,
    ) -> None:
        self._settings = settings
        self._credentials = credentials
        self._bound = bound
        self._rates = rates
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
        shares = share_cores(cores, settings.workers, settings.threads)
        self._places = [WorkerSlot(number, share) for number, share in enumerate(shares)]
        self._watchdog = Watchdog(settings.call_seconds, settings.stall_seconds)
        self._changes = Changes(settings.load, self._tell, self._live_numbers)
        self._totals = Totals(settings.workers > 1)
        self._quarantine: dict[str, str] = {}
        self._pinned: dict[str, str] = {}
        self._loading_deaths: dict[str, int] = {}
        self._first: list[messages.Loaded] = []  # of each worker, until all were there once
        self._tasks: set[asyncio.Task[None]] = set()
        self._gathering: dict[str, tuple[set[int], asyncio.Event]] = {}
        self._renewals = 0
        self._told_url = False
        self._started = False  # all were there once
        self._early_is_over = False
        self._ending = asyncio.Event()
        self._failure: UsageError | None = None

    async def run(self) -> None:
        """Keep the workers until a signal comes, then wait for their end."""
        loop = asyncio.get_running_loop()
        self._nursery = ForkServer()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, number)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._run(self._renew()))
        keepers = [loop.create_task(self._keep(place)) for place in self._places]
        watching = loop.create_task(self._watch())
        await self._ending.wait()
        settings = self._settings
        patience = settings.drain_seconds + settings.shutdown_seconds + GRACE_SECONDS
        _, late = await asyncio.wait(keepers, timeout=patience)
        self._nursery.close()
        for place in self._places if late else ():
            place.signal(signal.SIGKILL)
        await asyncio.gather(*keepers)
        watching.cancel()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)
        if self._failure is not None:
            raise self._failure

    def _end(self, number: int) -> None:
        """Take the first signal as the wish to end, a later SIGINT as haste."""
        hasty = self._ending.is_set() and number == signal.SIGINT
        self._ending.set()
        for place in self._places:
            place.signal(signal.SIGINT if hasty else signal.SIGTERM)

    def _fail(self, text: str) -> None:
        if self._failure is None:
            self._failure = UsageError(text)
        self._end(signal.SIGTERM)

    async def _renew(self) -> None:
        """Read keys and certificates again; what cannot be used changes nothing.

        A disk that does not answer holds up nobody, nor does it the next who asks for this.
        """
        self._renewals += 1
        number = self._renewals
        read = partial(read_credentials, self._settings, self._credentials)
        try:
            credentials = await on_thread(read, daemon=True)
        except UsageError as error:
            log.error("keys and certificates stay as they are: %s", error)
            return
        if number < self._renewals:  # what was read later is newer
            return
        self._credentials = credentials
        for place in self._places:
            self._tell(place.number, messages.Renew(credentials=self._credentials))
        log.info("keys and certificates were read again")

    async def _keep(self, place: WorkerSlot) -> None:
        """Run one worker after the other in a place, until the end."""
        backoff = Backoff()
        while not self._ending.is_set():
            began = time.monotonic()
            try:
                code = await self._run_one(place)
            except Exception as error:  # whatever it is, the place is kept
                log.exception("starting worker %d", place.number)
                code, place.why = 1, f"could not be started: {error}"
            if place.number == 0:
                self._end_early()
            if self._ending.is_set():
                return
            how = place.why or (
                f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            )
            if code >= 0 and not self._started:  # its reason stands in its own output
                self._fail(f"worker {place.number} {how} before it was ready")
                return
            pause = backoff.pause(time.monotonic() - began)
            after = f" in {pause:g} s" if pause else ""
            _say(f"worker {place.number} {how}; starting another{after}")
            if pause:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._ending.wait(), pause)

    async def _run_one(self, place: WorkerSlot) -> int:
        """Start a worker, hear it until its end, and return its exit code."""
        listener = None if self._settings.workers > 1 else self._bound.fileno()
        await place.begin(
            self._nursery, self._rates, listener, lambda data: self._hear(place, data)
        )
        try:
            if self._ending.is_set():
                place.signal(signal.SIGTERM)
            early = place.number == 0 and not self._early_is_over
            host, port = self._bound.getsockname()[:2]
            said: dict[str, object] = {"config": None, "host": host, "port": port}
            said["load"] = self._changes.wanted
            if self._loading_deaths:  # one at a time, to see which one it is
                said["loads"] = 1
            settings = self._settings.model_dump(mode="json") | said
            self._tell(
                place.number,
                messages.Start(
                    settings=json.dumps(settings),
                    number=place.number,
                    cores=place.cores,
                    early=early,
                    pinned=self._pinned,
                    quarantine=self._quarantine,
                    credentials=self._credentials,
                ),
            )
            self._changes.joined(place.number)
            return await place.ended()
        finally:
            self._left(place)

    def _left(self, place: WorkerSlot) -> None:
        """Take note that the worker of a place has ended."""
        if place.code < 0 and not self._ending.is_set():
            self._suspect(place)
        self._changes.left(place.number, comes_back=not self._ending.is_set())
        self._totals.left(place.pid)
        for missing, complete in self._gathering.values():
            missing.discard(place.pid)
            if not missing:
                complete.set()
        place.leave()

    def _suspect(self, place: WorkerSlot) -> None:
        """Keep an archive out that is always being loaded when a worker dies."""
        for digest, name in place.proving.items():
            deaths = self._loading_deaths[digest] = self._loading_deaths.get(digest, 0) + 1
            if deaths > 1 and len(place.proving) == 1:
                why = f"a process ended by signal {-place.code} twice while it loaded the archive"
                self._put_away(digest, out_of_service(name, why))

    def _put_away(self, digest: str, reason: str) -> None:
        """Have no worker serve an archive any more, those that are yet to come included."""
        if digest not in self._quarantine:
            log.error("%s", reason)
            self._quarantine[digest] = reason
            for place in self._places:
                self._tell(place.number, messages.Quarantine(digest=digest, reason=reason))

    async def _watch(self) -> None:
        """End workers that hang. A pause of this process itself says nothing of the others."""
        last = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = time.monotonic()
            late, last = now - last > 4 * LOOK_SECONDS, now
            for place in () if late else self._places:
                shown = place.shown()
                complaint = shown and self._watchdog.complaint(shown, now)
                if not shown or not complaint or place.why:
                    continue
                place.why = f"was ended: {complaint}"
                log.error("worker %d: %s", place.number, complaint)
                if shown.call in place.on_loop:
                    name, digest = place.on_loop[shown.call]
                    self._put_away(digest, out_of_service(name, complaint))
                place.signal(signal.SIGKILL)

    def _hear(self, place: WorkerSlot, data: bytes) -> None:
        message = messages.from_worker(data)
        match message:
            case messages.Refused(text=text):
                if self._started:
                    log.error("worker %d cannot start: %s", place.number, text)
                else:
                    self._fail(text)
            case messages.Listening(url=url):
                self._listens(place, url)
            case messages.Loaded():
                self._has_loaded(place, message)
            case messages.Said(line=line):
                several = self._settings.workers > 1
                _say(f"worker {place.number}: {line}" if several else line)
            case messages.Change():
                self._run(self._changes.make(place.number, message))
            case messages.Outcome():
                self._changes.heard(place.number, message)
                if message.failure is None:
                    self._pin(message.digests)
                    for digest in message.digests.values():  # loaded again because it was asked for
                        self._quarantine.pop(digest, None)
            case messages.OnLoop(engine=engine, name=name, digest=digest):
                place.on_loop[engine] = name, digest
            case messages.Proving(digest=digest, name=name, begins=begins):
                if begins:
                    place.proving[digest] = name
                else:
                    place.proving.pop(digest, None)
                    self._loading_deaths.pop(digest, None)
            case messages.Hung(digest=digest, reason=reason):
                self._put_away(digest, reason)
            case messages.SamplesWanted(id=id):
                self._run(self._figures(place.number, id))
            case messages.Samples(id=id, families=families):
                self._take_figures(place, id, families)
        self._tell_start()

    def _listens(self, place: WorkerSlot, url: str) -> None:
        place.listening = True
        if not self._told_url:
            self._told_url = True
            if self._settings.trusted_keys is None:
                _note(UNSIGNED)
            _say(f"listening on {url}")
        elif self._started:
            _say(f"worker {place.number} is back")

    def _has_loaded(self, place: WorkerSlot, message: messages.Loaded) -> None:
        place.loaded = True
        self._pin(message.live | self._pinned)
        if not self._started:
            self._first.append(message)
        if self._early_is_over:
            self._tell(place.number, messages.Listen())
        elif place.number == 0:
            self._end_early()

    def _tell_start(self) -> None:
        """Tell what is ready or has failed, once, when all workers are there for the first time."""
        if self._started or not all(p.loaded and p.listening for p in self._places):
            return
        self._started = True
        lines = dict.fromkeys(line for loaded in self._first for line in loaded.summary)
        bad = [line for line in lines if not line.startswith("ready:")]
        for line in bad or lines:
            _say(line)

    def _pin(self, digests: dict[str, str]) -> None:
        if self._settings.mode != "poll" and self._settings.workers > 1:
            self._pinned = digests

    def _end_early(self) -> None:
        """Let the others listen, now that the first worker is ready or has died."""
        if not self._early_is_over:
            self._early_is_over = True
            for place in self._places[1:]:
                if place.loaded:
                    self._tell(place.number, messages.Listen())

    async def _figures(self, asked: int, id: str) -> None:
        """Tell a worker the figures of all."""
        complete = asyncio.Event()
        missing = {place.pid for place in self._places if place.loaded or place.number == asked}
        part = uuid.uuid4().hex
        self._gathering[part] = missing, complete
        for place in self._places:
            if place.pid in missing:
                self._tell(place.number, messages.SamplesWanted(id=part))
        try:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(complete.wait(), FIGURES_SECONDS)
        finally:
            del self._gathering[part]
        self._tell(asked, messages.Samples(id=id, families=self._totals.merged()))

    def _take_figures(self, place: WorkerSlot, id: str, families: list[MetricFamily]) -> None:
        self._totals.heard(place.pid, families)
        if id in self._gathering:
            missing, complete = self._gathering[id]
            missing.discard(place.pid)
            if not missing:
                complete.set()

    def _live_numbers(self) -> list[int]:
        return [place.number for place in self._places if place.lives]

    def _tell(self, number: int, message: messages.ToWorker) -> None:
        self._places[number].tell(message.encoded())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _say(line: str) -> None:
    print(line, flush=True)


def _note(line: str) -> None:
    """Say a line on standard error, before what comes next on standard output."""
    print(line, file=sys.stderr, flush=True)
    drain_all()
