"""Archives behind HTTP: one by its URL, or those that the page of a folder links to.

fsspec's own class for HTTP takes every error for a missing file; here a server that answers 503
has not removed anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import httpx

from torchship.serve.errors import StoreError
from torchship.serve.stores.addresses import SIGNATURE, Address
from torchship.serve.stores.calls import explained
from torchship.serve.stores.store import (
    MOST_OBJECTS,
    Progress,
    RemoteFile,
    check_size,
    is_wanted,
    refuse_name,
    wanted_files,
)

BLOCK = 1 << 20  # bytes
LARGEST_PAGE = 8 << 20  # bytes of the page of a folder
MOST_PAGES = 2000  # folders of models and versions
REDIRECTS = 5
NO_HEAD = (403, 405, 501)
"""Answers to HEAD after which GET is tried: a presigned URL is for one method."""
GONE = (404, 410)
TAGS = ("etag", "last-modified")


class HttpStore:
    """A URL; see `Store`."""

    def __init__(self, address: Address, seconds: float) -> None:
        """Take the address, and for how many seconds nothing may come."""
        self._address = address
        self._client = httpx.Client(
            timeout=seconds,
            follow_redirects=True,
            max_redirects=REDIRECTS,
            headers={"Accept-Encoding": "identity"},
        )

    def listing(self) -> Mapping[str, RemoteFile]:
        """See `Store.listing`."""
        with explained(self._address):
            if self._address.is_archive:
                names = [unquote(self._address.name), unquote(self._address.name) + SIGNATURE]
                refuse_name(names[0])
                found = [self._described(name) for name in names]
            else:
                found = [self._described(name) for name in self._names()]
        return wanted_files(file for file in found if file is not None)

    def find(self, name: str) -> RemoteFile | None:
        """See `Store.find`."""
        with explained(self._address):
            return self._described(name)

    def fetch(self, file: RemoteFile, target: Path, most: int, progress: Progress) -> None:
        """See `Store.fetch`."""
        with explained(f"{self._address}: {file.name}"), self._get(file.location) as answer:
            self._check(answer)
            moved = 0
            with target.open("wb") as written:
                for block in answer.iter_bytes(BLOCK):
                    moved += len(block)
                    if moved > most:
                        raise StoreError(f"it has more than {most} bytes")
                    written.write(block)
                    progress(len(block))
            check_size(target, file, most)

    def put(self, source: Path, name: str, progress: Progress) -> None:
        """Refuse: there is no common way to upload over HTTP."""
        raise StoreError(
            f"{self._address}: a web server takes no archives: push to the store behind it"
        )

    def remove(self, name: str) -> None:
        """Refuse, as `put` does."""
        self.put(Path(), name, lambda size: None)

    def _url(self, name: str) -> str:
        if self._address.is_archive:
            if name == unquote(self._address.name):
                return self._address.url
            return self._address.beside(name).url
        return self._address.of(name).url

    @contextmanager
    def _get(self, url: str) -> Iterator[httpx.Response]:
        with self._client.stream("GET", url) as answer:
            yield answer

    def _check(self, answer: httpx.Response) -> None:
        """Refuse an answer that is none, or that came from another, unprotected place.

        Raises:
            FileNotFoundError: the server says that it does not exist.
            StoreError: any other status than 200, or a redirect from https to http.
        """
        if self._address.scheme == "https" and answer.url.scheme != "https":
            raise StoreError("the server redirects to http://, which is not protected")
        if answer.status_code in GONE:
            raise FileNotFoundError(f"the server answered {answer.status_code}")
        if answer.status_code != 200:
            raise StoreError(
                f"the server answered {answer.status_code} {answer.reason_phrase}".rstrip()
            )

    def _described(self, name: str) -> RemoteFile | None:
        """Return a file with its size and tag; None if the server says that it does not exist."""
        url = self._url(name)
        answer = self._client.head(url)
        if answer.status_code in NO_HEAD:
            with self._get(url) as answer:
                pass  # its headers are all that is needed
        if answer.status_code in GONE or (answer.status_code == 403 and name.endswith(SIGNATURE)):
            return None
        self._check(answer)
        compressed = answer.headers.get("content-encoding", "identity") != "identity"
        length = "" if compressed else answer.headers.get("content-length", "")
        return RemoteFile(name, url, int(length) if length.isdecimal() else None, _tag(answer))

    def _names(self) -> list[str]:
        """Return the wanted names that the pages of the folder and those below it link to."""
        names, pages = [], [""]
        for page in pages:
            for name in self._links(page):
                depth = name.count("/")
                if name.endswith("/"):
                    if depth <= 2 and len(pages) < MOST_PAGES:
                        pages.append(name)
                elif is_wanted(name):
                    names.append(name)
            if len(names) > MOST_OBJECTS:
                raise StoreError(f"there are more than {MOST_OBJECTS} archives")
        return list(dict.fromkeys(names))

    def _links(self, folder: str) -> list[str]:
        """Return what the page of a folder links to below that folder, relative to the address."""
        url = f"{self._address.url}/{folder}"
        text = bytearray()
        with self._get(url) as answer:
            self._check(answer)
            for block in answer.iter_bytes(BLOCK):
                text += block
                if len(text) > LARGEST_PAGE:
                    raise StoreError(f"the page of the folder has more than {LARGEST_PAGE} bytes")
            kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "text/html":
                raise StoreError(
                    f"expected an HTML page with links to the archives, got '{kind}': name one "
                    "archive, ….pt, or a folder whose page the server makes"
                )
            base = str(answer.url)
        links = _Links()
        links.feed(text.decode("utf-8", "replace"))
        found = []
        for link in links.found:
            target = urljoin(base, link)
            if urlsplit(target).query or not target.startswith(base):
                continue
            below = unquote(target[len(base) :].partition("#")[0])
            parts = below.rstrip("/").split("/")
            if below and len(parts) == 1 and not parts[0].startswith("."):
                found.append(folder + below)
        return found


class _Links(HTMLParser):
    """Collects the targets of a page's links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for key, value in attrs if key == "href" and value]


def _tag(answer: httpx.Response) -> str:
    found = [answer.headers[key] for key in TAGS if key in answer.headers]
    if not found:
        return ""
    return f"{found[0]} {answer.headers.get('content-length', '')}"
