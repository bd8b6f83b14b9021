"""As much of the Hugging Face Hub as is asked for the files of one repository."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

REPOSITORY = "user/repo"


class Hub(ThreadingHTTPServer):
    """A repository with one revision, `main`, whose files a test changes."""

    files: dict[str, bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *said: object) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        below = path.partition("/tree/main")[2].strip("/")
        if path in (f"/api/models/{REPOSITORY}", f"/api/models/{REPOSITORY}/revision/main"):
            self._answer(json.dumps({"id": REPOSITORY, "sha": "0" * 40}).encode())
        elif path.startswith(f"/api/models/{REPOSITORY}/tree/main"):
            self._tree(below, "recursive=true" in self.path)
        elif path.startswith(f"/{REPOSITORY}/resolve/main/"):
            self._file(path.partition("/resolve/main/")[2])
        else:
            self._missing("RepoNotFound")

    do_HEAD = do_GET

    def _tree(self, folder: str, recursive: bool) -> None:
        prefix = f"{folder}/" if folder else ""
        found: dict[str, dict[str, object]] = {}
        for name, data in self.server.files.items():
            if name.startswith(prefix):
                first, _, rest = name[len(prefix) :].partition("/")
                if rest:
                    found[prefix + first] = {"type": "directory", "oid": "0", "size": 0}
                if recursive or not rest:
                    oid = hashlib.sha1(data).hexdigest()
                    found[name] = {"type": "file", "oid": oid, "size": len(data)}
        if folder and not found:
            self._missing("EntryNotFound")
            return
        self._answer(json.dumps([{**said, "path": path} for path, said in found.items()]).encode())

    def _file(self, name: str) -> None:
        data = self.server.files.get(name)
        if data is None:
            self._missing("EntryNotFound")
            return
        whole, wanted = data, self.headers.get("Range", "")
        if wanted.startswith("bytes="):
            first, last = wanted.removeprefix("bytes=").split("-")
            data = data[int(first) : int(last) + 1 if last else None]
        self._answer(data, 206 if wanted else 200, first if wanted else "0", len(whole))

    def _answer(self, data: bytes, status: int = 200, first: str = "0", size: int = 0) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        if status == 206:
            last = int(first) + len(data) - 1
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _missing(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Run the hub on a thread of this process."""
    hub = Hub(("127.0.0.1", 0), _Handler)
    hub.files = {}
    thread = threading.Thread(target=hub.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
