"""Visits of the page: a server and a browser that the tests of a file share, and what they show."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from axe_playwright_python.base import AXE_FILE_PATH
from playwright.sync_api import Browser, Locator, Page

from chromium import DESKTOP, Watch
from torchship.script.format.golden import Case
from torchship.script.runtime.archive import open_archive

GRAVE = ("serious", "critical")


@dataclass(frozen=True)
class Visitor:
    """A browser, and the address of the page."""

    browser: Browser
    home: str

    @contextmanager
    def at(
        self,
        place: str = "",
        viewport: dict[str, int] = DESKTOP,
        *,
        dark: bool = False,
        refused: Sequence[int] = (),
        bypass_csp: bool = False,
    ) -> Iterator[Page]:
        """Visit a place of the page, such as "#try/tiny"; at the end, nothing may be wrong.

        `refused` are the statuses that the server is expected to answer with, which a browser
        writes to the console.
        """
        scheme: Any = "dark" if dark else "light"
        context = self.browser.new_context(
            viewport=viewport,  # type: ignore[arg-type]
            color_scheme=scheme,
            bypass_csp=bypass_csp,
        )
        try:
            page = context.new_page()
            page.set_default_timeout(30_000)
            watch = Watch(page, self.home)
            page.goto(f"{self.home}/{place}")
            page.locator("#panel h1").wait_for()
            yield page
            known = re.compile("|".join(f"status of {status} " for status in refused) or "$^")
            assert [fault for fault in watch.faults if not known.search(fault)] == []
        finally:
            context.close()


def grave_findings(page: Page) -> list[str]:
    """Return what axe finds serious or critical on a page whose CSP is bypassed."""
    page.evaluate(AXE_FILE_PATH.read_text())
    found = page.evaluate("axe.run().then((result) => result.violations)")
    return [
        f"{finding['id']}: {[node['html'] for node in finding['nodes']]}"
        for finding in found
        if finding["impact"] in GRAVE
    ]


def golden(archive: Path, case: int = 0) -> Case:
    """Return a golden case of an archive, as Python reads it."""
    return open_archive(archive).golden[case]


def table(output: Locator) -> list[list[float]]:
    """Return the values of an output, from its table, which may be folded up."""
    rows = output.locator("tbody").first.locator("tr")
    cells = rows.evaluate_all(
        "rows => rows.map((row) => [...row.querySelectorAll('td')].map((cell) => cell.textContent))"
    )
    return [[_number(cell) for cell in row] for row in cells]


def _number(text: str) -> float:
    return float({"true": "1", "false": "0"}.get(text, text.replace("Infinity", "inf")))


def rows_of(tensor: torch.Tensor) -> list[list[float]]:
    """Return a tensor's values as its table has them."""
    width = tensor.shape[-1] if tensor.dim() else 1
    rows: list[list[float]] = tensor.double().reshape(-1, width).tolist()
    return rows
