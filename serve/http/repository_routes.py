"""Routes that load and unload models: the protocol's model repository extension.

Source: Triton's "Model Repository Extension": `POST v2/repository/models/{name}/load` and
`…/unload`, with an optional body whose `parameters` say how.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from torchship.serve.errors import RequestError
from torchship.serve.http import schemas
from torchship.serve.http.body import read_small_body
from torchship.serve.http.openapi import answers, takes
from torchship.serve.protocol.request_header import json_object
from torchship.serve.protocol.tensors import short
from torchship.serve.repository.repository import Repository
from torchship.serve.service.facts import check_load, check_unload

Handler = Callable[[Request], Awaitable[Response]]


def add_repository_routes(app: FastAPI, repository: Repository, max_body_bytes: int) -> None:
    """Add the routes to an application that turns errors into responses."""

    async def parameters(request: Request) -> dict[str, object]:
        return parameters_of(await read_small_body(request.scope, request.receive, max_body_bytes))

    def route(what: str, *statuses: int) -> Callable[[Handler], Handler]:
        return app.post(
            f"/v2/repository/models/{{model}}/{what}",
            responses=answers(schemas.Changed, 400, 413, *statuses),
            openapi_extra=takes(schemas.ChangeRequest),
        )

    @route("load", 404, 503)
    async def load(request: Request) -> Response:
        check_load(await parameters(request))
        await repository.load_model(request.path_params["model"])
        return _done()

    @route("unload")
    async def unload(request: Request) -> Response:
        check_unload(await parameters(request))
        await repository.unload_model(request.path_params["model"])
        return _done()


def parameters_of(body: bytes | bytearray) -> dict[str, object]:
    """Return the parameters of a request to load or unload, whose body may be empty.

    Raises:
        RequestError: the body is no JSON object, or its parameters are none.
    """
    if not body:
        return {}
    parameters = json_object(body).get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise RequestError(f"expected 'parameters' to be an object, got {short(parameters)}")
    return parameters


def _done() -> Response:
    return Response(b"{}", media_type="application/json")
