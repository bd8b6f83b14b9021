"""Stores through fsspec: S3, Google Cloud Storage, Azure, the Hugging Face Hub, local files."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from torchship.script.format.atomic_write import write_atomic
from torchship.script.format.file_content import read_blocks
from torchship.serve.errors import StoreError
from torchship.serve.stores.addresses import LIBRARIES, SIGNATURE, Address
from torchship.serve.stores.calls import explained, on_own_thread, outcome
from torchship.serve.stores.store import (
    MOST_OBJECTS,
    Progress,
    RemoteFile,
    check_size,
    refuse_name,
    wanted_files,
)

AZURE = ("az", "abfs", "abfss")
SLOWEST = 64 << 10  # bytes a second
RETRIES = 2  # by s3fs; a server polls again anyway
DEPTH = 3  # <name>/<version>/model.pt
EXACT_TAGS = ("ETag", "etag", "generation", "blob_id")
OTHER_TAGS = ("mtime", "LastModified", "last_modified", "updated", "created", "ino")

# One stream for each object: the parts of several streams could be of different objects.
ONE_STREAM: dict[str, dict[str, int]] = {
    "s3": {"max_concurrency": 1},
    "gs": {"concurrency": 1},
    "gcs": {"concurrency": 1},
}


class FsspecStore:
    """An address that fsspec can read; see `Store`."""

    def __init__(self, address: Address, seconds: float) -> None:
        """Open it; `seconds` is for how long nothing may come.

        Raises:
            StoreError: the library is missing, or refuses the address or the credentials.
        """
        self._address, self._seconds = address, seconds
        library, extra = LIBRARIES[address.scheme]
        try:
            importlib.import_module(library)
            self._fsspec = importlib.import_module("fsspec")
            self._asyn = importlib.import_module("fsspec.asyn")
        except ImportError as error:
            raise StoreError(
                f"{address}: the package '{error.name}' is not installed: "
                f"pip install 'torchship[{extra}]'"
            ) from None
        logging.getLogger("gcsfs").setLevel(logging.ERROR)  # it warns of each missing credential
        with explained(address):
            self._fs, self._root = outcome(on_own_thread(self._open), seconds)
        self._root = self._root.rstrip("/")

    def _open(self) -> tuple[Any, str]:
        options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
        if self._address.scheme == "s3":
            options["config_kwargs"] = {
                "connect_timeout": self._seconds,
                "read_timeout": self._seconds,
                "retries": {"max_attempts": 1},
            }
        if self._address.scheme == "file":
            options = {"auto_mkdir": True}
        filesystem, root = self._fsspec.core.url_to_fs(self._address.url, **options)
        if self._address.scheme == "s3":
            filesystem.retries = RETRIES
        return filesystem, str(root)

    def _call(
        self, name: str, *arguments: Any, counted: _Counted | None = None, **named: Any
    ) -> Any:
        """Call a function of the filesystem, and give it up when nothing comes any more."""
        future: Future[Any]
        if isinstance(self._fs, self._asyn.AsyncFileSystem):
            function = getattr(self._fs, f"_{name}")
            future = asyncio.run_coroutine_threadsafe(
                _awaited(function, arguments, named), self._fs.loop
            )
        else:
            function = getattr(self._fs, name)
            future = on_own_thread(lambda: function(*arguments, **named))
        if counted is None:
            return outcome(future, self._seconds)
        return outcome(future, self._seconds + counted.slack, lambda: counted.moved)

    def listing(self) -> Mapping[str, RemoteFile]:
        """See `Store.listing`."""
        with explained(self._address):
            self._fs.invalidate_cache()
            if self._address.is_archive:
                folder, _, name = self._root.rpartition("/")
                refuse_name(name)
                names = {name, name + SIGNATURE}
                found = self._in_folder(folder, name)
                return {file.name: file for file in found if file.name in names}
            found = self._below(self._root)
            if len(found) > MOST_OBJECTS:
                raise StoreError(
                    f"there are {len(found)} objects: expected at most {MOST_OBJECTS}; name a "
                    "folder that has archives only"
                )
            return wanted_files(found)

    def find(self, name: str) -> RemoteFile | None:
        """See `Store.find`."""
        folder, _, last = name.rpartition("/")
        root = self._root.rpartition("/")[0] if self._address.is_archive else self._root
        place = f"{root}/{folder}" if folder else root
        with explained(self._address):
            self._fs.invalidate_cache()
            try:
                found = {file.name: file for file in self._in_folder(place, last)}
            except FileNotFoundError:
                return None
        file = found.get(last)
        return file and RemoteFile(name, file.location, file.size, file.tag)

    def _below(self, root: str) -> list[RemoteFile]:
        """Return all files below a folder that a server could read, and perhaps more.

        Raises:
            FileNotFoundError: there is no such folder; other errors of the library.
        """
        if self._address.scheme == "file":
            infos = self._call_walk(root, DEPTH)
        elif self._address.scheme == "hf":
            infos = self._call("find", root, maxdepth=DEPTH, detail=True, refresh=True).values()
        else:
            infos = self._call("find", root, detail=True).values()
        return self._files(root, infos)

    def _in_folder(self, folder: str, name: str) -> list[RemoteFile]:
        """Return the files of a folder whose names begin with `name`, and perhaps others."""
        if self._address.scheme == "file":
            infos = self._call_walk(folder, 1)
        elif self._address.scheme == "hf":
            infos = self._call("ls", folder, detail=True, refresh=True)
        else:
            infos = self._call("find", folder, prefix=name, detail=True).values()
        return self._files(folder, infos)

    def _call_walk(self, folder: str, depth: int) -> list[dict[str, Any]]:
        def walk() -> list[dict[str, Any]]:
            infos: list[dict[str, Any]] = []
            more = {"maxdepth": depth, "detail": True, "on_error": "raise"}
            for _, _, files in self._fs.walk(folder, **more):
                infos += files.values()
                if len(infos) > MOST_OBJECTS:
                    break
            return infos

        return outcome(on_own_thread(walk), self._seconds)

    def _files(self, root: str, infos: Iterable[Mapping[str, Any]]) -> list[RemoteFile]:
        found = []
        for info in infos:
            location = str(info.get("name", ""))
            if info.get("type") == "file" and location.startswith(f"{root}/"):
                size = info.get("size")
                found.append(
                    RemoteFile(
                        location[len(root) + 1 :],
                        location,
                        size if isinstance(size, int) else None,
                        _tag(info),
                    )
                )
        if not found and self._address.scheme in AZURE:
            # This library returns no names if there is no container either.
            self._call("info", root.split("/", 1)[0])
        return found

    def fetch(self, file: RemoteFile, target: Path, most: int, progress: Progress) -> None:
        """See `Store.fetch`."""
        # Azure's library tells of parts of up to 32 MiB, when they have come.
        parts = 32 << 20 if self._address.scheme in AZURE else 0
        counted = _Counted(most, progress, parts)
        more = ONE_STREAM.get(self._address.scheme, {}) | {"callback": _callback(counted)}
        with explained(f"{self._address}: {file.name}"):
            self._call("get_file", file.location, str(target), counted=counted, **more)
            check_size(target, file, most)

    def put(self, source: Path, name: str, progress: Progress) -> None:
        """See `Store.put`."""
        location = self._location(name)
        with explained(f"{self._address}: {name}"):
            if self._address.scheme == "file":
                Path(location).parent.mkdir(parents=True, exist_ok=True)
                write_atomic(Path(location), _counted(read_blocks(source), progress))
                return
            # The libraries tell of parts when they have gone, of which several go at a time.
            counted = _Counted(None, progress, source.stat().st_size)
            more = {"callback": _callback(counted)}
            self._call("put_file", str(source), location, counted=counted, **more)

    def remove(self, name: str) -> None:
        """See `Store.remove`."""
        with explained(f"{self._address}: {name}"):
            self._call("rm_file", self._location(name))

    def _location(self, name: str) -> str:
        root = self._root.rpartition("/")[0] if self._address.is_archive else self._root
        return f"{root}/{name}"


class _Counted:
    """Counts the bytes of one file, and stops it at the most that are allowed."""

    def __init__(self, most: int | None, progress: Progress, unseen: int) -> None:
        """Take the most bytes, whom to tell, and how many may move before one hears of them."""
        self.moved = 0
        self.slack = unseen / SLOWEST
        """Seconds that the library may be silent about bytes that move."""
        self._most, self._progress = most, progress

    def add(self, size: int) -> None:
        self.moved += size
        if self._most is not None and self.moved > self._most:
            raise StoreError(f"it has more than {self._most} bytes")
        self._progress(size)


def _callback(counted: _Counted) -> object:
    """Return what fsspec tells of each block."""
    from fsspec.callbacks import Callback

    class Told(Callback):
        def relative_update(self, inc: int = 1) -> None:
            counted.add(inc)

        def absolute_update(self, value: int) -> None:
            counted.add(value - counted.moved)

    return Told()  # type: ignore[no-untyped-call]


def _counted(blocks: Iterable[bytes], progress: Progress) -> Iterator[bytes]:
    for block in blocks:
        progress(len(block))
        yield block


def _tag(info: Mapping[str, Any]) -> str:
    """Return what changes with an object's content: what is exact, or else times and the size."""
    keys = [key for key in EXACT_TAGS if info.get(key)] or [
        key for key in OTHER_TAGS if info.get(key)
    ]
    found = {key: str(info[key]) for key in keys}
    return json.dumps({**found, "size": info.get("size")}, sort_keys=True) if found else ""


async def _awaited(function: Any, arguments: Any, named: Any) -> Any:
    return await function(*arguments, **named)
