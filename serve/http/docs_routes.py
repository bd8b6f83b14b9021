"""The page of the OpenAPI document: plain, and Swagger UI in its place where JavaScript runs.

All of its files are the package's own. The page itself is public, and what it says of the models is
not: with API keys on, it holds the document only for a request that brings a key. A visitor gives
the key to the page, which then asks for the document as any client does.
"""

from __future__ import annotations

import html
from typing import Any

import orjson
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from torchship.serve.errors import UnauthorizedError
from torchship.serve.http.openapi import OpenApi
from torchship.serve.http.static_files import StaticFolder
from torchship.serve.service.api_keys import KeyRing, digest_of
from torchship.ui import DOCS

PAGE = "/docs"
FILES = "/docs/"

HEADERS = {
    # Images as data: are the arrows and icons in the style of Swagger UI.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}

# Its addresses are relative, so that it works below any prefix.
_SHELL = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: the HTTP API</title>
<link rel="icon" href="docs/swagger/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger/swagger-ui.css">
<link rel="stylesheet" href="docs/docs.css">
<script defer src="docs/swagger/swagger-ui-bundle.js"></script>
<script type="module" src="docs/docs.mjs"></script>
</head>
<body>
<header>
{form}<p id="said" role="alert"></p>
</header>
<div id="swagger-ui">
<main>
{plain}
</main>
</div>
</body>
</html>
"""

_FORM = """<form id="key-form" hidden>
<label for="key">API key</label>
<input id="key" type="password" autocomplete="off" spellcheck="false" required>
<button type="submit">Show the API</button>
<p>It stays in the memory of this page, and is gone when you leave it.</p>
</form>
"""

_NO_KEY = """<h1>{title}</h1>
<p>This server answers requests that bring an API key, and says what it serves only to them.</p>
<p>A program asks for <code>openapi.json</code>, or for this page, with the header field
<code>Authorization: Bearer KEY</code>.</p>
"""


def is_public(path: str) -> bool:
    """Return whether a path is the page or one of its files, which hold no secret."""
    return path == PAGE or path.startswith(FILES)


def add_docs_routes(app: FastAPI, openapi: OpenApi, keys: KeyRing | None) -> None:
    """Add the page of a document that is for those who bring one of these keys."""
    files = StaticFolder(DOCS)

    async def page(request: Request) -> Response:
        return HTMLResponse(_page(app.title, openapi, keys, request), headers=HEADERS)

    async def file(request: Request) -> Response:
        return await files.response(request.path_params["name"], request.scope, HEADERS)

    app.add_route(PAGE, page, include_in_schema=False)
    app.add_route(FILES + "{name:path}", file, include_in_schema=False)


def _page(title: str, openapi: OpenApi, keys: KeyRing | None, request: Request) -> str:
    """Return the page as a request may have it.

    Raises:
        UnauthorizedError, RateError: it brings a key that is unknown, or asks too often.
    """
    form, title = "", html.escape(title)
    if keys is not None:
        form = _FORM
        try:
            digest = digest_of(request.scope["headers"])
        except UnauthorizedError:
            return _SHELL.format(title=title, form=form, plain=_NO_KEY.format(title=title))
        keys.admit(digest)
    plain = _plain(orjson.loads(openapi.document()))
    return _SHELL.format(title=title, form=form, plain=plain)


def _plain(document: dict[str, Any]) -> str:
    parts = [f"<h1>{html.escape(document['info']['title'])}</h1>"]
    for path, item in document["paths"].items():
        for verb, operation in item.items():
            parts.append(f"<h2>{verb.upper()} {html.escape(path)}</h2>")
            text = "\n\n".join((operation.get("summary", ""), operation.get("description", "")))
            parts.append(f"<p>{html.escape(text)}</p>")
            bodies = [operation.get("requestBody", {}), operation["responses"].get("200", {})]
            for body in bodies:
                media = body.get("content", {}).get("application/json", {})
                for shown in media.get("examples", {}).values():
                    text = orjson.dumps(shown["value"]).decode()
                    parts.append(f'<pre tabindex="0">{html.escape(text)}</pre>')
    return "\n".join(parts)
