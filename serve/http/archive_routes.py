"""Routes of a live archive: what it says of itself, its golden cases, and it as WebAssembly."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from torchship.serve.engine.engine import Engine
from torchship.serve.http import schemas
from torchship.serve.http.openapi import OCTETS, answers, errors
from torchship.serve.http.static_files import TYPES
from torchship.serve.repository.reopening import golden_record
from torchship.serve.repository.repository import Repository
from torchship.serve.repository.web_modules import WebModules

Handler = Callable[[Request], Awaitable[Response]]


def _gives(kind: str, what: str, *statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return a route's `responses`: bytes of that media type, and the errors."""
    schema = {"type": "string", "format": "binary"}
    return {200: {"description": what, "content": {kind: {"schema": schema}}}, **errors(*statuses)}


GOLDEN = _gives(
    OCTETS, "safetensors: `<case>/<step>/in/<name>` and `<case>/<step>/out/<name>`", 404, 503
)
SCRIPT = _gives("text/javascript", "an ES module that loads `model.wasm`", 400, 404, 501, 503)
CODE = _gives("application/wasm", "the archive as WebAssembly", 400, 404, 501, 503)


def add_archive_routes(app: FastAPI, repository: Repository, modules: WebModules) -> None:
    """Add the routes to an application that turns errors into responses."""

    def route(path: str, **said: Any) -> Callable[[Handler], Handler]:
        """Return a decorator that adds a route of a model, with and without its version."""

        def add(handler: Handler) -> Handler:
            for start in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
                app.get(f"{start}/archive{path}", **said)(handler)
            return handler

        return add

    def named(request: Request) -> Engine:
        path = request.path_params
        return repository.find(path["model"], path.get("version"))

    @route("", responses=answers(schemas.ArchiveDocument, 404, 503))
    async def archive(request: Request) -> Response:
        return Response(_document(named(request)), media_type="application/json")

    @route("/golden", response_class=Response, responses=GOLDEN)
    async def golden(request: Request) -> Response:
        with named(request) as engine:
            record = await golden_record(engine)
        return Response(record, media_type=OCTETS)

    @route("/wasm/model.mjs", response_class=Response, responses=SCRIPT)
    async def script(request: Request) -> Response:
        return await module(request, "model.mjs")

    @route("/wasm/model.wasm", response_class=Response, responses=CODE)
    async def code(request: Request) -> Response:
        return await module(request, "model.wasm")

    async def module(request: Request, name: str) -> Response:
        with named(request) as engine:
            content = await modules.file(engine, name)
        kind = TYPES[Path(name).suffix]
        return Response(content, headers={"X-Content-Type-Options": "nosniff"}, media_type=kind)


def _document(engine: Engine) -> bytes:
    proof = engine.proof
    assert proof is not None  # what is live has been proved
    return orjson.dumps(
        {
            "manifest": orjson.Fragment(engine.manifest.to_json()),
            "sha256": engine.digest,
            "bytes": engine.size,
            "proof": {
                "when": proof.when,
                "runtimes": [
                    {
                        "runtime": "serving engine",
                        "worst": proof.worst,
                        "cases": proof.cases,
                        "outputs": proof.outputs,
                    }
                ],
            },
        }
    )
