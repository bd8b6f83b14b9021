"""The HTTP application: routes of the Open Inference Protocol V2 over a repository."""

from __future__ import annotations

import logging
import uuid
from importlib.metadata import PackageNotFoundError, version

import orjson
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from torchship.serve import protocol
from torchship.serve.errors import BodyTooLargeError, status_of
from torchship.serve.repository import Repository
from torchship.serve.signature import describe

log = logging.getLogger(__name__)

EXTENSIONS = ["binary_tensor_data"]


def create_app(repository: Repository, max_body_bytes: int = 64 << 20) -> FastAPI:
    """Return the application that serves the live models of a repository."""
    app = FastAPI(
        title="TorchShip", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )
    app.add_middleware(ErrorBoundary)
    app.add_exception_handler(HTTPException, _http_exception)

    async def infer(request: Request) -> Response:
        engine = repository.find(request.path_params["model"], request.path_params.get("version"))
        body = await read_body(request, max_body_bytes)
        asked = protocol.decode_request(body, request.headers.get(protocol.HEADER_LENGTH))
        signature = engine.signature(asked.method)
        outputs = await engine.call(asked.method, signature.to_flat(asked.inputs))
        manifest = engine.manifest
        answer = protocol.InferResponse(manifest.name, manifest.version, {**outputs}, asked.id)
        content, header_length = protocol.encode_response(asked, answer)
        if header_length is None:
            return Response(content, media_type="application/json")
        headers = {protocol.HEADER_LENGTH: str(header_length)}
        return Response(content, headers=headers, media_type="application/octet-stream")

    # Plain routes: nothing of FastAPI's validation stands between the body and the protocol.
    for path in ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"):
        app.add_route(path, infer, methods=["POST"])

    @app.get("/v2")
    async def server_metadata() -> Response:
        return _json({"name": "torchship", "version": _own_version(), "extensions": EXTENSIONS})

    @app.get("/v2/health/live")
    async def live() -> Response:
        return _json({"live": True})

    @app.get("/v2/health/ready")
    async def ready() -> Response:
        if not repository.ready:
            return _error(503, "the server is not ready")
        return _json({"ready": True})

    @app.get("/v2/models/{model}")
    @app.get("/v2/models/{model}/versions/{version}")
    async def model_metadata(model: str, version: str | None = None) -> Response:
        manifest = repository.find(model, version).manifest
        return _json(describe(manifest, repository.versions(model)))

    @app.get("/v2/models/{model}/ready")
    @app.get("/v2/models/{model}/versions/{version}/ready")
    async def model_ready(model: str, version: str | None = None) -> Response:
        manifest = repository.find(model, version).manifest
        return _json({"name": manifest.name, "version": manifest.version, "ready": True})

    return app


async def read_body(request: Request, limit: int) -> bytes:
    """Return the request's body, of at most `limit` bytes.

    Raises:
        BodyTooLargeError: as soon as more was announced or has come.
    """
    announced = request.headers.get("content-length", "")
    size = int(announced) if announced.isdecimal() else 0
    chunks = []
    if size <= limit:
        size = 0
        async for chunk in request.stream():
            chunks.append(chunk)
            size += len(chunk)
            if size > limit:
                break
    if size > limit:
        raise BodyTooLargeError(f"the body is too large: expected at most {limit} bytes")
    return b"".join(chunks)


class ErrorBoundary:
    """The one place where exceptions become responses: what a client sees, and what the log."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application; answer for what it raises, if it has not answered yet."""
        answered = False

        async def watched(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except ClientDisconnect:
            log.info("the client left before its request was complete")
        except Exception as error:
            if answered:
                raise
            await answer(error)(scope, receive, send)


def answer(error: Exception) -> Response:
    """Return the response to an error; one that was not foreseen is logged under an id."""
    status = status_of(error)
    if status != 500:
        # A body that was not read to its end cannot be followed by another request.
        headers = {"Connection": "close"} if status == 413 else None
        return _error(status, str(error), headers)
    number = uuid.uuid4().hex
    log.error("internal error %s", number, exc_info=error)
    return _error(500, f"internal error {number}")


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail.lower()}"
    return _error(error.status_code, message, dict(error.headers or {}))


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return _json({"error": message}, status, headers)


def _json(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


def _own_version() -> str:
    try:
        return version("torchship")
    except PackageNotFoundError:  # run from a checkout
        return "0"
