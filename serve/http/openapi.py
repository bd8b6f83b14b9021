"""The OpenAPI document: FastAPI's own routes, inference, and the live models with an example each.

Routes that are added to the application are described by FastAPI's own means: give them
`response_model=`, or `responses=answers(Model, 404, 503)` where they return a `Response`.
"""

from __future__ import annotations

import copy
import re
import weakref
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from torchship.script.format.nodes import Leaf, TensorNode
from torchship.serve.engine.engine import Engine
from torchship.serve.errors import STATUS
from torchship.serve.http.examples import Example, example_of
from torchship.serve.http.schemas import Error, InferenceRequest, InferenceResponse
from torchship.serve.protocol.messages import HEADER_LENGTH
from torchship.serve.protocol.wire_signature import describe_leaf, optional_inputs, wire_inputs
from torchship.serve.repository.repository import Repository

INFER_PATHS = ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer")
OCTETS = "application/octet-stream"
SECURITY = "key"
BEARER = {"type": "http", "scheme": "bearer", "description": "An API key of this server."}

# FastAPI says 422 of every route with parameters; the server answers such requests with 400.
_FASTAPIS_OWN = ("HTTPValidationError", "ValidationError")

Document = dict[str, Any]


def answers(model: type[BaseModel] | Any, *statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return a route's `responses`: what it gives with 200, and the errors it may answer with."""
    return {
        200: {"model": model, "description": "as asked for"},
        **_errors({"model": Error}, statuses),
    }


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route's errors, where what it gives with 200 is no model."""
    return {**_errors({"model": Error}, statuses)}


def takes(model: type[BaseModel]) -> dict[str, Any]:
    """Return the `openapi_extra` of a route that reads its own body, which may be left out."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    return {"requestBody": {"required": False, **_in_json(schema)}}


def _errors(body: dict[str, Any], statuses: tuple[int, ...]) -> dict[int | str, dict[str, Any]]:
    return {status: {**body, "description": _meaning(status)} for status in statuses}


STATUSES = frozenset(known.http for known in STATUS.values())


def _meaning(status: int) -> str:
    """Return what a status says, from the kinds of error that become it."""
    kinds = [kind for kind, known in STATUS.items() if known.http == status]
    said = [(kind.__doc__ or "").partition("\n")[0].rstrip(".") for kind in kinds]
    return "; ".join(said) or {405: "Another method", 500: "A fault of the server"}.get(status, "")


class OpenApi:
    """The document of an application; it is made anew when other models are live."""

    def __init__(
        self,
        app: FastAPI,
        repository: Repository,
        root_path: str = "",
        without_key: str | None = None,
    ) -> None:
        """Describe an application that a proxy serves below `root_path`.

        With `without_key`, requests need an API key, unless their path begins so.
        """
        self._app = app
        self._without_key = without_key
        self._root_path = root_path
        self._repository = repository
        self._live: list[weakref.ref[Engine]] = []
        self._content = b""

    def document(self) -> bytes:
        """Return the document as it is now, as JSON."""
        engines = self._engines()
        live = [weakref.ref(engine) for engine in engines]
        if not self._content or live != self._live:
            self._live, self._content = live, orjson.dumps(self._describe(engines))
        return self._content

    def _engines(self) -> list[Engine]:
        index = self._repository.index()
        live = {entry.name: None for entry in index if entry.state == "READY"}
        return [
            self._repository.find(name, version)
            for name in live
            for version in self._repository.versions(name)
        ]

    def _describe(self, engines: list[Engine]) -> Document:
        app = self._app
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        document = copy.deepcopy(document)
        if self._root_path:
            document["servers"] = [{"url": self._root_path}]
        components = document.setdefault("components", {}).setdefault("schemas", {})
        for name in _FASTAPIS_OWN:
            components.pop(name, None)
        _, definitions = models_json_schema(
            [(InferenceRequest, "validation"), (InferenceResponse, "validation"),
             (Error, "validation")],
            ref_template="#/components/schemas/{model}",
        )  # fmt: skip
        components.update(definitions["$defs"])
        paths = document.setdefault("paths", {})
        request = {"$ref": "#/components/schemas/InferenceRequest"}
        for path in INFER_PATHS:
            paths[path] = {"post": _inference("Infer", request)}
        newest: dict[str, Engine] = {}
        for engine in engines:
            newest.setdefault(engine.manifest.name, engine)
        for name, engine in newest.items():
            paths[f"/v2/models/{name}/infer"] = {"post": _of_model(engine, components)}
        known = {"model": [*newest], "version": list({e.manifest.version: 0 for e in engines})}
        for path, item in paths.items():
            for operation in item.values():
                _mend(path, operation, known)
                if self._without_key is not None and path.startswith(self._without_key):
                    operation["security"] = []
        if self._without_key is not None:
            document["components"]["securitySchemes"] = {SECURITY: BEARER}
            document["security"] = [{SECURITY: []}]
        return document


def _mend(path: str, operation: Document, known: Mapping[str, list[str]]) -> None:
    """Complete an operation: path parameters and their values, errors that any route may give."""
    parameters = operation.setdefault("parameters", [])
    declared = {p["name"] for p in parameters if p["in"] == "path"}
    for name in re.findall(r"{(\w+)", path):
        if name not in declared:
            schema = {"type": "string", "minLength": 1}
            parameters.append({"name": name, "in": "path", "required": True, "schema": schema})
    for parameter in parameters:
        values = known.get(parameter["name"])
        if path.startswith("/v2/models/") and parameter["in"] == "path" and values:
            parameter["schema"] = {"type": "string", "enum": values}
    responses = operation.setdefault("responses", {})
    said_nothing = not {*responses} - {"200", "422"}
    error = _in_json({"$ref": "#/components/schemas/Error"})
    if "422" in responses:
        del responses["422"]
        responses.setdefault("400", {"description": _meaning(400), **error})
    if said_nothing:  # which errors a route has, it alone knows
        responses["default"] = {"description": "Another error", **error}
    for status in {401, 500} & {*STATUSES, 500}:
        responses.setdefault(str(status), {"description": _meaning(status), **error})


def _inference(summary: str, request: Document) -> Document:
    response = {"$ref": "#/components/schemas/InferenceResponse"}
    octets = {OCTETS: {"schema": {"type": "string", "format": "binary"}}}
    length = {
        "name": HEADER_LENGTH,
        "in": "header",
        "description": "Bytes of JSON before the binary data; 0: the body is one tensor's data.",
        "schema": {"type": "integer", "minimum": 0},
    }
    errors = tuple(sorted(STATUSES))
    return {
        "summary": summary,
        "description": "JSON, or JSON and then the binary data of the tensors that have a "
        "`binary_data_size`. The body may come as `Content-Encoding: gzip` or `deflate`.",
        "tags": ["inference"],
        "parameters": [length],
        "requestBody": {
            "required": False,  # a raw request of no rows has none
            "content": {"application/json": {"schema": request}, **octets},
        },
        "responses": {
            "200": {"description": "the outputs", **_in_json(response, octets)},
            **{
                str(status): said
                for status, said in _errors(
                    _in_json({"$ref": "#/components/schemas/Error"}), errors
                ).items()
            },
        },
    }


def _of_model(engine: Engine, components: Mapping[str, Any]) -> Document:
    """Return the operation of one live model: its own inputs, and an example."""
    manifest = engine.manifest
    schema = copy.deepcopy(components["InferenceRequest"])
    forward = manifest.methods.get("forward")
    if forward is not None and len(manifest.methods) == 1:
        leaves = wire_inputs(forward)
        needed = len(leaves) - len(optional_inputs(forward))
        items = {"oneOf": [_input(leaf) for leaf in leaves]}
        schema["properties"]["inputs"] |= {"items": items, "minItems": needed}
    operation = _inference(f"Infer with {manifest.name}", schema)
    operation["description"] = f"{manifest.description}\n\n{operation['description']}".strip()
    operation["operationId"] = f"infer {manifest.name}"
    example = example_of(engine)
    if example is not None:
        _show(operation, example)
    return operation


def _input(leaf: Leaf) -> Document:
    tensor = describe_leaf(leaf)
    shape: Document = {"type": "array", "items": {"const": 1}, "maxItems": 1}
    if isinstance(leaf, TensorNode):
        sizes = [
            {"const": size} if isinstance(size, int) else {"type": "integer", "minimum": 0}
            for size in leaf.shape
        ]
        shape = {"type": "array", "minItems": len(sizes), "maxItems": len(sizes)}
        if sizes:
            shape["prefixItems"] = sizes
    name = leaf.name
    named = {"pattern": "^" + re.escape(name).replace(r"\*", ".+") + "$"}
    return {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": {"type": "string", **(named if "*" in name else {"const": name})},
            "datatype": {"type": "string", "const": tensor["datatype"]},
            "shape": shape,
            "parameters": {"type": ["object", "null"]},
            "data": {"type": "array"},
        },
    }


def _show(operation: Document, example: Example) -> None:
    summary = f"golden case '{example.case}'"
    if example.is_json:
        request = operation["requestBody"]["content"]["application/json"]
        response = operation["responses"]["200"]["content"]["application/json"]
        for media, body in ((request, example.request), (response, example.response)):
            media["examples"] = {"golden": {"summary": summary, "value": orjson.loads(body)}}
        return
    # JSON cannot carry it, and OpenAPI has no word for bytes in an example.
    operation["x-example"] = example.as_base64() | {"summary": summary}
    operation["description"] += (
        "\n\nIts values have no JSON form: the example is in `x-example`, bodies in base64."
    )


def _in_json(schema: Document, more: Mapping[str, Any] | None = None) -> Document:
    return {"content": {"application/json": {"schema": schema}, **(more or {})}}
