"""Play, Draw and Names on a server that wants keys, and in the browser beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from chromium import browser
from served import Launch
from sites import (
    NAMES,
    SEVEN,
    draw,
    fingerprint,
    pause,
    set_up,
    stands,
    wait_for_steps,
)
from torchship.demo import names_of

KEY = "a-key-of-the-player"
SEED = 7


@pytest.fixture(scope="module")
def archives(model_archive: Callable[[str], Path]) -> dict[str, Path]:
    return {name: model_archive(name) for name in ("snake", "bobnet", NAMES)}


@pytest.fixture(scope="module")
def home(
    archives: dict[str, Path], launch: Launch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"player:{KEY}\n")
    with launch("--api-keys", keys, *archives.values()) as process:
        assert process.line().startswith("ready: ")
        yield process.url


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


@contextmanager
def visit(chromium: Browser, home: str, tab: str) -> Iterator[Page]:
    """Have a tab of the page, opened with the key; nobody may see an error."""
    context = chromium.new_context()
    try:
        page = context.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{home}/#{tab}")
        page.get_by_role("dialog").get_by_label("API key").fill(KEY)
        page.get_by_role("button", name="Use this key").click()
        yield page
        assert errors == []
    finally:
        context.close()


@pytest.mark.parametrize("moves", ["act", "sample"])
def test_server_and_browser_make_the_same_moves(chromium: Browser, home: str, moves: str) -> None:
    """`act` is a request for each step; `sample` has a state, which the server keeps."""
    with visit(chromium, home, "play") as page:
        page.get_by_label("It runs").select_option("both")
        page.get_by_label("Moves").select_option(moves)
        set_up(page, snakes=16)
        wait_for_steps(page, 100)
        found = pause(page)
        steps = int(found["steps"])
        said = page.locator(".agreement").inner_text()
        assert said == f"both made the same moves: {steps} of {steps}"
        expected = fingerprint("snake", snakes=16, steps=steps, seed=SEED, sample=moves == "sample")
        assert found["moves"] == expected
        latency = page.get_by_text("A step on the server: ").inner_text()
        assert "A step in this browser: " in latency


def test_a_snake_is_steered_on_a_server(chromium: Browser, home: str) -> None:
    with visit(chromium, home, "play") as page:
        wait_for_steps(page, 3)
        pause(page)
        page.get_by_label("Steer one yourself").check()
        heading = int(stands(page)["heading"])
        key, went = ("ArrowRight", "3") if heading < 2 else ("ArrowUp", "0")
        page.locator("canvas.field-of-snakes").press(key)
        before = int(stands(page)["steps"])
        page.get_by_role("button", name="One step").click()
        wait_for_steps(page, before + 1)
        assert stands(page)["heading"] == went


def test_the_server_reads_digits(chromium: Browser, home: str) -> None:
    with visit(chromium, home, "draw") as page:
        page.locator("canvas.pad").wait_for()
        draw(page, SEVEN)
        page.locator(".seen[data-digit='7']").wait_for()
        page.get_by_text("by the server").wait_for()
        page.get_by_label("It runs").select_option("browser")
        page.get_by_text("in this browser.").wait_for()
        assert page.locator(".seen").get_attribute("data-digit") == "7"


def test_the_server_draws_the_names_of_the_command_line(
    chromium: Browser, home: str, archives: dict[str, Path]
) -> None:
    with visit(chromium, home, "names") as page:
        page.get_by_text("Drawn on the server").wait_for()
        first = page.locator(".names li").first.inner_text()
        page.get_by_role("button", name="Next seed").click()
        page.locator(".names li").first.filter(has_not_text=first).wait_for()
        shown = page.locator(".names li").all_inner_texts()
        assert [name.lower() for name in shown] == names_of(archives[NAMES], 12, 2)
