"""Sites and what shows them: archives for the page, a plain file server, axe, Python's own game."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page

from torchship.models.snake.game import Snake
from torchship.models.snake.training import player
from torchship.models.snake_policy import snake, snake_lstm

POLICIES = {"snake": snake, "snake-lstm": snake_lstm}
NAMES = "makemore-flat"
MODELS = ("snake", "snake-lstm", "bobnet", NAMES)
SERIOUS = ("serious", "critical")

SEVEN = [[(28, 22), (70, 22), (46, 84)]]
FOUR = [[(42, 18), (30, 54), (72, 54)], [(62, 20), (60, 84)]]
"""Digits as lines of a pen in a square of 100 x 100."""


@contextmanager
def file_server(folder: Path) -> Iterator[str]:
    """Serve a folder with Python's own server; yield its address."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    with subprocess.Popen(
        [*command, "-d", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        try:
            port = process.stdout.readline().split(" port ")[1].split()[0]
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.terminate()


def findings(page: Page) -> list[str]:
    """What axe finds serious on the page."""
    violations = Axe().run(page).response["violations"]
    return [
        f"{found['id']}: {found['help']}: {[node['html'] for node in found['nodes']]}"
        for found in violations
        if found["impact"] in SERIOUS
    ]


def fingerprint(policy: str, *, snakes: int, steps: int, seed: int, sample: bool = False) -> str:
    """FNV-1a of all moves of a game that the eager policy plays, as the page shows it."""
    side = round(18 * snakes**0.5)
    game = Snake(snakes=snakes, food=snakes, width=side, height=side)
    play = player(POLICIES[policy](), seed, snakes, sample)
    obs, died = game.reset(seed)[0], np.zeros(snakes, dtype=np.bool_)
    value = 0x811C9DC5
    for _ in range(steps):
        actions = play(obs, died)
        for action in actions.tolist():
            value = (value ^ action) * 0x01000193 & 0xFFFFFFFF
        obs, _, died, _, _ = game.step(actions)
    return f"{value:08x}"


def field_of(page: Page) -> Locator:
    """The canvas of the game, whose data attributes tell how it stands."""
    return page.locator("canvas.field-of-snakes")


def stands(page: Page) -> dict[str, str]:
    """How the game stands."""
    found: dict[str, str] = field_of(page).evaluate("canvas => ({...canvas.dataset})")
    return found


def wait_for_steps(page: Page, steps: int) -> None:
    """Wait until a game has come so far."""
    page.wait_for_function(
        "steps => Number(document.querySelector('.field-of-snakes')?.dataset.steps) >= steps",
        arg=steps,
    )


def pause(page: Page) -> dict[str, str]:
    """Pause the game, and return how it stands."""
    page.get_by_role("button", name="Pause").click()
    return stands(page)


def set_up(page: Page, *, policy: str = "snake", snakes: int = 9, speed: int = 60) -> None:
    """Choose on the tab Play, and begin a new game."""
    page.get_by_label("Policy").select_option(label=f"{policy} 1")
    page.get_by_role("slider", name="Steps per second").fill(str(speed))
    page.get_by_role("slider", name="Snakes").fill(str(snakes))
    page.wait_for_function(
        "snakes => document.querySelector('.field-of-snakes')?.dataset.agents === snakes",
        arg=str(snakes),
    )


def draw(page: Page, lines: Sequence[Sequence[tuple[float, float]]]) -> None:
    """Draw on the pad with the mouse."""
    box = page.locator("canvas.pad").bounding_box()
    assert box is not None
    for line in lines:
        places = [
            (box["x"] + x / 100 * box["width"], box["y"] + y / 100 * box["height"]) for x, y in line
        ]
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in places[1:]:
            page.mouse.move(*place, steps=8)
        page.mouse.up()
