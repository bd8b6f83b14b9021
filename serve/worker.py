"""One of several server processes: `python -m torchship.serve.worker`, for `workers` only."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from types import FrameType

from torchship.serve.changes import Change, Outcome, SharedRepository, of_line
from torchship.serve.logs import configure_logging
from torchship.serve.process import Server, bind, make_server, serve
from torchship.serve.workers import Role

STDIN = 0


class Worker(Server):
    """A server that ends with its supervisor, and listens when it is told to."""

    early = False
    _loop: asyncio.AbstractEventLoop | None = None
    _told = b""  # the beginning of a line

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Load the archives; wait for the word to listen, unless this is the first worker."""
        self._word = asyncio.Event()
        self._making: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(STDIN, self._read, self._loop)
        if not self.early:
            self._loading = asyncio.create_task(self._load())
            if not self.should_exit:
                await self._word.wait()
            if self.should_exit:
                self._loading.cancel()
                self.repository.release()
                return
        await super().startup(sockets)

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        data = os.read(STDIN, 4096)
        if not data:  # the supervisor is gone
            loop.remove_reader(STDIN)
            self.handle_exit(signal.SIGTERM, None)
        *lines, self._told = (self._told + data).split(b"\n")
        for line in lines:
            self._obey(line.decode())

    def _obey(self, line: str) -> None:
        match line.partition(" ")[0]:
            case "listen":
                self._word.set()
            case "make":
                change, repository = of_line(line), self.repository
                assert isinstance(change, Change)
                assert isinstance(repository, SharedRepository)
                task = asyncio.ensure_future(repository.make(change))
                self._making.add(task)
                task.add_done_callback(self._making.discard)
            case "done":
                outcome, repository = of_line(line), self.repository
                assert isinstance(outcome, Outcome)
                assert isinstance(repository, SharedRepository)
                repository.answered(outcome)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End as every server does, and do not wait for the word any more."""
        super().handle_exit(sig, frame)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._word.set)


def main() -> None:
    """Serve as the supervisor says."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(STDIN, 1)
        if not byte:
            sys.exit(1)
        line += byte
    role = Role.of(line)
    os.sched_setaffinity(0, role.cores)
    configure_logging(role.settings.log_format, role.settings.log_level)
    server = make_server(role.settings, Worker, SharedRepository, role.shared)
    server.early = role.early
    serve(server, bind(role.host, role.port, shared=True))


if __name__ == "__main__":
    main()
