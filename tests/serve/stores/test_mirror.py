"""A mirror, step by step: when an archive gets into the folder, and when it stays as it is."""

from __future__ import annotations

import errno
import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from disk import Disk, faulty
from torchship.script.format.signing import make_key, read_trusted_keys, sign
from torchship.serve.errors import StoreError
from torchship.serve.stores.addresses import Address, read_address
from torchship.serve.stores.cache import Cache
from torchship.serve.stores.mirror import Mirror
from torchship.serve.stores.opening import open_store
from torchship.serve.stores.store import RemoteFile, Store


def content(text: str) -> bytes:
    """Return a zip: what is no longer being uploaded ends as one."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as file:
        file.writestr("text", text)
    return written.getvalue()


class Counting:
    """A store that counts what is fetched, and can change something just before."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.fetched: list[str] = []
        self.before = lambda: None

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def fetch(self, file: RemoteFile, *arguments: object) -> None:
        self.fetched.append(file.name)
        self._store.fetch(file, *arguments)  # type: ignore[arg-type]
        self.before()


class Place:
    """A folder as a store, its mirror, and the cache."""

    def __init__(self, folder: Path, most: int = 1 << 20) -> None:
        self.there = folder / "there"
        self.there.mkdir()
        self.address: Address = read_address(f"file://{self.there}")
        self.cache = Cache(folder / "cache", most)
        self.store = Counting(open_store(self.address))
        self.mirror = self.new_mirror()

    def new_mirror(self) -> Mirror:
        self.here = self.cache.new_run().folder / "0"
        self.here.mkdir()
        return Mirror(self.address, self.here, self.cache, lambda: self.store)  # type: ignore[arg-type, return-value]

    def files(self) -> dict[str, bytes]:
        return {
            path.relative_to(self.here).as_posix(): path.read_bytes()
            for path in self.here.rglob("*")
            if path.is_file()
        }


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_the_folder_has_the_archives_of_the_store(place: Place) -> None:
    (place.there / "a.pt").write_bytes(content("a"))
    (place.there / "m" / "1").mkdir(parents=True)
    (place.there / "m" / "1" / "model.pt").write_bytes(content("m"))
    (place.there / "notes.txt").write_text("no archive")
    assert place.mirror.sync() == []
    assert place.files() == {"a.pt": content("a"), "m/1/model.pt": content("m")}
    (place.there / "m" / "1" / "model.pt").unlink()
    assert place.mirror.sync() == []
    assert place.files() == {"a.pt": content("a")}
    assert os.listdir(place.here) == ["a.pt"]
    assert place.store.fetched == ["a.pt", "m/1/model.pt"]


def test_another_mirror_takes_from_the_cache(place: Place) -> None:
    (place.there / "a.pt").write_bytes(content("a"))
    place.mirror.sync()
    again = place.new_mirror()
    assert again.sync() == []
    assert place.files() == {"a.pt": content("a")}
    assert place.store.fetched == ["a.pt"]


def test_what_is_half_there_does_not_replace_what_is_whole(place: Place) -> None:
    (place.there / "a.pt").write_bytes(content("first"))
    place.mirror.sync()
    second = content("second")
    (place.there / "a.pt").write_bytes(second[:-10])
    for _ in range(2):
        (problem,) = place.mirror.sync()
        assert "a.pt is not complete yet" in problem
    assert place.files() == {"a.pt": content("first")}
    assert place.store.fetched == ["a.pt", "a.pt"], "the half is fetched once"
    (place.there / "a.pt").write_bytes(second)
    assert place.mirror.sync() == []
    assert place.files() == {"a.pt": second}


def test_what_keeps_changing_is_left_for_later(place: Place) -> None:
    versions = iter(range(100))
    (place.there / "a.pt").write_bytes(content("first"))
    place.mirror.sync()
    place.store.before = lambda: (place.there / "a.pt").write_bytes(content("x" * next(versions)))  # type: ignore[assignment, return-value]
    (place.there / "a.pt").write_bytes(content("second"))
    (problem,) = place.mirror.sync()
    assert "changed while it was fetched" in problem
    assert place.files() == {"a.pt": content("first")}


def test_a_store_that_is_gone_removes_nothing(place: Place) -> None:
    (place.there / "a.pt").write_bytes(content("a"))
    place.mirror.sync()
    place.there.rename(place.there.with_name("elsewhere"))
    with pytest.raises(StoreError, match="it is not there"):
        place.mirror.sync()
    assert place.files() == {"a.pt": content("a")}
    place.there.with_name("elsewhere").rename(place.there)
    assert place.mirror.sync() == []


def test_a_damaged_file_is_fetched_again(place: Place) -> None:
    (place.there / "a.pt").write_bytes(content("a"))
    place.mirror.sync()
    (place.here / "a.pt").write_bytes(b"damaged")  # the cache has the same file
    assert place.mirror.sync() == []
    assert place.files() == {"a.pt": content("a")}
    assert place.store.fetched == ["a.pt", "a.pt"]


def test_a_signed_archive_and_its_signature_come_together(place: Place, tmp_path: Path) -> None:
    make_key(tmp_path / "private.pem", tmp_path / "public.pem")
    place.mirror.keys = read_trusted_keys(tmp_path / "public.pem")
    archive = place.there / "a.pt"
    archive.write_bytes(content("first"))
    first = sign(archive, tmp_path / "private.pem").read_bytes()
    assert place.mirror.sync() == []
    both = {"a.pt": content("first"), "a.pt.sig": first}
    assert place.files() == both
    archive.write_bytes(content("second"))
    (problem,) = place.mirror.sync()
    assert "not complete yet: the signature 'a.pt.sig' fits none" in problem
    (place.there / "a.pt.sig").unlink()
    (problem,) = place.mirror.sync()
    assert "not complete yet: 'a.pt' is not signed" in problem
    assert place.files() == both
    second = sign(archive, tmp_path / "private.pem").read_bytes()
    assert place.mirror.sync() == []
    assert place.files() == {"a.pt": content("second"), "a.pt.sig": second}
    (place.there / "a.pt.sig").write_bytes(bytes(100))
    (problem,) = place.mirror.sync()
    assert "a.pt.sig: it has 100 bytes: expected at most 64" in problem


def test_a_cache_without_room_keeps_what_it_has(tmp_path: Path) -> None:
    place = Place(tmp_path, most=400)
    (place.there / "a.pt").write_bytes(content("a"))
    assert place.mirror.sync() == []
    (place.there / "a.pt").write_bytes(content("b" * 400))
    (problem,) = place.mirror.sync()
    assert "has no room for" in problem and "--store-cache-bytes" in problem
    assert place.files() == {"a.pt": content("a")}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    (tmp_path / "said").mkdir()
    with faulty(tmp_path / "said") as disk:
        yield disk


def test_a_full_disk_keeps_what_there_is(place: Place, disk: Disk) -> None:
    (place.there / "a.pt").write_bytes(content("a"))
    place.mirror.sync()
    fetched = place.here.parent / "0.tmp" / "fetched"
    disk.refuse(fetched, errno.ENOSPC)
    (place.there / "a.pt").write_bytes(content("second"))
    (problem,) = place.mirror.sync()
    assert "cannot write to the cache" in problem and "No space left on device" in problem
    assert place.files() == {"a.pt": content("a")}
    disk.mend(fetched)
    assert place.mirror.sync() == []
    assert place.files() == {"a.pt": content("second")}
