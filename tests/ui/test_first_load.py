"""How much the first load of the page takes over the wire, before a visitor does anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Request, expect

from chromium import browser
from served import launched, make

LIMIT = 300_000


def test_the_first_load_is_small(tmp_path: Path, record_property: Any) -> None:
    sizes: dict[str, int] = {}

    def note(request: Request) -> None:
        sent = request.sizes()
        sizes[urlsplit(request.url).path] = sent["responseBodySize"] + sent["responseHeadersSize"]

    archives = [make(tmp_path, name) for name in ("memory", "tiny")]
    with launched(*archives) as server, browser() as started:
        assert server.line().startswith("ready: ")
        page = started.new_page()
        page.on("requestfinished", note)
        page.goto(server.url, wait_until="networkidle")
        expect(page.get_by_role("tab").first).to_be_visible()
        failed = page.evaluate(
            "performance.getEntriesByType('resource').filter(e => e.responseStatus >= 400).length"
        )
    record_property("bytes", sum(sizes.values()))
    assert failed == 0
    assert {
        "/",
        "/ui/main.mjs",
        "/ui/style.css",
        "/site.json",
        "/ui/vendor/uPlot.esm.js",
    } <= sizes.keys()
    assert sum(sizes.values()) < LIMIT, sizes
