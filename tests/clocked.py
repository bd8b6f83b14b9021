"""A server in this process, on a real socket, whose event loop's clock moves only when told."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from programs import Loader
from torchship.serve.process.server import Shared, make_repository, make_server
from torchship.serve.settings import Settings
from torchship.serve.telemetry.metrics import Metrics
from torchship.serve.telemetry.samples import samples_of

WAIT = 60  # seconds until a test that waits for an event has failed
TURNS = 8  # of the event loop, in which the last connections end

T = TypeVar("T")


class SteppedLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still until it is moved."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Move the clock; what is due then happens. From any thread."""

        def move() -> None:
            self.now += seconds

        self.call_soon_threadsafe(move)


class Line(NamedTuple):
    """What a line of the access log says of a request."""

    model: str
    status: int


class AccessLog(logging.Handler):
    """Keeps the lines of the access log."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.changed = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self.changed:
            self.records.append(record)
            self.changed.notify_all()

    @property
    def lines(self) -> list[Line]:
        return [Line(*(vars(record)[name] for name in Line._fields)) for record in self.records]

    def wait_for(self, count: int) -> list[Line]:
        """Return the lines when there are so many, and whatever is there besides."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.records) >= count, WAIT), self.lines
        return self.lines


@contextmanager
def access_log() -> Iterator[AccessLog]:
    """Have the access log kept until the block ends."""
    log = AccessLog()
    logger = logging.getLogger("torchship.access")
    level = logger.level
    logger.addHandler(log)
    logger.setLevel(logging.INFO)
    try:
        yield log
    finally:
        logger.removeHandler(log)
        logger.setLevel(level)


class ClockedServer:
    """A server in a thread of its own; it goes by a clock that `advance` moves."""

    def __init__(self, settings: Settings, log: AccessLog, loader: Loader) -> None:
        self.log = log
        self._loop = SteppedLoop()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listening.getsockname()
        self._metrics = Metrics()
        self._repository = make_repository(
            settings, Shared(), self._metrics, load_program=loader.load
        )
        self._server = make_server(settings, self._repository, self._metrics, Shared())
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.address[1]}"

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(WAIT)

    def _run(self) -> None:
        async def main() -> None:
            await self._repository.load()
            self._ready.set()
            await self._server.serve([self._listening])

        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(main())
        left = asyncio.all_tasks(self._loop)  # those that were cancelled have still to answer
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.now += WAIT  # connections whose client has not closed its side are closed
        for _ in range(TURNS):
            self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, WAIT)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run something on the server's event loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(WAIT)

    def settle(self) -> None:
        """Return when the server has taken in whatever was sent to it before."""
        with self.connect() as connection:
            connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")

    def advance(self, seconds: float) -> None:
        """Let so much time pass, after all that was sent so far was taken in."""
        self.settle()
        self._loop.advance(seconds)

    def holds_unread_answers(self) -> bool:
        """Return whether a client leaves unread more than the server's buffer for it may hold."""

        async def look() -> bool:
            transports = [one.transport for one in self._server.server_state.connections]
            return any(
                transport.get_write_buffer_size() > transport.get_write_buffer_limits()[1]
                for transport in transports
            )

        return self.run(look())

    def counted(self) -> dict[Line, int]:
        """Return how many requests were counted, by model and status."""
        figures = samples_of(self.run(self._metrics.own(self._repository.status())))
        return {
            Line(one.labels["model"], int(one.labels["code"])): int(one.value)
            for one in figures
            if one.name == "torchship_requests_total"
        }

    def stop_listening(self) -> None:
        """Have the server begin to end; it waits for what is not answered yet."""
        self._server.should_exit = True
        self._loop.advance(1.0)  # it looks now and then
        while True:
            try:
                self.connect().close()
            except ConnectionError:
                return

    def end(self, steps: float = 1.0) -> None:
        """Return when the server has ended; its clock moves in such steps until then."""
        self._server.should_exit = True  # seen when the clock moves
        while self._thread.is_alive():
            with suppress(RuntimeError):  # it was closed just now
                self._loop.advance(steps)
            self._thread.join(0.01)


@contextmanager
def clocked(
    *archives: Path, loader: Loader | None = None, **settings: object
) -> Iterator[ClockedServer]:
    """Serve archives until the block ends; the loader may hold or watch their calls."""
    chosen = Settings(paths=list(archives), access_log="all", **settings)  # type: ignore[arg-type]
    with access_log() as log:
        server = ClockedServer(chosen, log, loader or Loader())
        server.start()
        try:
            yield server
        finally:
            server.end()
