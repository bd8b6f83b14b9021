"""The page of a server that wants an API key, and has two workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from chromium import browser
from served import Launch
from visits import Visitor, golden, table

KEY, OTHER = "a-key-of-the-visitor", "another-key-with-length"
DIALOG = "An API key, please"


@pytest.fixture(scope="module")
def visitor(
    archives: dict[str, Path], launch: Launch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Visitor]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"visitor:{KEY}\nadmin:{OTHER}\n")
    options = ("--workers", 2, "--api-keys", keys)
    with browser() as started, launch(archives["tiny"], *options) as process:
        assert process.line().startswith("ready: ")
        yield Visitor(started, process.url)


def enter(page: Page, key: str) -> None:
    dialog = page.get_by_role("dialog", name=DIALOG)
    expect(dialog).to_be_visible()
    dialog.get_by_label("API key").fill(key)
    dialog.get_by_role("button", name="Use this key").click()


def test_a_key_is_asked_for_and_kept_in_memory_only(
    visitor: Visitor, archives: dict[str, Path]
) -> None:
    [step] = golden(archives["tiny"]).steps
    context = visitor.browser.new_context()
    page = context.new_page()
    page.goto(visitor.home)
    enter(page, "a-wrong-key-that-is-long")
    dialog = page.get_by_role("dialog", name=DIALOG)
    expect(dialog).to_contain_text("the API key is unknown")
    enter(page, KEY)
    expect(page.locator('[data-model="tiny"]')).to_contain_text("✓ ready")
    page.get_by_role("tab", name="Try it").click()
    for _ in range(4):  # both workers have their turn
        with page.expect_response("**/infer"):
            page.get_by_role("button", name="Run", exact=True).click()
        expect(page.locator(".verdict")).to_contain_text("✓ 1 output agrees")
    shown = table(page.locator('[data-output="logits"]'))
    expected = step.outputs["logits"].tolist()
    assert shown == [pytest.approx(row) for row in expected]
    page.get_by_label("Language").select_option("curl")
    snippet = page.get_by_label("The request as a program").inner_text()
    assert '-H "X-API-Key: $KEY"' in snippet
    kept = page.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
    )
    assert KEY not in kept + page.content() + page.url
    page.reload()
    expect(dialog).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("alert")).to_contain_text("no API key")
    page.get_by_role("button", name="Try again").click()
    enter(page, KEY)
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_visible()
    context.close()


STREAM = """
const { ServerEngine } = await import("./ui/engine/server.mjs");
const engine = new ServerEngine(async () => KEY);
const archive = await engine.archive("tiny", "1");
const [{ steps }] = await archive.cases();
const { SocketSequence } = await import("./ui/engine/sequences.mjs");
const address = new URL("v2/models/tiny/stream", document.baseURI);
address.protocol = "ws:";
const session = await SocketSequence.open(address, archive.methods.forward, KEY);
return session.step(steps[0].inputs).catch((error) => error.message);
"""
REFUSED = """
const protocols = ["torchship", "torchship.key." + btoa("wrong!")];
const socket = new WebSocket("v2/models/tiny/stream", protocols);
return new Promise((resolve) => {
  socket.onopen = () => resolve("open");
  socket.onerror = () => resolve("refused");
});
"""


def test_a_stream_brings_the_key_along(visitor: Visitor) -> None:
    context = visitor.browser.new_context()
    page = context.new_page()
    page.goto(visitor.home)
    found = page.evaluate(f"(async () => {{ {STREAM.replace('KEY', repr(KEY))} }})()")
    # The handshake was let through; several workers share no state for it.
    assert (
        found == "model 'tiny' method 'forward' has no state: expected a request without a sequence"
    )
    assert page.evaluate(f"(async () => {{ {REFUSED} }})()") == "refused"
    context.close()
