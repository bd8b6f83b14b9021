"""The page: its static files, and what it is told of the server it comes from."""

from __future__ import annotations

import orjson
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from torchship.serve.http.static_files import StaticFolder
from torchship.serve.service.verification import Verification
from torchship.serve.system.package_version import package_version
from torchship.ui import PAGE

CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)

HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}

SITE = "/site.json"
FILES = "/ui/"
"""Every path of a file of the page, apart from the page's own, begins so."""


def is_public(path: str, root_path: str = "") -> bool:
    """Return whether a path is one of the page's, which anybody may read: it holds no secret."""
    return path in ("/", SITE) or path.startswith(FILES) or (path == root_path != "")


def add_page_routes(
    app: FastAPI, root_path: str, has_keys: bool, verification: Verification
) -> None:
    """Add the page, which asks for all it shows as any client does."""
    page, files = StaticFolder(PAGE), StaticFolder(PAGE / FILES.strip("/"))

    async def index(request: Request) -> Response:
        return await page.response("index.html", request.scope, HEADERS)

    async def file(request: Request) -> Response:
        return await files.response(request.path_params["name"], request.scope, HEADERS)

    async def site(request: Request) -> Response:
        content = {
            "form": "server",
            "version": package_version(),
            "keys": has_keys,
            "verify": verification.available,
        }
        headers = {**HEADERS, "Cache-Control": "no-cache"}
        return Response(orjson.dumps(content), headers=headers, media_type="application/json")

    async def below(request: Request) -> Response:
        # The page's own addresses are relative: without the / at its end they would be wrong.
        return RedirectResponse(f"{root_path.rpartition('/')[2]}/", headers=HEADERS)

    app.add_route("/", index, include_in_schema=False)
    app.add_route(FILES + "{name:path}", file, include_in_schema=False)
    app.add_route(SITE, site, include_in_schema=False)
    if root_path:
        app.add_route(root_path, below, include_in_schema=False)
