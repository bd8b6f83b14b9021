"""The pictures of the page in docs/img: what a visitor sees, in Debian's Chromium.

python bench/screenshots.py

They show a real server of a few models, and are made again when the page changes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page

from chromium import DESKTOP, PHONE, browser
from torchship.script.exporting.export import export
from torchship.script.exporting.target import find_target
from torchship.serve.client.local_server import running_server

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "img"
MODELS = ("snake", "snake-lstm", "moba", "bobnet", "makemore-flat", "fizzbuzz")
LARGEST = 200_000  # bytes of a picture


def models(page: Page) -> None:
    page.get_by_role("heading", name="fizzbuzz").wait_for()
    for _ in range(4):
        page.request.post(
            page.url.partition("#")[0] + "v2/models/fizzbuzz/infer",
            data={
                "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 10], "data": [1.0] * 10}]
            },
        )
        page.wait_for_timeout(2_100)


def try_it(page: Page) -> None:
    page.get_by_role("button", name="Run", exact=True).click()
    page.locator("#panel table >> visible=true").first.wait_for()


def play(page: Page) -> None:
    page.wait_for_function(
        "() => document.querySelector('.field-of-snakes')?.dataset.steps > 150", timeout=60_000
    )


def draw(page: Page) -> None:
    pad = page.locator("#panel canvas").first
    box = pad.bounding_box()
    assert box
    steps = [(0.35, 0.2), (0.65, 0.2), (0.55, 0.5), (0.68, 0.7), (0.5, 0.85), (0.33, 0.75)]
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in steps]
    page.mouse.move(*places[0])
    page.mouse.down()
    for x, y in places[1:]:
        page.mouse.move(x, y, steps=8)
    page.mouse.up()
    page.wait_for_timeout(500)


def agree(page: Page) -> None:
    page.get_by_role("button", name="Run verify on the server").click()
    page.get_by_text("Every runtime that ran agrees.").first.wait_for(timeout=120_000)


PICTURES = {
    "models": ("#models", models, DESKTOP, False),
    "play-dark": ("#play", play, DESKTOP, True),
    "try": ("#try/moba", try_it, DESKTOP, False),
    "draw-phone": ("#draw", draw, PHONE, False),
    "agreement-dark": ("#agreement/fizzbuzz", agree, DESKTOP, True),
}


def picture(started: Browser, home: str, name: str) -> None:
    place, prepare, viewport, dark = PICTURES[name]
    context = started.new_context(
        viewport=viewport,  # type: ignore[arg-type]
        color_scheme="dark" if dark else "light",
    )
    page = context.new_page()
    page.goto(f"{home}/{place}")
    page.locator("#panel h1").wait_for()
    prepare(page)
    path = FOLDER / f"{name}.png"
    page.screenshot(path=path)
    context.close()
    print(f"{path.name}: {path.stat().st_size:,} bytes")
    assert path.stat().st_size < LARGEST


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, browser() as started:
        paths = [Path(scratch) / f"{model}.pt" for model in MODELS]
        for path in paths:
            export(find_target(path.stem, None, {}), path)
        with running_server(paths) as home:
            for name in PICTURES:
                picture(started, home, name)


if __name__ == "__main__":
    main()
