"""A worker slot: the worker process in it, and what the supervisor knows about that."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable

from torchship.serve.process.channel import Channel
from torchship.serve.process.fork_server import ForkServer
from torchship.serve.system.heartbeat import HEARTBEAT_BYTES, Heartbeat, HeartbeatState
from torchship.serve.system.shared_memory import shared_file

STEADY_SECONDS = 10  # a worker that ran for this long is replaced without a pause
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
EXIT_SECONDS = 5.0  # limit for the exit code to arrive after a worker's channel has closed


class WorkerSlot:
    """A number and cores, and the worker that has them at present."""

    def __init__(self, number: int, cores: tuple[int, ...]) -> None:
        self.number = number
        self.cores = cores
        self.pid = 0
        """The process id of the worker; 0 if there is none."""
        self.code = 0
        """The exit code of the last worker; negative: the signal that ended it."""
        self.failure = ""
        """Why a worker was ended or could not be started; "" if neither."""
        self.loaded = False
        """Whether each of its archives is live or has failed."""
        self.listening = False
        self.on_loop: dict[int, tuple[str, str]] = {}
        """Name and digest of the models that may run on its event loop, by engine number."""
        self.loading: dict[str, str] = {}
        """Names of the models that it is loading, by digest."""
        self._exit: asyncio.Future[int] | None = None
        self._channel: Channel | None = None
        self._heartbeat: Heartbeat | None = None

    @property
    def alive(self) -> bool:
        """Whether the slot has a worker."""
        return self._channel is not None

    async def start(
        self,
        fork_server: ForkServer,
        rates: int,
        listener: int | None,
        on_message: Callable[[bytes], None],
    ) -> None:
        """Start a worker and receive its messages.

        Raises:
            OSError: no process could be started.
        """
        self.failure, self.code = "", 0
        own, given = socket.socketpair()
        heartbeat = shared_file(HEARTBEAT_BYTES)
        try:
            with given:
                more = [] if listener is None else [listener]
                self.pid, self._exit = await fork_server.start(
                    [given.fileno(), heartbeat, rates, *more]
                )
            self._heartbeat = Heartbeat.at(heartbeat)
        except BaseException:
            own.close()
            raise
        finally:
            os.close(heartbeat)
        self._channel = Channel(own)
        self._channel.listen(on_message, self._closed)

    def _closed(self) -> None:
        """Handle that the worker closed its end of the channel: it has ended, or is about to.

        Its exit code comes from the fork server, which may have died itself.
        """
        assert self._exit is not None
        asyncio.get_running_loop().call_later(EXIT_SECONDS, self._give_up, self._exit)

    def _give_up(self, code: asyncio.Future[int]) -> None:
        if not code.done():
            self.signal(signal.SIGKILL)
            code.set_result(-signal.SIGKILL)

    async def wait(self) -> int:
        """Wait for the worker to end; return its exit code (negative: the signal that ended it)."""
        assert self._exit is not None
        self.code = await self._exit
        return self.code

    def release(self) -> None:
        """Clear the slot after a worker that has ended, or that could not be started properly."""
        self.signal(signal.SIGKILL)
        if self._channel is not None:
            self._channel.close()
        self._channel = self._heartbeat = self._exit = None
        self.pid = 0
        self.loaded = self.listening = False
        self.on_loop.clear()
        self.loading.clear()

    def send(self, message: bytes) -> None:
        """Send a message to the worker, if there is one."""
        if self._channel is not None:
            self._channel.send(message)

    def signal(self, number: int) -> None:
        """Send a signal to the worker, if there is one."""
        if self._exit is not None and not self._exit.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def heartbeat(self) -> HeartbeatState | None:
        """Return the state of the worker's heartbeat; None if there is no worker."""
        return None if self._heartbeat is None else self._heartbeat.state()


class Backoff:
    """The pause before a dead worker is replaced: none, unless workers keep dying."""

    def __init__(self) -> None:
        self._quick = 0

    def pause(self, lived: float) -> float:
        """Return the seconds to wait after a worker that ran for `lived` seconds."""
        self._quick = 0 if lived >= STEADY_SECONDS else self._quick + 1
        if self._quick < 2:
            return 0
        return min(FIRST_PAUSE * 2.0 ** min(self._quick - 2, 10), LONGEST_PAUSE)


def share_cores(cores: list[int], workers: int, threads: int) -> list[tuple[int, ...]]:
    """Return the cores of each worker: an even share, but at least one core per thread."""
    each = min(max(threads, len(cores) // workers), len(cores))
    return [
        tuple(sorted(cores[(worker * each + n) % len(cores)] for n in range(each)))
        for worker in range(workers)
    ]
