"""The cache: shared, bounded, and never believed without its digest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from torchship.script.errors import UsageError
from torchship.serve.errors import StoreError
from torchship.serve.stores.cache import Cache, digest_of


def add(cache: Cache, data: bytes) -> str:
    file = cache.folder / "fetched"
    file.write_bytes(data)
    return cache.add(file)


def test_a_content_has_its_digest_as_name(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    digest = add(cache, b"content")
    assert digest_of(cache.content(digest)) == digest
    cache.remember("object with a tag", digest)
    assert Cache(tmp_path, 1000).known("object with a tag") == digest
    assert cache.known("another object") is None
    for path in (cache.folder / "known").iterdir():
        path.write_bytes(b"\xff../../etc")
    assert cache.known("object with a tag") is None


def test_what_is_in_use_is_not_evicted(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 25)
    run = cache.new_run()
    digests = [add(cache, bytes([number]) * 10) for number in range(2)]
    cache.link(digests[0], run.folder / "used.pt")
    os.utime(cache.content(digests[0]), (0, 0))
    cache.make_room(10)
    assert [cache.content(digest).exists() for digest in digests] == [True, False]
    with pytest.raises(StoreError, match="no room for 20 more bytes"):
        cache.make_room(20)
    run.close()
    cache.make_room(20)
    assert not cache.content(digests[0]).exists()


def test_the_one_that_was_used_last_is_evicted_last(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 20)
    run = cache.new_run()
    digests = [add(cache, bytes([number]) * 10) for number in range(2)]
    for number, digest in enumerate(digests):
        os.utime(cache.content(digest), ns=(number, 0))
    cache.link(digests[0], run.folder / "a.pt")
    (run.folder / "a.pt").unlink()
    cache.make_room(10)
    assert [cache.content(digest).exists() for digest in digests] == [True, False]


def test_a_link_replaces_another_file_or_itself(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    run = cache.new_run()
    target = run.folder / "folder" / "a.pt"
    for data in (b"first", b"second", b"second"):
        cache.link(add(cache, data), target)
        assert target.read_bytes() == data
    assert os.listdir(target.parent) == ["a.pt"]


def test_the_folder_of_a_process_that_ended_is_removed_and_no_other(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    own = cache.new_run()
    program = (
        "import os, sys; from pathlib import Path; from torchship.serve.stores.cache import Cache\n"
        "run = Cache(Path(sys.argv[1]), 1000).new_run(); print(run.folder, flush=True); os._exit(0)"
    )
    left = subprocess.check_output([sys.executable, "-c", program, tmp_path], text=True).strip()
    assert Path(left).is_dir()
    another = cache.new_run()
    assert not Path(left).exists()
    assert own.folder.is_dir() and another.folder.is_dir()


def test_a_cache_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    Cache(tmp_path, 1000).folder.chmod(0o777)
    with pytest.raises(UsageError, match="can be written by others"):
        Cache(tmp_path, 1000)


def test_a_cache_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"Not a directory; --store-cache names another"):
        Cache(tmp_path / "file", 1000)
