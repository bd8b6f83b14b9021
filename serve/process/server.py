"""The server of one process: uvicorn with our application."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from torchship.script.runtime.torchscript import configure
from torchship.serve.engine.devices import read_placement
from torchship.serve.engine.limits import Limits
from torchship.serve.engine.thread_exit import end_all, leave
from torchship.serve.http.app import Application, create_app
from torchship.serve.process.credentials import api_keys_of, use
from torchship.serve.process.messages import Certificate, Credentials
from torchship.serve.process.sockets import BACKLOG
from torchship.serve.repository.repository import Repository
from torchship.serve.sequences.sequences import Sequences
from torchship.serve.service.rate_limit import RateTable
from torchship.serve.service.turns import Turn
from torchship.serve.settings import Settings
from torchship.serve.system.heartbeat import Heartbeat
from torchship.serve.telemetry.metrics import Metrics
from torchship.serve.transport.fast_path import FastPathProtocol, fast_path_protocol
from torchship.serve.transport.websocket import websocket_protocol

if TYPE_CHECKING:
    from torchship.serve.grpc.server import GrpcServer
    from torchship.serve.telemetry.tracing import Tracer

log = logging.getLogger(__name__)

END_SECONDS = 1  # for calls that still run in a model when the shutdown's limit has passed
KEEP_ALIVE = 75  # seconds that an idle connection stays open
MOST_BEAT_SECONDS = 0.25
BEATS = 8  # heartbeats in the time after which the watchdog ends a silent process


@dataclass(frozen=True)
class Shared:
    """What a worker gets from its supervisor."""

    heartbeat: Heartbeat = field(default_factory=Heartbeat)
    rates: RateTable | None = None
    credentials: Credentials = field(default_factory=Credentials)
    verify_turn: Turn = field(default_factory=Turn)


class Server(uvicorn.Server):
    """A uvicorn server that treats a signal as a normal end and can drain before it ends."""

    def __init__(self, config: uvicorn.Config, application: Application, settings: Settings,
                 repository: Repository, metrics: Metrics,
                 heartbeat: Heartbeat, certificate: Certificate | None = None) -> None:  # fmt: skip
        super().__init__(config)
        self.application = application
        self.settings = settings
        self.repository = repository
        self.metrics = metrics
        self.heartbeat = heartbeat
        self.sequences: Sequences = application.state.sequences
        self.tracer: Tracer | None = application.tracer
        self.loading: asyncio.Task[None] | None = None
        self._beat_seconds = min(MOST_BEAT_SECONDS, settings.stall_seconds / BEATS)
        self._beating: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._certificate = certificate
        self._grpc: GrpcServer | None = None

    async def begin(self, loaded: Callable[[], None]) -> None:
        """Start to load the archives; `loaded` is called when each is live or has failed."""
        self._loop = asyncio.get_running_loop()
        self._beat()
        self.loading = asyncio.create_task(self._load(loaded))

    def _beat(self) -> None:
        self.heartbeat.beat()
        assert self._loop is not None
        self._beating = self._loop.call_later(self._beat_seconds, self._beat)

    async def _load(self, loaded: Callable[[], None]) -> None:
        await self.repository.load()
        # The objects that exist now stay. Collecting them again and again, above all torch's, would
        # delay requests by 100 ms each time.
        gc.collect()
        gc.freeze()
        loaded()
        if self.repository.mode == "poll":
            await self.repository.watch(self.settings.poll_seconds)

    async def listen_for_grpc(self) -> None:
        """Listen for gRPC as well, if the settings have a port for it.

        Raises:
            UsageError: the address is in use.
        """
        settings, app = self.settings, self.application
        if settings.grpc_port is None:
            return
        # Only here, in the process that serves: the library has threads, and needs memory.
        from torchship.serve.grpc.server import GrpcServer, tls_credentials
        from torchship.serve.grpc.servicer import InferenceServicer

        servicer = InferenceServicer(
            *(self.repository, self.sequences, settings, self.metrics, app.front.accounting),
            keys=app.keys,
            memory=app.body_memory,
            who_asks=app.proxies.client,
        )
        credentials = None if self._certificate is None else tls_credentials(self._certificate_now)
        self._grpc = GrpcServer(
            servicer, lambda: self.repository.ready, settings.max_body_bytes, credentials
        )
        await self._grpc.start(settings.host, settings.grpc_port)

    def _certificate_now(self) -> tuple[str, str | None]:
        assert self._certificate is not None
        return self._certificate.chain, self._certificate.key

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish the requests in flight, then release the models."""
        self.repository.halt()
        if self.loading is not None:
            self.loading.cancel()
        grpc_ends = None
        if self._grpc is not None:
            seconds = self.settings.shutdown_seconds
            grpc_ends = asyncio.create_task(self._grpc.stop(seconds, lambda: self.force_exit))
        await super().shutdown(sockets)
        if grpc_ends is not None:
            await grpc_ends
        for connection in list(self.server_state.connections):
            if isinstance(connection, FastPathProtocol):
                connection.give_up()
        self.application.codec.close()
        await self.sequences.close()
        if self.tracer is not None:
            await asyncio.to_thread(self.tracer.close)
        self.repository.release()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the shutdown on SIGTERM or SIGINT; a second SIGINT ends the server at once.

        For `drain_seconds` the server reports not ready but still answers, so that a load balancer
        stops sending requests before the port is closed.
        """
        asked = self.repository.closed
        self.repository.close()
        self.force_exit = self.should_exit and sig == signal.SIGINT
        if asked or not self.settings.drain_seconds or self._loop is None:
            self._end()
        else:
            self._loop.call_soon_threadsafe(
                self._loop.call_later, self.settings.drain_seconds, self._end
            )

    def _end(self) -> None:
        self.should_exit = True

    def renew(self, credentials: Credentials) -> None:
        """Use new keys and certificates for all requests and connections from now on."""
        if self.application.keys is not None and credentials.api_keys is not None:
            self.application.keys.renew(api_keys_of(credentials.api_keys))
        self.repository.trust(trusted_keys_of(credentials))
        if credentials.certificate is not None and self.config.ssl is not None:
            use(credentials.certificate, self.config.ssl)
            self._certificate = credentials.certificate


def trusted_keys_of(credentials: Credentials) -> list[Ed25519PublicKey]:
    """Return the keys that archives must be signed with; empty to accept any archive."""
    keys = credentials.trusted_keys or ()
    return [Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)) for key in keys]


def make_repository(
    settings: Settings,
    shared: Shared,
    metrics: Metrics,
    kind: type[Repository] = Repository,
    **more: object,
) -> Repository:
    """Return a repository of the configured archives; `more` goes to the constructor of `kind`.

    Raises:
        UsageError: a device does not exist.
    """
    configure(settings.threads)
    limits = Limits(
        threads=settings.threads,
        max_batch=settings.max_batch,
        max_queue=settings.max_queue,
        placement=read_placement(settings.device, settings.place),
        delay_seconds=settings.max_delay_us / 1e6,
        inline_threshold_seconds=settings.quick_us / 1e6,
        call_seconds=settings.call_seconds,
        max_batch_bytes=settings.max_batch_bytes,
    )
    repository: Repository
    if settings.native != "off":
        # Only here: the compiler imports what takes time and memory.
        from torchship.serve.repository.native_code import NativeCode

        more["load_program"] = NativeCode(settings.native, lambda: repository.keys).program
    repository = kind(
        settings.local_paths,
        trusted_keys_of(shared.credentials),
        limits,
        mode=settings.mode,
        load=settings.load,
        loads=settings.loads,
        observer=metrics.observer,
        **more,  # type: ignore[arg-type]
    )
    return repository


def make_server(
    settings: Settings,
    repository: Repository,
    metrics: Metrics,
    shared: Shared,
    kind: type[Server] = Server,
) -> Server:
    """Return a server of class `kind` that is not started yet.

    Raises:
        UsageError: a package that the settings need is missing.
    """
    keys = shared.credentials.api_keys
    app = create_app(
        *(repository, settings, metrics),
        keys=None if keys is None else api_keys_of(keys),
        rates=shared.rates,
        verify_turn=shared.verify_turn,
    )
    config = uvicorn.Config(
        app,
        http=fast_path_protocol(
            settings,
            repository=repository,
            accounting=app.front.accounting,
            codec=app.codec,
            memory=app.body_memory,
            origins=app.front.origins,
            trusted=app.proxies,
            traced=app.tracer is not None,
        ),
        ws=websocket_protocol(
            settings,
            accounting=app.front.accounting,
            memory=app.body_memory,
            trusted=app.proxies,
        ),
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
    )
    certificate = shared.credentials.certificate
    server = kind(config, app, settings, repository, metrics, shared.heartbeat, certificate)
    if certificate is not None:
        config.load()
        config.ssl = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        use(certificate, config.ssl)
    return server


def serve(server: Server, sockets: list[socket.socket]) -> None:
    """Run a server on its sockets until a signal arrives."""
    server.run(sockets)
    if not end_all(END_SECONDS):
        leave(0)
