"""The OpenAPI document says what the server does, and its examples are answered as they say."""

import asyncio
import base64
import gc
import weakref
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import orjson
import pytest
import torch
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import Route

from torchship.serve.errors import STATUS
from torchship.serve.http.app import create_app
from torchship.serve.http.openapi import OpenApi
from torchship.serve.protocol.messages import decode_response
from torchship.serve.protocol.tensors import Value
from torchship.serve.repository.repository import Repository

MODELS = ["tiny", "nested", "exact", "half", "logarithm", "memory", "slow", "every"]

IN_JSON = [name for name in MODELS if name not in ("half", "every")]


@pytest.fixture(scope="module")
def document(server: Any) -> Any:
    return httpx.get(f"{server.url}/openapi.json", trust_env=False).json()


def of(document: Any, model: str) -> Any:
    return document["paths"][f"/v2/models/{model}/infer"]["post"]


def media(body: Any) -> Any:
    return body["content"]["application/json"]


def assert_alike(answered: dict[str, Value], expected: dict[str, Value]) -> None:
    assert list(answered) == list(expected)
    for name, value in expected.items():
        came = answered[name]
        assert isinstance(came, torch.Tensor)
        assert isinstance(value, torch.Tensor)
        torch.testing.assert_close(came, value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", IN_JSON)
def test_an_example_request_gets_the_documented_answer(
    server: Any, document: Any, model: str
) -> None:
    operation = of(document, model)
    request = media(operation["requestBody"])["examples"]["golden"]["value"]
    response = media(operation["responses"]["200"])["examples"]["golden"]["value"]
    answer = httpx.post(f"{server.url}/v2/models/{model}/infer", json=request, trust_env=False)
    assert answer.status_code == 200, answer.text
    answered, expected = answer.json(), response
    assert {**answered, "outputs": 0} == {**expected, "outputs": 0}
    assert_alike(
        decode_response(answer.content).outputs, decode_response(orjson.dumps(expected)).outputs
    )


def test_what_json_cannot_carry_has_its_example_in_base64(server: Any, document: Any) -> None:
    example = of(document, "half")["x-example"]
    answer = httpx.post(
        f"{server.url}/v2/models/half/infer",
        content=base64.b64decode(example["request"]),
        headers={"Inference-Header-Content-Length": str(example["request_header_length"])},
        trust_env=False,
    )
    assert answer.status_code == 200, answer.text
    length = str(example["response_header_length"])
    assert answer.headers["inference-header-content-length"] == length
    assert answer.content == base64.b64decode(example["response"])


@pytest.mark.parametrize("model", IN_JSON)
def test_examples_fit_the_schemas_beside_them(document: Any, model: str) -> None:
    operation = of(document, model)
    for body in (operation["requestBody"], operation["responses"]["200"]):
        schema = media(body)["schema"] | {"components": document["components"]}
        validator = jsonschema_rs.Draft202012Validator(schema)
        value = media(body)["examples"]["golden"]["value"]
        validator.validate(value)
        first = "outputs" if "model_name" in value else "inputs"
        with pytest.raises(jsonschema_rs.ValidationError):
            validator.validate({**value, first: [{**value[first][0], "datatype": "FP99"}]})


def test_the_schema_of_a_model_is_its_signature(document: Any) -> None:
    inputs = media(of(document, "memory")["requestBody"])["schema"]["properties"]["inputs"]
    x, h = inputs["items"]["oneOf"]
    assert (x["properties"]["name"]["const"], h["properties"]["name"]["const"]) == ("x", "h")
    assert x["properties"]["shape"]["prefixItems"] == [
        {"type": "integer", "minimum": 0},
        {"const": 2},
    ]
    assert inputs["minItems"] == 1  # h is state


def test_every_route_is_described_and_no_other(document: Any) -> None:
    app = create_app(Repository([]))
    described = {
        (verb.upper(), path) for path, item in document["paths"].items() for verb in item
    } - {("POST", f"/v2/models/{model}/infer") for model in MODELS}
    assert described == {
        (verb, route.path)
        for route in app.routes
        if isinstance(route, APIRoute | Route) and getattr(route, "include_in_schema", True)
        for verb in set(route.methods or ()) - {"HEAD"}
        if not route.path.startswith(("/openapi", "/docs"))
    }


def test_the_figures_are_text_in_either_form(server: Any, document: Any) -> None:
    content = document["paths"]["/metrics"]["get"]["responses"]["200"]["content"]
    assert list(content) == ["text/plain", "application/openmetrics-text"]
    for kind in content:
        url = f"{server.url}/metrics"
        answer = httpx.get(url, headers={"Accept": f"{kind};version=1.0.0"}, trust_env=False)
        assert answer.headers["content-type"].partition(";")[0] == kind


def test_inference_has_every_error(document: Any) -> None:
    for path in ("/v2/models/{model}/infer", "/v2/models/tiny/infer"):
        responses = document["paths"][path]["post"]["responses"]
        assert set(responses) == {"200", "500", *(str(known.http) for known in STATUS.values())}
        assert "waited in the queue" in responses["408"]["description"]
    assert "422" not in str(document)


def test_parameters_of_paths_are_there_with_the_live_models(document: Any) -> None:
    path = "/v2/models/{model}/versions/{version}/config"
    parameters = {p["name"]: p["schema"] for p in document["paths"][path]["get"]["parameters"]}
    assert parameters["model"]["enum"] == MODELS
    assert parameters["version"]["enum"] == ["10", "9", "1"]


def test_a_query_is_no_way_to_a_version(server: Any) -> None:
    answer = httpx.get(f"{server.url}/v2/models/tiny/ready?version=9", trust_env=False)
    assert answer.json()["version"] == "10"


def test_the_page_shows_the_examples_without_a_script(server: Any) -> None:
    page = httpx.get(f"{server.url}/docs", trust_env=False).text
    plain = page[page.index('<div id="swagger-ui">') :]
    assert "<h2>POST /v2/models/tiny/infer</h2>" in plain
    assert "&quot;name&quot;:&quot;obs&quot;" in plain
    assert "<script" not in plain


def test_the_document_changes_with_what_is_live(archives: dict[str, Path]) -> None:
    async def watch() -> None:
        changes: asyncio.Queue[str] = asyncio.Queue()
        repository = Repository(
            [archives["memory"]], mode="explicit", load=["memory"], report=changes.put_nowait
        )
        openapi = OpenApi(FastAPI(), repository)
        before = openapi.document()
        assert b"/v2/models/memory/infer" not in before
        await repository.load()
        after = openapi.document()
        assert b"/v2/models/memory/infer" in after
        assert openapi.document() is after
        engine = weakref.ref(repository.find("memory"))
        await repository.unload_model("memory")
        assert await asyncio.wait_for(changes.get(), 60) == "unloaded: memory/1"
        for _ in range(3):  # turns in which the task that ended the engine ends too
            await asyncio.sleep(0)
        gc.collect()
        assert engine() is None, "the document keeps an unloaded model alive"

    asyncio.run(watch())


def test_a_route_of_fastapis_own_is_described_and_refuses_with_400() -> None:
    app = create_app(Repository([]))

    @app.get("/v2/extra/{name}")
    async def extra(name: str, count: int) -> dict[str, int]:
        return {name: count}

    async def ask() -> tuple[httpx.Response, Any]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as own:
            answer = await own.get("/v2/extra/a?count=many")
            return answer, (await own.get("/openapi.json")).json()

    answer, document = asyncio.run(ask())
    assert answer.status_code == 400
    assert answer.json() == {
        "error": "query.count: input should be a valid integer, unable to parse string "
        "as an integer, got 'many'"
    }
    operation = document["paths"]["/v2/extra/{name}"]["get"]
    assert set(operation["responses"]) == {"200", "400", "401", "500", "default"}
    assert [p["name"] for p in operation["parameters"]] == ["name", "count"]
