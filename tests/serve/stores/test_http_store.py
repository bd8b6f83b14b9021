"""Archives behind HTTP: Python's own web server, and one with faults."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from torchship.serve.errors import NotInStoreError, StoreError
from torchship.serve.stores.addresses import read_address
from torchship.serve.stores.fetching import fetch
from torchship.serve.stores.opening import open_store
from torchship.serve.stores.store import Store


class Handler(SimpleHTTPRequestHandler):
    """A folder, of which the server says what is wrong."""

    server: Server

    def log_message(self, *said: object) -> None:
        pass

    def do_HEAD(self) -> None:
        if self.server.no_head:
            self.send_error(405)
        elif self.server.status:
            self.send_error(self.server.status)
        else:
            super().do_HEAD()

    def do_GET(self) -> None:
        if self.server.status:
            self.send_error(self.server.status)
        elif self.server.page and self.path.endswith("/"):
            self.send_response(200)
            self.send_header("Content-Type", self.server.kind)
            self.end_headers()
            self.wfile.write(self.server.page)
        else:
            super().do_GET()

    def end_headers(self) -> None:
        path = Path(self.translate_path(self.path))
        if self.server.etags and path.is_file():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            self.send_header("ETag", f'"{digest}"')
        super().end_headers()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        if self.server.cut:
            outputfile.write(source.read()[: self.server.cut])
        else:
            super().copyfile(source, outputfile)


class Server(ThreadingHTTPServer):
    no_head = etags = False
    status = cut = 0
    page, kind = b"", "text/html"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models" / "m" / "1").mkdir(parents=True)
    (tmp_path / "models" / "m" / "1" / "model.pt").write_bytes(b"model")
    (tmp_path / "models" / "a b.pt").write_bytes(b"archive")
    (tmp_path / "models" / "a b.pt.sig").write_bytes(bytes(64))
    (tmp_path / "models" / "notes.txt").write_text("no archive")
    (tmp_path / "secret.pt").write_bytes(b"secret")
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def store_of(server: Server, path: str, seconds: float = 30) -> Store:
    address = f"http://127.0.0.1:{server.server_port}/{path}"
    return open_store(read_address(address), seconds)


def fetched(server: Server, path: str, name: str, target: Path) -> bytes:
    store = store_of(server, path)
    address = read_address(f"http://host/{path}")
    fetch(store, address, store.listing()[name], target)
    return target.read_bytes()


@pytest.mark.parametrize("etags", [False, True])
@pytest.mark.parametrize("no_head", [False, True])
def test_a_folder_is_listed_by_its_pages(
    server: Server, tmp_path: Path, etags: bool, no_head: bool
) -> None:
    server.etags, server.no_head = etags, no_head
    files = store_of(server, "models/").listing()
    assert {name: file.size for name, file in files.items()} == {
        "a b.pt": 7,
        "a b.pt.sig": 64,
        "m/1/model.pt": 5,
    }
    assert all(file.tag for file in files.values())
    assert fetched(server, "models", "a b.pt", tmp_path / "fetched") == b"archive"


def test_one_archive_is_found_with_its_signature(server: Server, folder: Path) -> None:
    store = store_of(server, "models/a%20b.pt?token=secret")
    assert sorted(store.listing()) == ["a b.pt", "a b.pt.sig"]
    (folder / "models" / "a b.pt.sig").unlink()
    assert sorted(store.listing()) == ["a b.pt"]
    (folder / "models" / "a b.pt").unlink()
    assert sorted(store.listing()) == []


def test_a_change_changes_the_tag(server: Server, folder: Path) -> None:
    server.etags = True
    store = store_of(server, "models")
    before = store.listing()["a b.pt"]
    assert store.listing()["a b.pt"] == before
    (folder / "models" / "a b.pt").write_bytes(b"ARCHIVE")
    assert store.listing()["a b.pt"] != before


def test_links_elsewhere_are_ignored(server: Server) -> None:
    server.page = (
        b'<a href="../secret.pt">up</a><a href="/secret.pt">root</a><a href="a%20b.pt">it</a>'
        b'<a href="http://other.invalid/x.pt">other</a><a href="?C=N">order</a>'
        b'<a href="..%2fsecret.pt">up</a><a href="%2e%2e/">up</a><a>nothing</a>'
        b'<a href="a%0ab.pt">line</a><a href="javascript:x.pt">script</a>'
    )
    assert sorted(store_of(server, "models").listing()) == ["a b.pt"]


def test_a_failure_is_not_an_empty_store(server: Server) -> None:
    store = store_of(server, "models")
    assert store.listing()
    for server.status in (500, 503, 403):
        with pytest.raises(StoreError, match=f"the server answered {server.status}") as caught:
            store.listing()
        assert not isinstance(caught.value, NotInStoreError)
        with pytest.raises(StoreError, match=f"the server answered {server.status}"):
            store_of(server, "models/a%20b.pt").listing()
    server.status = 404
    with pytest.raises(NotInStoreError, match="the server answered 404"):
        store.listing()


def test_what_is_cut_short_or_too_long_is_refused(server: Server, tmp_path: Path) -> None:
    store = store_of(server, "models")
    file = store.listing()["a b.pt"]
    with pytest.raises(StoreError, match="it has more than 3 bytes"):
        store.fetch(file, tmp_path / "fetched", 3, lambda size: None)
    server.cut = 3
    with pytest.raises(StoreError, match=r"models: a b.pt: .*\(RemoteProtocolError\)"):
        store.fetch(file, tmp_path / "fetched", 100, lambda size: None)


def test_a_page_that_is_none_is_refused(server: Server, folder: Path) -> None:
    (folder / "models" / "index.html").write_bytes(b"")
    assert dict(store_of(server, "models").listing()) == {}
    server.page, server.kind = b'["a b.pt"]', "application/json"
    with pytest.raises(StoreError, match="expected an HTML page with links to the archives"):
        store_of(server, "models").listing()


def test_nobody_can_push_to_a_web_server(server: Server, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="a web server takes no archives"):
        store_of(server, "models").put(tmp_path, "a.pt", lambda size: None)
