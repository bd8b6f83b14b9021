"""`grpc.health.v1`: whether the server, as a whole or as our service, is to be asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TypeAlias

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from torchship.serve.grpc.call import SERVICE

Request = health_pb2.HealthCheckRequest
Status = health_pb2.HealthCheckResponse
Context: TypeAlias = "grpc.aio.ServicerContext[Request, Status]"

UNKNOWN = Status(status=Status.SERVICE_UNKNOWN)
SERVED = frozenset({"", SERVICE})
WATCH_SECONDS = 0.5  # between two looks for those that watch
WATCHERS = 1024  # of a process; each costs a look


class HealthServicer(health_pb2_grpc.HealthServicer):
    """Says what the server's readiness over HTTP says; a load balancer has no key."""

    def __init__(self, ready: Callable[[], bool]) -> None:
        self._ready = ready
        self._closed = asyncio.Event()
        self._watchers = 0

    def close(self) -> None:
        """Say "not serving", and end the calls that watch."""
        self._closed.set()

    def _status(self) -> Status:
        serving = self._ready() and not self._closed.is_set()
        return Status(status=Status.SERVING if serving else Status.NOT_SERVING)

    async def Check(self, request: Request, context: Context) -> Status:
        """Answer for the server or our service.

        A service that is not served is NOT_FOUND.
        """
        if request.service not in SERVED:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return self._status()

    async def Watch(self, request: Request, context: Context) -> AsyncIterator[Status]:
        """Answer now and whenever the status changes."""
        if self._watchers >= WATCHERS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls watch already")
        self._watchers += 1
        try:
            told = None
            while True:
                status = self._status() if request.service in SERVED else UNKNOWN
                if status != told:
                    yield status
                    told = status
                if self._closed.is_set():
                    return
                try:
                    await asyncio.wait_for(self._closed.wait(), WATCH_SECONDS)
                except asyncio.TimeoutError:
                    continue
        finally:
            self._watchers -= 1


def add_health(servicer: HealthServicer, server: grpc.aio.Server) -> None:
    """Add the service to a server."""
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
