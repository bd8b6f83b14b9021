"""The route that has `verify` run, and sends what it finds line by line."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from torchship.serve.engine.engine import Engine
from torchship.serve.http.auth import KEY_NAME
from torchship.serve.http.openapi import errors
from torchship.serve.repository.repository import Repository
from torchship.serve.service.api_keys import key_of
from torchship.serve.service.verification import Server, Verification

LINES = "application/x-ndjson"

RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "a line of JSON for each runtime as it begins and as it ends, and the "
        "verdict: docs/page.md",
        "content": {LINES: {"schema": {"type": "string"}}},
    },
    **errors(403, 404, 429, 503),
}


def add_verify_routes(
    app: FastAPI, repository: Repository, verification: Verification, has_tls: bool
) -> None:
    """Add the route to an application that turns errors into responses."""

    async def verify(request: Request) -> Response:
        verification.check(request.scope.get(KEY_NAME))
        path = request.path_params
        engine = repository.find(path["model"], path.get("version"))
        runtimes = request.query_params.getlist("runtime")
        return _Lines(verification, engine, runtimes, _server_of(request.scope, has_tls))

    runtime = {
        "name": "runtime",
        "in": "query",
        "description": "Run only this one; may be repeated.",
        "schema": {"type": "array", "items": {"type": "string"}},
    }
    for start in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        app.post(
            f"{start}/verify",
            response_class=Response,
            responses=RESPONSES,
            openapi_extra={"parameters": [runtime]},
        )(verify)


class _Lines(Response):
    """The response whose lines come as `verify` writes them; it ends when the client leaves."""

    def __init__(
        self, verification: Verification, engine: Engine, runtimes: list[str], server: Server
    ) -> None:
        super().__init__()
        self._run = partial(verification.run, engine, runtimes, server)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the lines."""
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        async with self._run() as lines:
            await StreamingResponse(lines, 200, headers, LINES)(scope, receive, send)


def _server_of(scope: Scope, has_tls: bool) -> Server:
    """Return this server by the address at which the request came in, which this machine has."""
    host, port = scope["server"]
    host = f"[{host}]" if ":" in host else host
    return Server(f"{'https' if has_tls else 'http'}://{host}:{port}", key_of(scope["headers"]))
