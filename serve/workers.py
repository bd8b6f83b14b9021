"""Several server processes on one port: the process that starts them and keeps them alive.

Each worker has a listening socket of its own (SO_REUSEPORT), so the kernel shares connections out.
A worker begins to listen when its archives are loaded; only the very first one listens before, so
that a client is told what it has to wait for.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import pickle
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.multiprocess import mark_process_dead

from torchship.script.errors import UsageError
from torchship.serve.changes import Change, Changes, Outcome, of_line
from torchship.serve.checks import check_workers
from torchship.serve.process import bind
from torchship.serve.settings import Settings

STEADY_SECONDS = 10  # a worker that lived so long was well
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
LONGEST_LINE = 1 << 20  # bytes that a worker says at once
GRACE_SECONDS = 10  # beyond the time that requests in flight have


@dataclass(frozen=True)
class Role:
    """What a worker is told at its start: the first line of its standard input."""

    settings: Settings
    host: str
    port: int
    cores: tuple[int, ...]
    early: bool  # listen before the archives are loaded
    shared: Path  # a folder that the workers have together

    def line(self) -> bytes:
        """Return the role as a line."""
        return base64.b64encode(pickle.dumps(self)) + b"\n"

    @staticmethod
    def of(line: bytes) -> Role:
        """Return the role that a line from the supervisor tells."""
        role = pickle.loads(base64.b64decode(line))
        assert isinstance(role, Role)
        return role


class Backoff:
    """How long to wait before a dead worker is replaced: at once, unless it keeps dying."""

    def __init__(self) -> None:
        self._quick = 0

    def pause(self, lived: float) -> float:
        """Return the seconds to wait, after a worker that lived so many seconds."""
        self._quick = 0 if lived >= STEADY_SECONDS else self._quick + 1
        if self._quick < 2:
            return 0
        return min(FIRST_PAUSE * 2.0 ** min(self._quick - 2, 10), LONGEST_PAUSE)


def share_cores(cores: list[int], workers: int, threads: int) -> list[tuple[int, ...]]:
    """Return the cores of each worker: an even share, or as many as it has threads, in turn."""
    each = min(max(threads, len(cores) // workers), len(cores))
    return [
        tuple(sorted(cores[(worker * each + n) % len(cores)] for n in range(each)))
        for worker in range(workers)
    ]


def supervise(settings: Settings) -> None:
    """Run the workers until a signal comes and all have ended in good order.

    Raises:
        UsageError: the workers cannot do this together, the address cannot be listened on, or a
            worker ended before it was ready.
    """
    check_workers(settings)
    with (
        reserve(settings.host, settings.port) as reserved,
        tempfile.TemporaryDirectory(prefix="torchship-workers-") as shared,
    ):
        asyncio.run(Supervisor(settings, reserved, Path(shared)).run())


def reserve(host: str, port: int) -> socket.socket:
    """Return a socket that is bound and does not listen: it keeps the port for the workers.

    Raises:
        UsageError: the address is taken or is not this machine's.
    """
    reserved = bind(host, port)
    # From now on only sockets that ask to share: two servers shall not share a port by mistake.
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return reserved


class Supervisor:
    """Starts the workers, hears what they say, replaces those that die, and ends them all."""

    def __init__(self, settings: Settings, reserved: socket.socket, shared: Path) -> None:
        self._settings = settings
        self._host, self._port = reserved.getsockname()[:2]
        self._shared = shared
        self._cores = share_cores(
            sorted(os.sched_getaffinity(0)), settings.workers, settings.threads
        )
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._loaded: set[int] = set()  # workers that know what became of their archives
        self._listening: set[int] = set()
        self._said: set[str] = set()
        self._changes = Changes(settings.load, self._tell, lambda: list(self._processes))
        self._making: set[asyncio.Task[None]] = set()
        self._started = False  # all were there once
        self._early_is_over = False
        self._ending = asyncio.Event()
        self._failure: UsageError | None = None

    async def run(self) -> None:
        """Keep the workers until a signal comes, then wait for their end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, number)
        keepers = [loop.create_task(self._keep(n)) for n in range(self._settings.workers)]
        await self._ending.wait()
        patience = self._settings.shutdown_seconds + GRACE_SECONDS
        _, late = await asyncio.wait(keepers, timeout=patience)
        for worker in self._processes if late else ():
            self._signal(worker, signal.SIGKILL)
        await asyncio.gather(*keepers)
        if self._failure is not None:
            raise self._failure

    def _end(self, number: int) -> None:
        """Take the first signal as the wish to end, a later SIGINT as haste."""
        hasty = self._ending.is_set() and number == signal.SIGINT
        self._ending.set()
        for worker in self._processes:
            self._signal(worker, signal.SIGINT if hasty else signal.SIGTERM)

    def _signal(self, worker: int, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._processes[worker].send_signal(number)

    async def _keep(self, worker: int) -> None:
        """Run one worker after the other in a place, until the end."""
        backoff = Backoff()
        while not self._ending.is_set():
            began = time.monotonic()
            code = await self._run_one(worker)
            if worker == 0:
                self._end_early()
            if self._ending.is_set():
                return
            how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
            if code >= 0 and not self._started:  # its reason stands in its own output
                self._failure = UsageError(f"worker {worker} ended {how} before it was ready")
                self._end(signal.SIGTERM)
                return
            pause = backoff.pause(time.monotonic() - began)
            after = f" in {pause:g} s" if pause else ""
            _say(f"worker {worker} ended {how}; starting another{after}")
            if pause:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._ending.wait(), pause)

    async def _run_one(self, worker: int) -> int:
        """Start a worker, hear it until its end, and return its exit code."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "torchship.serve.worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LONGEST_LINE,
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(self._shared)},
            start_new_session=True,  # a terminal's Ctrl-C comes to us, and from us to it
        )
        self._processes[worker] = process
        if self._ending.is_set():
            self._signal(worker, signal.SIGTERM)
        early = worker == 0 and not self._early_is_over
        cores = self._cores[worker]
        settings = self._settings.model_copy(update={"load": self._changes.wanted})
        role = Role(settings, self._host, self._port, cores, early, self._shared)
        self._tell(worker, role.line())
        self._changes.joined(worker)
        assert process.stdout is not None
        async for line in process.stdout:
            self._hear(worker, line.decode().rstrip("\n"))
        code = await process.wait()
        del self._processes[worker]
        self._changes.left(worker)
        self._loaded.discard(worker)
        self._listening.discard(worker)
        mark_process_dead(process.pid, str(self._shared))  # type: ignore[no-untyped-call]
        return code

    def _hear(self, worker: int, line: str) -> None:
        kind = line.partition(" ")[0]
        if kind == "listening":
            self._listening.add(worker)
            if worker == 0 and not self._early_is_over:
                _say(line)
        elif kind in ("ready:", "failed:"):
            self._loaded.add(worker)
            self._said.add(line)
            if self._early_is_over:
                self._tell(worker, b"listen\n")
            elif worker == 0:
                self._end_early()
        elif kind == "change":
            change = of_line(line)
            assert isinstance(change, Change)
            task = asyncio.create_task(self._changes.make(worker, change))
            self._making.add(task)
            task.add_done_callback(self._making.discard)
        elif kind == "outcome":
            outcome = of_line(line)
            assert isinstance(outcome, Outcome)
            self._changes.heard(worker, outcome)
        else:
            _say(f"worker {worker}: {line}")
        if len(self._loaded & self._listening) == self._settings.workers and not self._started:
            self._started = True
            lines = sorted(self._said)  # what failed before what is ready
            for said in [one for one in lines if one.startswith("failed:")] or lines:
                _say(said)
        elif self._started and kind == "listening":
            _say(f"worker {worker} is back")

    def _end_early(self) -> None:
        """Let the others listen, now that the first worker is ready or has died."""
        if not self._early_is_over:
            self._early_is_over = True
            for worker in self._loaded - {0}:
                self._tell(worker, b"listen\n")

    def _tell(self, worker: int, line: bytes) -> None:
        process = self._processes.get(worker)
        if process is not None:
            assert process.stdin is not None
            process.stdin.write(
                line
            )  # a worker that has died meanwhile is noticed by its output's end


def _say(line: str) -> None:
    print(line, flush=True)
