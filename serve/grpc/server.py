"""The gRPC server of one process: its port, its limits, its certificate, health and reflection.

Import this only where gRPC is served, and in the process that serves it: the library has threads
of its own, which no process that forks may have.
"""

from __future__ import annotations

import os
from collections.abc import Callable

# The library reads these when it is loaded. It forks nothing, and logs on standard error in a form
# that is not ours.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
from google.protobuf.message import Message

from torchship.script.errors import UsageError
from torchship.serve.grpc import inference_pb2 as pb
from torchship.serve.grpc.call import SERVICE
from torchship.serve.grpc.health import HealthServicer, add_health
from torchship.serve.grpc.reflection import add_reflection
from torchship.serve.grpc.servicer import InferenceServicer

STREAMS = 1024
"""Calls that one connection may have at a time; a client's others wait in its library."""
STREAMED = frozenset({"ModelStreamInfer"})
KEEPALIVE_MS = 60_000  # after which a silent client with calls is asked whether it is there
KEEPALIVE_TIMEOUT_MS = 20_000
END_SECONDS = 1.0  # for calls of health and reflection


def add_to_server(servicer: InferenceServicer, server: grpc.aio.Server) -> None:
    """Add the service to a server as the code that protoc generates does."""
    _add(servicer, server, lambda kind: kind.FromString)


def _add(
    servicer: InferenceServicer,
    server: grpc.aio.Server,
    reader: Callable[[type[Message]], Callable[[bytes], Message] | None],
) -> None:
    handlers = {}
    for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        name = method.name
        request: type[Message] = getattr(pb, method.input_type.name)
        response: type[Message] = getattr(pb, method.output_type.name)
        make = (
            grpc.stream_stream_rpc_method_handler
            if name in STREAMED
            else grpc.unary_unary_rpc_method_handler
        )
        handlers[name] = make(
            getattr(servicer, name),
            request_deserializer=reader(request),
            response_serializer=response.SerializeToString,
        )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


class GrpcServer:
    """A server of our service, `grpc.health.v1` and reflection on one port."""

    def __init__(
        self,
        servicer: InferenceServicer,
        ready: Callable[[], bool],
        max_message_bytes: int,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        """Make the server; it does not listen yet.

        Args:
            servicer: what answers.
            ready: whether models are to be asked, for health.
            max_message_bytes: of a request; answers have no limit.
            credentials: for TLS.
        """
        self.servicer = servicer
        self._credentials = credentials
        self._health = HealthServicer(ready)
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_concurrent_streams", STREAMS),
                ("grpc.so_reuseport", 1),
                ("grpc.keepalive_time_ms", KEEPALIVE_MS),
                ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
            ]
        )
        _add(servicer, self._server, lambda kind: None)
        add_health(self._health, self._server)
        add_reflection(self._server)

    async def start(self, host: str, port: int) -> None:
        """Listen on an address, which other processes of this server may share.

        Raises:
            UsageError: the address is in use, or not one of this machine.
        """
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if self._credentials is None:
                self._server.add_insecure_port(place)
            else:
                self._server.add_secure_port(place, self._credentials)
        except RuntimeError:
            raise UsageError(f"cannot listen for gRPC on {place}") from None
        await self._server.start()

    async def stop(self, seconds: float, force: Callable[[], bool] = lambda: False) -> None:
        """Refuse new calls, and end when those that run have ended, or after `seconds`."""
        self._health.close()
        self.servicer.close()
        await self.servicer.finish(seconds, force)
        await self._server.stop(END_SECONDS)


def tls_credentials(current: Callable[[], tuple[str, str | None]]) -> grpc.ServerCredentials:
    """Return credentials that follow a certificate: `current` returns its PEM and its key's.

    The key may be in the certificate's text. It is asked at each handshake.
    """
    used: list[tuple[str, str | None]] = [current()]

    def configuration(pair: tuple[str, str | None]) -> grpc.ServerCertificateConfiguration:
        chain, key = pair
        return grpc.ssl_server_certificate_configuration(
            [((key or chain).encode("ascii", "ignore"), chain.encode("ascii", "ignore"))]
        )

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        pair = current()
        if pair == used[0]:
            return None
        used[0] = pair
        return configuration(pair)

    return grpc.dynamic_ssl_server_credentials(
        configuration(used[0]),
        renewed,  # type: ignore[arg-type]  # None for no change, by its documentation
        False,
    )
