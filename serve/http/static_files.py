"""Files of a folder over HTTP: with their types, compressed once, sent again only if changed."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import NotModifiedResponse, StaticFiles
from starlette.types import Scope

# Not the machine's table of types: it may lack these, and a browser runs no module of another type.
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
}
OTHER = "application/octet-stream"

COMPRESSED_ALREADY = frozenset({".png"})
SMALLEST = 512  # bytes of a file that is worth compressing
LEVEL = 9


@dataclass(frozen=True)
class _Representation:
    """The body of a response, and what identifies it."""

    content: bytes
    etag: str


@dataclass(frozen=True)
class _File:
    """A file as it was read."""

    known_by: tuple[int, int]
    """When it was changed, and its size: what tells of a change without reading it."""
    plain: _Representation
    compressed: _Representation | None


class StaticFolder:
    """The files of one folder, each of which is read and compressed when it is first asked for.

    All of them stay in memory: a page has a few hundred kilobytes.
    """

    def __init__(self, folder: Path) -> None:
        """Take the folder, which may be missing."""
        self._lookup = StaticFiles(directory=folder, check_dir=False)
        self._files: dict[str, _File] = {}

    async def response(self, name: str, scope: Scope, headers: Mapping[str, str]) -> Response:
        """Return the response with a file, or that the client has it already.

        The client must ask again whenever it uses the file, so that a new version of the server
        never runs with parts of the old page.

        Raises:
            HTTPException: 404, there is no file of that name in the folder.
        """
        file = await asyncio.to_thread(self._read, name)
        asked = Headers(scope=scope)
        chosen = file.plain
        headers = {**headers, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        if file.compressed is not None and _accepts_gzip(asked):
            chosen = file.compressed
            headers["Content-Encoding"] = "gzip"
        headers["ETag"] = chosen.etag
        kind = TYPES.get(Path(name).suffix, OTHER)
        response = Response(chosen.content, headers=headers, media_type=kind)
        if self._lookup.is_not_modified(response.headers, asked):
            return NotModifiedResponse(response.headers)
        return response

    def _read(self, name: str) -> _File:
        try:
            path, status = self._lookup.lookup_path(name)
        except (OSError, ValueError):  # too long, or no name of a file at all
            raise HTTPException(404) from None
        if status is None or not stat.S_ISREG(status.st_mode):
            raise HTTPException(404)
        known_by = (status.st_mtime_ns, status.st_size)
        file = self._files.get(path)
        if file is None or file.known_by != known_by:
            file = self._files[path] = _load(path, known_by)
        return file


def _load(path: str, known_by: tuple[int, int]) -> _File:
    content = Path(path).read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:32]
    compressed = None
    if len(content) >= SMALLEST and os.path.splitext(path)[1] not in COMPRESSED_ALREADY:
        smaller = gzip.compress(content, LEVEL, mtime=0)
        compressed = _Representation(smaller, f'"{digest}-gzip"')
    return _File(known_by, _Representation(content, f'"{digest}"'), compressed)


def _accepts_gzip(asked: Headers) -> bool:
    for offer in asked.get("accept-encoding", "").split(","):
        name, _, weight = offer.partition(";")
        if name.strip().lower() in ("gzip", "*"):
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
