"""How fast the page is: what the first load weighs, when it can be used, and frames with 64 snakes.

python bench/page.py [--rounds N] [--json-output FILE]

Both forms are measured in Debian's Chromium on this machine: a server, and a site from Python's
own file server. Bytes are those over the wire, headers among them, of the first tab; interactive
is when its first heading stands, after the start of the navigation. Frames are counted for 10
seconds of a game of 64 snakes at 30 steps per second, as the browser paints them.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from playwright.sync_api import Browser, Page, sync_playwright
from rich.console import Console
from rich.table import Table

from torchship.native.site.writer import write_site
from torchship.script.exporting.export import export
from torchship.script.exporting.target import find_target
from torchship.script.runtime.archive import open_archive
from torchship.serve.client.local_server import running_server

MODELS = ("snake", "snake-lstm", "bobnet", "makemore-flat")
SNAKES, SPEED, SECONDS = 64, 30, 10

FRAMES = """(seconds) => new Promise((resolve) => {
  const start = performance.now();
  let frames = 0;
  const next = (now) => {
    frames += 1;
    if (now - start < 1000 * seconds) requestAnimationFrame(next);
    else resolve(frames / ((now - start) / 1000));
  };
  requestAnimationFrame(next);
})"""


@contextmanager
def file_server(folder: Path) -> Iterator[str]:
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    with subprocess.Popen(
        [*command, "-d", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        port = process.stdout.readline().split(" port ")[1].split()[0]
        yield f"http://127.0.0.1:{port}"
        process.terminate()


def first_load(browser: Browser, home: str) -> tuple[int, int, float]:
    """Return the bytes of the page, those of the models that it checks, and the milliseconds.

    A site's first tab runs the golden cases of each model in the browser, once it can be used.
    """
    context = browser.new_context()
    page = context.new_page()
    network = context.new_cdp_session(page)
    network.send("Network.enable")
    addresses: dict[str, str] = {}
    sizes: dict[str, int] = {}
    network.on(
        "Network.requestWillBeSent",
        lambda event: addresses.update({event["requestId"]: event["request"]["url"]}),
    )
    network.on(
        "Network.loadingFinished",
        lambda event: sizes.update({event["requestId"]: int(event["encodedDataLength"])}),
    )
    page.goto(f"{home}/", wait_until="commit")
    page.locator("#panel h1").wait_for()
    ready = page.evaluate("performance.now()")
    page.wait_for_load_state("networkidle")
    context.close()
    models = sum(size for of, size in sizes.items() if f"{home}/models/" in addresses[of])
    return sum(sizes.values()) - models, models, float(ready)


def frames(page: Page, policy: str) -> float:
    """Return the frames per second that the page paints while 64 snakes move."""
    page.get_by_label("Policy").select_option(label=f"{policy} 1")
    page.get_by_role("slider", name="Steps per second").fill(str(SPEED))
    page.get_by_role("slider", name="Snakes").fill(str(SNAKES))
    page.wait_for_function(
        "snakes => document.querySelector('.field-of-snakes')?.dataset.agents === snakes",
        arg=str(SNAKES),
    )
    return float(page.evaluate(FRAMES, SECONDS))


def measure(browser: Browser, home: str, rounds: int) -> dict[str, float]:
    loads = [first_load(browser, home) for _ in range(rounds)]
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto(f"{home}/#play")
    page.locator("#panel h1").wait_for()
    figures = {
        "first load, kB": statistics.median(size for size, _, _ in loads) / 1000,
        "models checked then, kB": statistics.median(size for _, size, _ in loads) / 1000,
        "interactive, ms": statistics.median(ready for _, _, ready in loads),
        **{f"frames/s, {SNAKES} x {name}": frames(page, name) for name in MODELS[:2]},
    }
    context.close()
    return figures


def main(
    rounds: int = 5, json_output: Annotated[Path | None, typer.Option(help="Also as JSON.")] = None
) -> None:
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        paths = [folder / f"{model}.pt" for model in MODELS]
        for path in paths:
            export(find_target(path.stem, None, {}), path)
        write_site([open_archive(path) for path in paths], folder / "site")
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        found = {}
        with file_server(folder / "site") as home:
            found["a site, from a file server"] = measure(browser, home, rounds)
        with running_server(paths) as home:
            found["a server"] = measure(browser, home, rounds)
        browser.close()
    table = Table("", *found, title=f"the page, median of {rounds} rounds", title_justify="left")
    for figure in found["a server"]:
        table.add_row(figure, *(f"{figures[figure]:,.0f}" for figures in found.values()))
    Console().print(table)
    if json_output:
        json_output.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    typer.run(main)
