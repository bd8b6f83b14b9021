"""A place for a worker: the process that is in it now, and what the supervisor knows of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable

from torchship.serve.process.channel import Channel
from torchship.serve.process.fork_server import ForkServer
from torchship.serve.system.heartbeat import PULSE_BYTES, Heartbeat, Shown
from torchship.serve.system.shared_memory import shared_file

STEADY_SECONDS = 10  # a worker that lived so long was well
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
EXIT_SECONDS = 5.0  # for the exit code of a worker whose channel is closed


class WorkerSlot:
    """A number, cores, and the worker that has them now."""

    def __init__(self, number: int, cores: tuple[int, ...]) -> None:
        self.number = number
        self.cores = cores
        self.pid = 0
        """Of the worker that is here; 0 if there is none."""
        self.code = 0
        """The exit code of the one that was here last; negative: by which signal it ended."""
        self.why = ""
        """What was wrong with a worker that was ended, or could not be started."""
        self.loaded = False
        """It knows what became of its archives."""
        self.listening = False
        self.on_loop: dict[int, tuple[str, str]] = {}
        """Name and digest of the models that run on its event loop, by the number of the engine."""
        self.proving: dict[str, str] = {}
        """Names of the models that it is loading, by digest."""
        self._exit: asyncio.Future[int] | None = None
        self._channel: Channel | None = None
        self._pulse: Heartbeat | None = None

    @property
    def lives(self) -> bool:
        """Whether there is a worker."""
        return self._channel is not None

    async def begin(
        self, nursery: ForkServer, rates: int, listener: int | None, heard: Callable[[bytes], None]
    ) -> None:
        """Have a worker started, and hear it.

        Raises:
            OSError: no process could be started.
        """
        self.why, self.code = "", 0
        own, given = socket.socketpair()
        pulse = shared_file(PULSE_BYTES)
        try:
            with given:
                more = [] if listener is None else [listener]
                self.pid, self._exit = await nursery.start([given.fileno(), pulse, rates, *more])
            self._pulse = Heartbeat.at(pulse)
        except BaseException:
            own.close()
            raise
        finally:
            os.close(pulse)
        self._channel = Channel(own)
        self._channel.listen(heard, self._closed)

    def _closed(self) -> None:
        """Take note that the worker's end of the channel is closed: the worker has ended, or will.

        Its exit code comes from the nursery, which may have died itself.
        """
        assert self._exit is not None
        asyncio.get_running_loop().call_later(EXIT_SECONDS, self._give_up, self._exit)

    def _give_up(self, code: asyncio.Future[int]) -> None:
        if not code.done():
            self.signal(signal.SIGKILL)
            code.set_result(-signal.SIGKILL)

    async def ended(self) -> int:
        """Wait for the worker's end; return its exit code, negative: by which signal it ended."""
        assert self._exit is not None
        self.code = await self._exit
        return self.code

    def leave(self) -> None:
        """Let go of a worker that has ended, or that could not be told what to do."""
        self.signal(signal.SIGKILL)
        if self._channel is not None:
            self._channel.close()
        self._channel = self._pulse = self._exit = None
        self.pid = 0
        self.loaded = self.listening = False
        self.on_loop.clear()
        self.proving.clear()

    def tell(self, message: bytes) -> None:
        """Send the worker a message, if there is one."""
        if self._channel is not None:
            self._channel.send(message)

    def signal(self, number: int) -> None:
        """Send the worker a signal, if there is one."""
        if self._exit is not None and not self._exit.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def shown(self) -> Shown | None:
        """Return what the worker's pulse shows; None if there is no worker."""
        return None if self._pulse is None else self._pulse.shown()


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
