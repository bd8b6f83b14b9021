"""Debian's Chromium, driven by Playwright: pages that fail a test by what they should not do."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, Request, sync_playwright

# A closed network must not be asked for updates, and a container has no user namespaces.
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


@contextmanager
def browser() -> Iterator[Browser]:
    """Have a browser for the length of the block."""
    path = shutil.which("chromium")
    assert path, "install Debian's package chromium"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=[*FLAGS])
        try:
            yield started
        finally:
            started.close()


class Watch:
    """What a page did wrong: words on its console, errors nobody caught, requests elsewhere."""

    def __init__(self, page: Page, home: str) -> None:
        """Watch a page whose every request should go to `home`, such as http://127.0.0.1:8000."""
        self._host = urlsplit(home).netloc
        self.faults: list[str] = []
        page.on("console", lambda message: self._said(message.type, message.text))
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("request", self._asked)

    def _said(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.faults.append(f"console {kind}: {text}")

    def _asked(self, request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and address.netloc != self._host:
            self.faults.append(f"request to another host: {request.url}")


@contextmanager
def page_at(home: str, viewport: dict[str, int] = DESKTOP, *, dark: bool = False) -> Iterator[Page]:
    """Have a page that shows `home`, in a browser of its own; nothing may have gone wrong."""
    with browser() as started, page_in(started, home, viewport, dark=dark) as page:
        yield page


@contextmanager
def page_in(
    started: Browser, home: str, viewport: dict[str, int] = DESKTOP, *, dark: bool = False
) -> Iterator[Page]:
    """Have a page that shows `home`, with nothing kept of others; nothing may have gone wrong."""
    scheme = "dark" if dark else "light"
    context = started.new_context(viewport=viewport, color_scheme=scheme)  # type: ignore[arg-type]
    try:
        page = context.new_page()
        page.set_default_timeout(30_000)
        watch = Watch(page, home)
        page.goto(home)
        yield page
        assert watch.faults == []
    finally:
        context.close()
