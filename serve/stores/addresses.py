"""Addresses of stores: which are allowed, what they name, and how they are shown.

Nothing here imports a library of a store: whoever reads settings reads addresses.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from torchship.script.errors import UsageError

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
SECRETS = (
    (re.compile(r"(?<=://)[^/@\s'\"]*:[^/@\s'\"]*@"), "***@"),  # user and password
    (re.compile(r"(://[^?\s'\"]*\?)[^\s'\"]+"), r"\1***"),  # a query, which may be a signature
)
SIGNATURE = ".sig"

HTTP = ("http", "https")
LIBRARIES: dict[str, tuple[str, str]] = {
    "s3": ("s3fs", "s3"),
    "gs": ("gcsfs", "gcs"),
    "gcs": ("gcsfs", "gcs"),
    "az": ("adlfs", "azure"),
    "abfs": ("adlfs", "azure"),
    "abfss": ("adlfs", "azure"),
    "hf": ("huggingface_hub", "hf"),
    "file": ("fsspec", "https"),
    "http": ("httpx", "https"),
    "https": ("httpx", "https"),
}
"""By scheme: the library that reads it, and the extra of this package that installs that.

`fsspec` knows many more, some of which run commands on other machines or execute code.
"""


def redact(text: str) -> str:
    """Return text without the passwords and queries of the URLs in it."""
    for pattern, shown in SECRETS:
        text = pattern.sub(shown, text)
    return text


@dataclass(frozen=True)
class Address:
    """The address of an archive (`….pt`) or of a folder of archives in a store.

    As text it is safe to print; only `url` has the secrets of a presigned URL.
    """

    url: str = field(repr=False)
    """As given, without a `/` at the end."""
    scheme: str
    is_archive: bool
    """Whether it names one archive: its path ends in `.pt`."""
    is_folder: bool
    """Whether it was given with a `/` at its end."""

    def __str__(self) -> str:
        """Return the address without passwords and queries."""
        return redact(self.url)

    def __repr__(self) -> str:
        return f"Address('{self}')"

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self._path.rsplit("/", 1)[-1]

    @property
    def _path(self) -> str:
        return urlsplit(self.url).path if self.scheme in HTTP else self.url

    def of(self, name: str) -> Address:
        """Return the address of `name`, a relative path below this folder."""
        if self.scheme in HTTP:
            parts = urlsplit(self.url)
            url = urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(name)}"))
        else:
            url = f"{self.url}/{name}"
        return Address(url, self.scheme, name.endswith(".pt"), False)

    def beside(self, name: str) -> Address:
        """Return the address of `name` in the folder of this archive, with the same query."""
        if self.scheme in HTTP:
            parts = urlsplit(self.url)
            folder = parts.path.rsplit("/", 1)[0]
            url = urlunsplit(parts._replace(path=f"{folder}/{quote(name)}"))
        else:
            url = f"{self.url.rsplit('/', 1)[0]}/{name}"
        return Address(url, self.scheme, name.endswith(".pt"), False)


def is_address(text: str) -> bool:
    """Return whether text is meant as an address of a store, and not as the path of a file."""
    return "://" in text


def read_address(text: str) -> Address:
    """Read the address of a store.

    Raises:
        UsageError: the scheme is not allowed, or the rest is not an address in it.
    """
    match = SCHEME.match(text)
    scheme = match[1].lower() if match else ""
    shown = redact(text)
    if match is None or scheme not in LIBRARIES:
        schemes = ", ".join(f"{scheme}://" for scheme in LIBRARIES)
        raise UsageError(f"'{shown}': expected an address that begins with one of {schemes}")
    rest = text[match.end() :]
    if not rest.isprintable() or ("::" in rest and scheme not in HTTP):
        raise UsageError(f"'{shown!a}': expected one address without '::' or control characters")
    if scheme in HTTP:
        rest = rest.partition("#")[0]
    path, _, query = rest.partition("?") if scheme in HTTP else (rest, "", "")
    place, _, below = path.partition("/")
    if "@" in place and ":" in place and scheme not in HTTP:
        raise UsageError(
            f"'{shown}': credentials do not belong into the address: set them in the environment "
            "or in the profile that the store's own tools read"
        )
    if scheme == "file":
        if place or not below:
            raise UsageError(f"'{shown}': expected file:///FOLDER with an absolute path")
    elif not place:
        raise UsageError(f"'{shown}': expected {scheme}://NAME/PATH, and there is no name")
    if scheme == "hf":
        path = _hub_path(path, shown)
    if any(part in (".", "..") for part in path.split("/")):
        raise UsageError(f"'{shown}': expected a path without '.' and '..'")
    is_folder = path.endswith("/")
    path = path.rstrip("/")
    is_archive = path.endswith(".pt") and not is_folder
    if query and not is_archive:
        raise UsageError(f"'{shown}': only the address of one archive, ….pt, can have a query")
    url = f"{scheme}://{path}" + (f"?{query}" if query else "")
    return Address(url, scheme, is_archive, is_folder)


def _hub_path(path: str, shown: str) -> str:
    """Put a revision at the end of a path, `user/repo/path@revision`, behind the repository."""
    parts = path.rstrip("/").split("/")
    owner = 1 if parts[0] in ("datasets", "spaces") else 0
    if len(parts) < owner + 2 or not all(parts):
        raise UsageError(f"'{shown}': expected hf://USER/REPOSITORY[/PATH][@REVISION]")
    repository = owner + 1
    head, at, revision = parts[-1].rpartition("@")
    if at and len(parts) > repository + 1 and "@" not in parts[repository]:
        parts[-1] = head
        parts[repository] += f"@{revision}"
    return "/".join(parts) + ("/" if path.endswith("/") else "")


def read_path(text: object) -> object:
    """Return the path or the address that a setting holds; leave other values to their checks.

    Raises:
        ValueError: it is an address, and a wrong one.
    """
    if isinstance(text, str) and is_address(text):
        try:
            return read_address(text)
        except UsageError as error:
            raise ValueError(str(error)) from None
    return Path(text) if isinstance(text, str) else text


def as_given(path: Path | Address) -> str:
    """Return a path or an address as text that `read_path` reads, secrets included."""
    return path.url if isinstance(path, Address) else str(path)
