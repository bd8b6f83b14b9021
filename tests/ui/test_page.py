"""The page of a server: what it holds, its agreement, and that everybody can use it."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from chromium import DESKTOP, PHONE, browser
from served import Launch, MakeArchive
from torchship.script.runtime.archive import open_archive
from visits import Visitor, grave_findings

PLACES = ("#models", "#try/memory", "#try/spread", "#agreement/memory")
LOADS = 20
BROKEN = "broken.pt"


@pytest.fixture(scope="module")
def folder(make_in: MakeArchive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of archives, one of which is damaged, and one lies about its golden case."""
    made = tmp_path_factory.mktemp("shown")
    tiny = make_in(made, "tiny")
    make_in(made, "memory")
    make_in(made, "spread")  # its output is a wide table
    make_in(made, "exact", edit=lambda flat: {**flat, "f_out": flat["f_out"] + 1})
    (made / BROKEN).write_bytes(tiny.read_bytes()[:5000])
    return made


@pytest.fixture(scope="module")
def visitor(folder: Path, launch: Launch) -> Iterator[Visitor]:
    with browser() as started, launch(folder, "--ui-verify") as process:
        assert [process.line().partition(":")[0] for _ in range(2)] == ["failed", "failed"]
        shown = Visitor(started, process.url)
        with shown.at() as page:  # which shows when the others are ready
            for name in ("memory", "spread", "tiny"):
                expect(page.locator(f'[data-model="{name}"]')).to_contain_text("✓ ready")
        yield shown


def test_cards_say_what_the_archives_are(visitor: Visitor, folder: Path) -> None:
    archive = open_archive(folder / "tiny-1.pt")
    manifest = archive.require_manifest()
    with visitor.at() as page:
        expect(page.get_by_role("tab", selected=True)).to_have_text("Models")
        expect(page.locator(".lead")).to_contain_text("This server holds 3 models.")
        tiny = page.locator('[data-model="tiny"]')
        expect(tiny).to_contain_text("✓ ready")
        expect(tiny).to_contain_text(f"{manifest.parameters:,}")
        expect(tiny).to_contain_text(f"{archive.size / 1000:.1f} kB")
        expect(tiny).to_contain_text("forward(obs: uint8[batch, 510]) → logits: float32[batch, 3]")
        expect(tiny).to_contain_text("act(obs: uint8[batch, 510]) → action: int64[batch]")
        expect(tiny).to_contain_text("✓ 3 outputs of 3 golden cases agree")
        expect(tiny).to_contain_text("largest difference 0")
        memory = page.locator('[data-model="memory"]')
        expect(memory).to_contain_text("keeps h: float32[batch, 2]")
        broken = page.locator(".card", has_text=BROKEN)
        expect(broken).to_contain_text("✗ refused")
        expect(broken.locator(".failure")).to_contain_text("not a readable zip")
        exact = page.locator('[data-model="exact"]')
        expect(exact.locator(".failure")).to_contain_text("f_out")


def test_requests_are_seen_as_they_come(visitor: Visitor) -> None:
    with visitor.at() as page:
        rate = page.locator('[data-model="tiny"] .live').first.locator("strong")
        expect(rate).to_have_text("0")
        for _ in range(LOADS):
            address = f"{visitor.home}/v2/models/tiny/infer"
            headers = {"Inference-Header-Content-Length": "0"}
            with urllib.request.urlopen(urllib.request.Request(address, bytes(510), headers)):
                pass
        expect(rate).not_to_have_text("0")
        latency = page.locator('[data-model="tiny"] .live').last.locator("strong")
        expect(latency).to_contain_text("s")
        drawn = page.locator('[data-model="tiny"] canvas')
        expect(drawn.first).to_be_visible()


def test_models_that_come_while_it_is_open_appear(
    visitor: Visitor, make_in: MakeArchive, tmp_path: Path, launch: Launch
) -> None:
    make_in(tmp_path, "slowly")  # its golden case takes a while
    with launch(tmp_path) as process, Visitor(visitor.browser, process.url).at() as page:
        expect(page.get_by_role("tab", name="Models")).to_be_visible()
        expect(page.locator(".card")).to_contain_text("loading …")
        expect(page.get_by_role("tab", name="Try it")).to_have_count(0)
        assert process.line() == "ready: slowly/1"
        expect(page.locator(".card")).to_contain_text("✓ ready")
        page.get_by_role("tab", name="Try it").click()
        page.get_by_role("button", name="Run", exact=True).wait_for()


def test_an_archive_that_is_replaced_under_its_version_shows_what_it_is_now(
    visitor: Visitor, make_in: MakeArchive, tmp_path: Path, launch: Launch
) -> None:
    make_in(tmp_path, "memory", file="memory.pt")
    with (
        launch(tmp_path, "--mode", "poll", "--poll-seconds", "0.1") as process,
        Visitor(visitor.browser, process.url).at() as page,
    ):
        card = page.locator('[data-model="memory"]')
        expect(card).to_contain_text("largest difference 0")
        make_in(
            *(tmp_path, "memory"),
            file="memory.new",
            edit=lambda flat: {**flat, "y": flat["y"] + 1e-6},
        )
        (tmp_path / "memory.new").replace(tmp_path / "memory.pt")
        expect(card).to_contain_text(re.compile("largest difference [1-9]"))
        page.get_by_role("tab", name="Try it").click()
        page.get_by_role("button", name="Run", exact=True).click()
        expect(page.locator(".verdict")).to_contain_text("agree with the golden case")


def test_verify_is_run_and_its_matrix_drawn(visitor: Visitor) -> None:
    with visitor.at("#agreement/memory/1") as page:
        for name in ("eager", "C++", "gRPC", "native", "wasm"):
            page.get_by_label(name, exact=True).uncheck()
        page.get_by_role("button", name="Run verify on the server").click()
        verdict = page.get_by_text("✓ Every runtime that ran agrees.")
        expect(verdict.first).to_be_visible(timeout=60_000)
        heads = page.locator(".matrix thead .name")
        expect(heads).to_have_text(["script", "HTTP"])
        for output in ("y", "h"):
            cells = page.locator(f'[data-output="forward {output}"] .cell')
            expect(cells).to_have_text(["✓ 0", "✓ 0"])
        badges = page.locator(".matrix thead .badge")
        expect(badges).to_have_text(["✓ agrees", "✓ agrees"])


def test_addresses_and_the_theme_are_kept(visitor: Visitor) -> None:
    with visitor.at("#agreement/memory/1") as page:
        expect(page.get_by_role("tab", selected=True)).to_have_text("Agreement")
        expect(page.get_by_label("Model", exact=True)).to_have_value("memory/1")
        page.get_by_role("tab", name="Try it").click()
        expect(page.get_by_role("tab", selected=True)).to_have_text("Try it")
        page.go_back()
        expect(page.get_by_role("tab", selected=True)).to_have_text("Agreement")
        theme = page.locator("#theme")
        theme.click()
        theme.click()
        expect(theme).to_contain_text("Dark")
        page.reload()
        expect(theme).to_contain_text("Dark")
        assert ground(page) == ground_of(visitor, dark=True)
        theme.click()
        assert ground(page) == ground_of(visitor, dark=False)


def ground(page: Page) -> str:
    found: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return found


def ground_of(visitor: Visitor, *, dark: bool) -> str:
    with visitor.at(dark=dark) as page:
        return ground(page)


def test_all_of_it_can_be_done_with_the_keyboard(visitor: Visitor) -> None:
    with visitor.at() as page:
        press = page.keyboard.press
        press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        press("Enter")
        expect(page.locator("#panel")).to_be_focused()
        expect(page.get_by_role("tablist")).not_to_have_attribute("aria-busy", "true")
        page.get_by_role("tab", selected=True).focus()
        press("ArrowRight")
        expect(page.get_by_role("tab", name="Try it")).to_be_focused()
        expect(page.get_by_role("heading", name="Try it")).to_be_visible()
        press("End")
        expect(page.get_by_role("tab", name="Agreement")).to_be_focused()
        press("ArrowRight")
        expect(page.get_by_role("tab", name="Models")).to_be_focused()
        press("ArrowLeft")
        press("ArrowLeft")
        expect(page.get_by_role("heading", name="Try it")).to_be_visible()
        for _ in range(20):
            press("Tab")
            if page.evaluate("document.activeElement.textContent") == "Run":
                break
        press("Space")
        expect(page.locator(".verdict")).to_contain_text("agree with the golden case")


@pytest.mark.parametrize("shape", ["desktop, light", "phone, dark"])
def test_nothing_hinders_a_visitor(visitor: Visitor, shape: str) -> None:
    phone, dark = "phone" in shape, "dark" in shape
    with visitor.at("", PHONE if phone else DESKTOP, dark=dark, bypass_csp=True) as page:
        for place in PLACES:
            page.goto(f"{visitor.home}/{place}")
            tab = page.get_by_role("tab", selected=True)
            expect(tab).to_have_attribute("href", place.partition("/")[0])
            if "try" in place:
                page.get_by_role("button", name="Run", exact=True).click()
                page.locator(".verdict").wait_for()
                for given in page.get_by_label("give").all():
                    given.check()
                page.evaluate(
                    "for (const part of document.querySelectorAll('details')) part.open = 1"
                )
            assert grave_findings(page) == []
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= page.evaluate("innerWidth")
