"""Routes of a live archive: what it says of itself, and the golden cases that it carries."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from torchship.serve.engine.engine import Engine
from torchship.serve.http import schemas
from torchship.serve.http.openapi import OCTETS, answers, errors
from torchship.serve.repository.reopening import golden_record
from torchship.serve.repository.repository import Repository
from torchship.serve.system.daemon_threads import on_thread

Handler = Callable[[Request], Awaitable[Response]]

GOLDEN: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "safetensors: `<case>/<step>/in/<name>` and `<case>/<step>/out/<name>`",
        "content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}},
    },
    **errors(404, 503),
}


def add_archive_routes(app: FastAPI, repository: Repository) -> None:
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
            record = await on_thread(lambda: golden_record(engine), daemon=True)
        return Response(record, media_type=OCTETS)


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
