"""`/docs` in a browser: Swagger UI from the server's own files, with API keys and without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, Response, expect

from chromium import DESKTOP, PHONE, browser, page_at
from served import launched, make
from torchship.script.format.tree import Flat
from torchship.script.runtime.archive import open_archive
from torchship.serve.http.docs_routes import HEADERS

KEY, WRONG = "the-key-of-a-visitor", "a-key-of-nobody-here"
MODELS = ("nested", "tiny")


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("archives")
    return {name: make(folder, name) for name in MODELS}


@pytest.fixture(scope="module")
def home(archives: dict[str, Path]) -> Iterator[str]:
    with launched(*archives.values(), "--workers", 2) as server:
        assert server.line().startswith("ready: ")
        yield server.url


@pytest.fixture(scope="module")
def guarded(archives: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"visitor:{KEY}\n")
    with launched(*archives.values(), "--api-keys", keys, "--root-path", "/a/models") as server:
        assert server.line().startswith("ready: ")
        yield f"{server.url}/a/models"


def give_key(page: Page, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Show the API").click()


def execute(page: Page, model: str) -> Any:
    """Open a model's operation, send its example as it is; return the answer that is shown."""
    block = page.locator(f"[id$='infer_{model}'].opblock")
    block.locator(".opblock-summary-control").click()
    block.get_by_role("button", name="Try it out").click()
    block.get_by_role("button", name="Execute").click()
    answer = block.locator(".live-responses-table")
    expect(answer.locator(".response-col_status").last).to_have_text("200")
    return json.loads(answer.locator(".response-col_description pre code").first.inner_text())


def assert_golden(answer: Any, archive: Path, page: Page) -> None:
    shown = page.locator(".opblock.is-open").locator("option", has_text="golden case").first
    cases = [c for c in open_archive(archive).golden if f"'{c.name}'" in shown.inner_text()]
    assert any(agree(answer, case.steps[0].outputs) for case in cases)


def agree(answer: Any, golden: Flat) -> bool:
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert set(outputs) == set(golden)
    return all(
        list(expected.shape) == outputs[name]["shape"]
        and torch.allclose(
            torch.tensor(outputs[name]["data"], dtype=torch.float64),
            expected.flatten().double(),
            rtol=1e-5,
            atol=1e-6,
        )
        for name, expected in golden.items()
    )


@pytest.mark.parametrize("model", MODELS)
def test_an_example_is_sent_from_the_page_and_answered_as_golden(
    home: str, archives: dict[str, Path], model: str
) -> None:
    with page_at(f"{home}/docs") as page:
        assert_golden(execute(page, model), archives[model], page)
        expect(page.get_by_text("Authorize", exact=True)).to_have_count(0)


def test_with_keys_on_the_visitor_gives_one_to_the_page(
    guarded: str, archives: dict[str, Path]
) -> None:
    with page_at(f"{guarded}/docs") as page:
        expect(page.locator("main")).to_contain_text("requests that bring an API key")
        assert "/v2/models/" not in page.content()
        give_key(page, KEY)
        assert_golden(execute(page, "nested"), archives["nested"], page)
        # Swagger UI has the key too, and can be given another.
        page.locator(".auth-wrapper").get_by_role("button", name="Authorize").click()
        expect(page.locator(".modal-ux")).to_contain_text("An API key of this server.")
        page.locator(".modal-ux").get_by_role("button", name="Remove authorization").click()
        kept = page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]")
        assert kept == [0, 0, ""]


def test_an_unknown_key_is_refused_in_the_server_s_words(guarded: str) -> None:
    with browser() as started:
        page = started.new_page()
        page.goto(f"{guarded}/docs")
        give_key(page, WRONG)
        expect(page.get_by_role("alert")).to_have_text("the API key is unknown")
        assert page.locator(".opblock").count() == 0
        give_key(page, KEY)
        expect(page.locator(".opblock").first).to_be_visible()
        expect(page.locator("#said")).to_be_empty()


def test_without_javascript_the_plain_page_stays(home: str, guarded: str) -> None:
    with browser() as started:
        page = started.new_context(java_script_enabled=False).new_page()
        page.goto(f"{home}/docs")
        expect(page.get_by_role("heading", name="POST /v2/models/nested/infer")).to_be_visible()
        page.goto(f"{guarded}/docs")
        expect(page.locator("main")).to_contain_text("Authorization: Bearer KEY")


def test_without_swagger_ui_the_plain_page_says_so(home: str) -> None:
    with browser() as started:
        page = started.new_page()
        page.route("**/swagger-ui-bundle.js", lambda route: route.abort())
        page.goto(f"{home}/docs")
        expect(page.get_by_role("alert")).to_contain_text("Swagger UI did not load")
        expect(page.get_by_role("heading", name="POST /v2/models/nested/infer")).to_be_visible()


def test_the_document_is_for_those_who_bring_a_key(guarded: str) -> None:
    def get(path: str, **headers: str) -> httpx.Response:
        return httpx.get(guarded + path, headers=headers, trust_env=False, timeout=60)

    shell = get("/docs")
    assert shell.status_code == 200
    assert "/v2/models/" not in shell.text
    assert "/v2/models/nested/infer" in get("/docs", Authorization=f"Bearer {KEY}").text
    refused = get("/docs", Authorization=f"Bearer {WRONG}")
    assert (refused.status_code, refused.json()) == (401, {"error": "the API key is unknown"})
    for path in ("/openapi.json", "/docs/../openapi.json", "/docs/%2e%2e/openapi.json"):
        assert get(path).status_code in (401, 404)
    document = get("/openapi.json", **{"X-API-Key": KEY}).json()
    assert document["security"] == [{"key": []}]
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert document["paths"]["/v2/health/live"]["get"]["security"] == []


def test_without_keys_the_document_asks_for_none(home: str) -> None:
    document = httpx.get(f"{home}/openapi.json", trust_env=False, timeout=60).json()
    assert "security" not in document
    assert "securitySchemes" not in document["components"]


def test_the_policy_allows_no_inline_script_and_no_other_host(home: str) -> None:
    answer = httpx.get(f"{home}/docs", trust_env=False, timeout=60)
    policy = answer.headers["content-security-policy"]
    assert policy == HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "://" not in policy
    assert "style=" not in answer.text
    assert "<script>" not in answer.text


# What axe finds in Swagger UI, which is not ours to mend; everything around it is. Its colours
# have too little contrast, and it makes links and controls without names.
SWAGGER = ".swagger-ui"


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing_in_our_parts(home: str, guarded: str, viewport: dict[str, int]) -> None:
    def findings(page: Page) -> list[str]:
        context = {"exclude": [[SWAGGER]]}
        found = Axe().run(page, context=context).response["violations"]
        return [f"{v['id']}: {v['nodes'][0]['html']}" for v in found]

    with page_at(f"{guarded}/docs", viewport) as page:  # the form
        assert findings(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        give_key(page, KEY)
        expect(page.locator(".opblock").first).to_be_visible()
        assert findings(page) == []
    with browser() as started:  # the plain page
        page = started.new_page(viewport=viewport)  # type: ignore[arg-type]
        page.route("**/docs.mjs", lambda route: route.abort())
        page.goto(f"{home}/docs")
        assert findings(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


def test_its_files_are_compressed_and_sent_once(home: str, record_property: Any) -> None:
    sizes: dict[str, int] = {}

    def note(answer: Response) -> None:
        request = answer.request.sizes()
        sizes[answer.url] = request["responseBodySize"] + request["responseHeadersSize"]

    with browser() as started:
        page = started.new_page()
        page.on("response", note)
        page.goto(f"{home}/docs", wait_until="networkidle")
        expect(page.locator(".opblock").first).to_be_visible()
    record_property("bytes", sum(sizes.values()))
    assert sum(sizes.values()) < 600_000, sizes
