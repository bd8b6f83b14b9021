"""The server as a process: its socket, its signals, and what it says on stdout."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import ssl
import sys
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

import uvicorn

from torchship.script import operators
from torchship.script.errors import UsageError
from torchship.script.signing import read_trusted_keys
from torchship.script.torchscript import configure
from torchship.serve.app import create_app
from torchship.serve.checks import check_places
from torchship.serve.devices import read_placement
from torchship.serve.direct import Direct, direct
from torchship.serve.discovery import find_archives
from torchship.serve.limits import Limits
from torchship.serve.logs import configure_logging
from torchship.serve.metrics import Metrics
from torchship.serve.repository import Repository
from torchship.serve.sequences import Sequences
from torchship.serve.settings import Settings
from torchship.serve.websocket import websocket

if TYPE_CHECKING:
    from torchship.serve.tracing import Tracer

log = logging.getLogger(__name__)

BACKLOG = 2048
END_SECONDS = 1  # for what runs in a model when the limit on the shutdown has passed
KEEP_ALIVE = 75  # seconds that an idle connection stays open


class Server(uvicorn.Server):
    """uvicorn, which listens first and loads then, and for which a signal is a normal end."""

    def __init__(
        self,
        config: uvicorn.Config,
        repository: Repository,
        metrics: Metrics,
        poll_seconds: float = 5,
    ) -> None:
        super().__init__(config)
        self.repository = repository
        self.metrics = metrics
        self.sequences: Sequences = config.app.state.sequences  # type: ignore[union-attr]
        self.tracer: Tracer | None = config.app.tracer  # type: ignore[union-attr]
        self._poll_seconds = poll_seconds
        self._refreshing: asyncio.Task[None] | None = None
        self._loading: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept, say so, and begin to load the archives."""
        self._refreshing = asyncio.create_task(self.metrics.keep_fresh(self.repository))
        await asyncio.sleep(0)  # it has begun before anybody can ask
        await super().startup(sockets)
        for bound in sockets or ():
            print(f"listening on {_url(bound, self.config.is_ssl)}", flush=True)
        if self._loading is None:
            self._loading = asyncio.create_task(self._load())

    async def _load(self) -> None:
        await self._first_load()
        if self.repository.mode == "poll":
            await self.repository.watch(self._poll_seconds)

    async def _first_load(self) -> None:
        await self.repository.load()
        # What is there now stays: looking through all of it again and again for garbage, torch's
        # own objects above all, would hold requests up for 100 ms at a time.
        gc.collect()
        gc.freeze()
        failed = [entry for entry in self.repository.entries if entry.state == "failed"]
        for entry in failed:
            print(f"failed: {entry.path}: {entry.reason}", flush=True)
        if not failed:
            live = [entry for entry in self.repository.entries if entry.state == "live"]
            keys = [entry.key for entry in live if entry.key]
            print("ready: " + ", ".join(f"{name}/{version}" for name, version in keys), flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish the requests in flight, then let the models go."""
        self.repository.halt()
        for task in (self._loading, self._refreshing):
            if task is not None:
                task.cancel()
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            if isinstance(connection, Direct):
                connection.give_up()
        self.config.app.infer.codec.close()  # type: ignore[union-attr]
        await self.sequences.close()
        if self.tracer is not None:
            await asyncio.to_thread(self.tracer.close)
        self.repository.release()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take SIGTERM or SIGINT as the wish to end, with exit code 0; a second SIGINT as haste."""
        self.repository.close()
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


Kind = TypeVar("Kind", bound=Server)


def run(settings: Settings) -> None:
    """Serve until a signal comes, in this process or in several workers.

    Raises:
        UsageError: no archives, no such keys, or an address that cannot be listened on.
    """
    configure_logging(settings.log_format, settings.log_level)
    operators.allow(settings.operators)  # workers have it from the environment
    server = make_server(settings, Server)
    check_places(settings)
    if not settings.trusted_keys:
        print(
            "signatures are not checked: no --trusted-keys were given", file=sys.stderr, flush=True
        )
    if settings.workers > 1:  # what was made only shows that it can be
        from torchship.serve.workers import supervise

        supervise(settings)
    else:
        serve(server, bind(settings.host, settings.port, listening=True))


def make_server(
    settings: Settings,
    kind: type[Kind],
    repositories: type[Repository] = Repository,
    shared: Path | None = None,
) -> Kind:
    """Return a server, of that class, which has not begun.

    `shared` is a folder that it has together with other workers, for what is counted over all.

    Raises:
        UsageError: no archives, or no such keys.
    """
    find_archives(settings.paths, empty=settings.mode != "fixed")
    keys = read_trusted_keys(settings.trusted_keys) if settings.trusted_keys else []
    check_tls(settings)
    configure(settings.threads)
    placement = read_placement(settings.device, settings.place)
    limits = Limits(
        *(settings.threads, settings.max_batch, settings.max_queue, placement),
        delay_seconds=settings.max_delay_us / 1e6,
        quick_seconds=settings.quick_us / 1e6,
    )
    metrics = Metrics()
    repository = repositories(
        settings.paths,
        keys,
        limits,
        mode=settings.mode,
        load=settings.load,
        observer=metrics.observer,
        report=partial(print, flush=True),
    )
    app = create_app(repository, settings, metrics, shared)
    config = uvicorn.Config(
        app,
        http=direct(settings, app),
        ws=websocket(settings, app),
        ws_max_size=settings.max_body_bytes,
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=settings.shutdown_seconds,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )
    return kind(config, repository, metrics, settings.poll_seconds)


def check_tls(settings: Settings) -> None:
    """Refuse a certificate and key that cannot be used, before anything begins.

    Raises:
        UsageError: a key without a certificate; a file that cannot be read, is no PEM, or does
            not belong to the other.
    """
    if settings.tls_cert is None:
        if settings.tls_key is not None:
            raise UsageError("--tls-key was given without --tls-cert: expected both")
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            settings.tls_cert,
            settings.tls_key,
            password="",  # rather than to ask for one
        )
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        files = " and ".join(f"'{f}'" for f in (settings.tls_cert, settings.tls_key) if f)
        raise UsageError(f"cannot use the certificate and key of {files}: {reason}") from None


def serve(server: Server, bound: socket.socket) -> None:
    """Run a server on a socket until a signal comes."""
    with bound:
        server.run([bound])
    if not server.repository.join(END_SECONDS):
        # A call that runs cannot be interrupted, and a thread killed inside LibTorch aborts.
        log.warning("a model still runs: the server ends without it")
        sys.stdout.flush()
        logging.shutdown()
        os._exit(0)


def bind(host: str, port: int, *, shared: bool = False, listening: bool = False) -> socket.socket:
    """Return a socket that has the address, for itself or `shared` with other workers.

    Raises:
        UsageError: the address is taken or is not this machine's.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        if ":" in host:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
        if listening:
            bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    return bound


def _url(bound: socket.socket, tls: bool) -> str:
    host, port = bound.getsockname()[:2]
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
