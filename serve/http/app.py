"""The HTTP application: routes of the Open Inference Protocol V2 over a repository."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from torchship.script.errors import UsageError
from torchship.serve.engine.engine import Engine
from torchship.serve.http import docs_routes, schemas
from torchship.serve.http.archive_routes import add_archive_routes
from torchship.serve.http.auth import OPEN, Guard
from torchship.serve.http.body import read_small_body
from torchship.serve.http.error_responses import answer, error_response
from torchship.serve.http.inference import Inference
from torchship.serve.http.middleware import ErrorBoundary, Middleware
from torchship.serve.http.openapi import INFER_PATHS, OpenApi, answers, takes
from torchship.serve.http.origins import OriginGuard, Origins
from torchship.serve.http.page_routes import add_page_routes, is_public
from torchship.serve.http.proxies import ForwardedHeaders, Proxies
from torchship.serve.http.repository_routes import add_repository_routes
from torchship.serve.http.sequence_routes import add_sequence_routes
from torchship.serve.http.targets import infer_target
from torchship.serve.http.verify_routes import add_verify_routes
from torchship.serve.protocol import messages as protocol
from torchship.serve.protocol.large_json import LargeJsonCodec
from torchship.serve.protocol.tensors import short
from torchship.serve.protocol.wire_signature import describe_config
from torchship.serve.repository.repository import Repository
from torchship.serve.repository.web_modules import WebModules
from torchship.serve.sequences.sequences import Sequences
from torchship.serve.sequences.store_choice import open_store
from torchship.serve.service import facts
from torchship.serve.service.accounting import RequestAccounting
from torchship.serve.service.api_keys import ApiKey, KeyRing, read_api_keys
from torchship.serve.service.rate_limit import RateTable
from torchship.serve.service.turns import Turn
from torchship.serve.service.verification import Verification
from torchship.serve.settings import Settings, read_networks
from torchship.serve.system.body_memory import BodyMemory
from torchship.serve.system.package_version import package_version
from torchship.serve.telemetry.logs import access_line
from torchship.serve.telemetry.metrics import Metrics
from torchship.serve.telemetry.samples import expose

if TYPE_CHECKING:
    from torchship.serve.telemetry.tracing import Tracer

Handler = Callable[[Request], Awaitable[Response]]

FIGURES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "figures for Prometheus, in the form that `Accept` asks for",
        "content": {
            kind: {"schema": {"type": "string"}}
            for kind in ("text/plain", "application/openmetrics-text")
        },
    }
}


def create_app(
    repository: Repository,
    settings: Settings | None = None,
    metrics: Metrics | None = None,
    keys: Sequence[ApiKey] | None = None,
    rates: RateTable | None = None,
    innermost: Callable[[ASGIApp], ASGIApp] | None = None,
    verify_turn: Turn | None = None,
) -> Application:
    """Return the application that serves the live models of a repository.

    `metrics` are those that the repository's engines report to; without, batches are not counted.
    `keys` are the API keys, where the settings name a file of them; without, it is read here.
    `rates` are those of several workers, which have them together. `innermost` wraps what is asked
    once it is known who may ask. `verify_turn` is that of all workers to run `verify` for a client;
    without, nobody may have it run.
    """
    settings = settings or Settings()
    metrics = metrics or Metrics()
    max_body_bytes = settings.max_body_bytes
    codec = LargeJsonCodec()
    sequences = Sequences(repository, open_store(settings), codec)
    metrics.live_sequences = sequences.live
    infer = Inference(repository, sequences, settings, codec)
    tracer = open_tracer(settings)
    accounting = RequestAccounting(metrics, access_line(settings.access_log), tracer)
    app = Application(infer, codec, accounting, settings, tracer)
    app.state.sequences = sequences
    if innermost is not None:
        app.put_in_front(innermost)
    add_sequence_routes(app, sequences, settings, codec)
    app.add_middleware(ErrorBoundary)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _invalid)
    for path in INFER_PATHS:
        app.add_route(path, infer, methods=["POST"])  # type: ignore[arg-type]

    @app.get("/v2", responses=answers(schemas.ServerMetadata))
    async def server_metadata() -> Response:
        return _json(facts.server_metadata())

    @app.get("/metrics", response_class=Response, responses=FIGURES)
    async def prometheus(request: Request) -> Response:
        families = await metrics.all(repository.status())
        accept = request.headers.get("accept", "")
        content, content_type = await asyncio.to_thread(expose, families, accept)
        return Response(content, headers={"Content-Type": content_type})

    @app.get("/v2/health/live", responses=answers(schemas.Live))
    async def live() -> Response:
        return _json({"live": True})

    @app.get("/v2/health/ready", responses=answers(schemas.Ready, 503))
    async def ready() -> Response:
        if not repository.ready:
            return error_response(503, "the server is not ready")
        return _json({"ready": True})

    def named(request: Request) -> Engine:
        path = request.path_params
        return repository.find(path["model"], path.get("version"))

    @app.get("/v2/models/stats", responses=answers(schemas.Statistics))
    async def statistics_of_all() -> Response:
        return _json(await facts.statistics_of(repository, metrics, None))

    def model_routes(path: str, model: type[BaseModel]) -> Callable[[Handler], Handler]:
        """Return a decorator that adds a route of a model, with and without its version."""

        def add(handler: Handler) -> Handler:
            for start in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
                app.get(start + path, responses=answers(model, 404, 503))(handler)
            return handler

        return add

    @model_routes("", schemas.ModelMetadata)
    async def model_metadata(request: Request) -> Response:
        return _json(facts.model_metadata(repository, named(request)))

    @model_routes("/ready", schemas.ModelReady)
    async def model_ready(request: Request) -> Response:
        manifest = named(request).manifest
        return _json({"name": manifest.name, "version": manifest.version, "ready": True})

    @model_routes("/config", schemas.ModelConfig)
    async def model_config(request: Request) -> Response:
        return _json(describe_config(named(request).manifest))

    @model_routes("/stats", schemas.Statistics)
    async def model_statistics(request: Request) -> Response:
        path = request.path_params
        found = facts.statistics_of(repository, metrics, path["model"], path.get("version"))
        return _json(await found)

    @app.post(
        "/v2/repository/index",
        responses=answers(list[schemas.IndexEntry], 400, 413),
        openapi_extra=takes(schemas.IndexRequest),
    )
    async def index(request: Request) -> Response:
        body = await read_small_body(request.scope, request.receive, max_body_bytes)
        only_ready = protocol.decode_index_request(body)
        return _json(facts.index_entries(repository, only_ready))

    add_repository_routes(app, repository, max_body_bytes)

    def is_readable(path: str) -> bool:
        page = settings.ui and is_public(path, settings.root_path)
        return page or docs_routes.is_public(path)

    without_key = None if settings.api_keys is None else OPEN
    openapi = OpenApi(app, repository, settings.root_path, without_key)

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi_document() -> Response:
        return Response(openapi.document(), media_type="application/json")

    if settings.api_keys is not None:
        known = read_api_keys(settings.api_keys) if keys is None else keys
        app.keys = KeyRing(known, table=rates)
        app.front.app = Guard(app.front.app, app.keys, answer, is_readable)
    docs_routes.add_docs_routes(app, openapi, app.keys)
    if settings.ui:
        verification = Verification(settings, app.keys, verify_turn)
        add_page_routes(app, settings.root_path, app.keys is not None, verification)
        add_archive_routes(app, repository, WebModules(settings.operators))
        add_verify_routes(app, repository, verification, settings.tls_cert is not None)
    app.put_in_front(lambda inner: OriginGuard(inner, app.front.origins, answer))
    if app.proxies:
        app.put_in_front(lambda inner: ForwardedHeaders(inner, app.proxies))
    return app


def open_tracer(settings: Settings) -> Tracer | None:
    """Return what sends traces, if the settings name a collector.

    Raises:
        UsageError: they do, and the packages for it are not installed.
    """
    if settings.otel_endpoint is None:
        return None
    try:
        from torchship.serve.telemetry.tracing import Tracer
    except ImportError:
        raise UsageError(
            f"setting 'otel_endpoint': '{settings.otel_endpoint}' needs OpenTelemetry: "
            "pip install 'torchship[otel]'"
        ) from None
    return Tracer(settings.otel_endpoint)


class Application(FastAPI):
    """FastAPI, with inference in front of its router."""

    def __init__(
        self,
        infer: Inference,
        codec: LargeJsonCodec,
        accounting: RequestAccounting,
        settings: Settings,
        tracer: Tracer | None,
    ) -> None:
        super().__init__(
            title="TorchShip",
            version=package_version(),
            docs_url=None,
            redoc_url=None,
            openapi_url=None,
            redirect_slashes=False,
        )
        self.infer = infer
        self.codec = codec
        self.tracer = tracer
        self.keys: KeyRing | None = None
        """The API keys, if a request must bring one."""
        self.body_memory = BodyMemory(settings.max_inflight_bytes)
        """For the bodies of all requests that the process holds at a time."""
        self.proxies = Proxies(read_networks(settings.forwarded_allow_ips))
        origins = Origins(settings.cors_origin, settings.host)
        self.front = Middleware(self._route, accounting, origins, settings.root_path)

    def put_in_front(self, wrap: Callable[[ASGIApp], ASGIApp]) -> None:
        """Wrap everything, inference too, except the middleware itself."""
        self.front.app = wrap(self.front.app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        await self.front(scope, receive, send)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}  # uvicorn leaves the body out
        if (
            scope["type"] == "http"
            and scope["method"] == "POST"
            and infer_target(scope["path"]) is not None
        ):
            await self.infer(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail.lower()}"
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_methods(request))
    return error_response(error.status_code, message, headers)


def _methods(request: Request) -> list[str]:
    """Return the methods that the path of a request allows; it may have several routes."""
    matching = [r for r in request.app.routes if r.matches(request.scope)[0] != Match.NONE]
    same = [r for r in matching if getattr(r, "path", "") == getattr(matching[0], "path", "")]
    methods = {method for route in same for method in getattr(route, "methods", ())}
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return error_response(400, f"{place}: {first['msg'].lower()}, got {short(first.get('input'))}")


def _json(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, media_type="application/json")
