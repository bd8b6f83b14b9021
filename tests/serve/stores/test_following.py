"""A real server follows a real S3: what it loads and unloads, and what it keeps."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from object_store import BUCKET, Environ, ObjectStore
from served import Process, make
from stored import ADDRESS, POLL, archive_bytes, is_live


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the local folder that the server has beside the store."""
    return tmp_path_factory.mktemp("local")


@pytest.fixture(autouse=True)
def healed(running: ObjectStore) -> Iterator[None]:
    """Take back the faults of a test that failed, so that the next one does not wait for them."""
    yield
    running.heal()


@pytest.fixture(scope="module")
def server(
    running: ObjectStore, launch: Any, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Process]:
    running.clear()
    running.put("models/memory.pt", archive_bytes(folder, 0))
    running.put("models/readme.txt", b"no archive")
    running.put("models/../escaped.pt", b"no archive")
    make(folder, "half")
    cache = tmp_path_factory.mktemp("cache")
    said = (*POLL, "--store-cache", cache, "--store-seconds", 1)
    with launch(*said, ADDRESS, folder, environment=running.environment) as server:
        assert server.line() == "ready: memory/1, half/1"
        yield server


def test_what_has_not_changed_is_not_downloaded_again(
    server: Process, running: ObjectStore, folder: Path
) -> None:
    running.asked.clear()
    running.wait_for_listings()
    running.put("models/memory.pt", running.get("models/memory.pt"))
    running.wait_for_listings()
    assert running.downloads() == []
    running.put("models/memory.pt", archive_bytes(folder, 1))
    assert server.line() == "live: memory/1"
    assert running.downloads() == [f"GET /{BUCKET}/models/memory.pt"]


def test_a_half_uploaded_archive_is_never_served(
    server: Process, running: ObjectStore, folder: Path
) -> None:
    whole = archive_bytes(folder, 2)
    running.put("models/memory.pt", whole[: len(whole) // 2])
    assert "memory.pt is not complete yet" in server.stderr("memory.pt is not complete yet")
    assert is_live(server)
    running.client.create_multipart_upload(Bucket=BUCKET, Key="models/other.pt")
    running.wait_for_listings()
    running.put("models/memory.pt", whole)
    assert server.line() == "live: memory/1"


def test_an_object_that_changes_while_it_is_read_is_read_again(
    server: Process, running: ObjectStore, folder: Path
) -> None:
    first, second = archive_bytes(folder, 3), archive_bytes(folder, 4)
    assert first != second
    replaced: list[bool] = []

    def replace(environ: Environ) -> str:
        if environ["LINE"] == f"GET /{BUCKET}/models/memory.pt" and not replaced:
            replaced.append(True)
            running.put("models/memory.pt", second)
            return "cut"
        return ""

    running.fault = replace
    running.put("models/memory.pt", first)
    assert server.line() == "live: memory/1"
    assert replaced
    running.heal()
    running.wait_for_listings()
    assert is_live(server)


def test_a_store_that_fails_unloads_nothing_and_is_reported_once(
    server: Process, running: ObjectStore
) -> None:
    running.fault = lambda environ: "503 Service Unavailable"
    said = server.stderr("Service Unavailable")
    assert "what is live from there stays live" in said
    running.wait_for_listings(2)
    assert is_live(server)
    running.heal()
    assert server.stderr("it answers again").count("Service Unavailable") == 1


def test_a_store_that_hangs_holds_up_neither_local_folders_nor_the_shutdown(
    server: Process, running: ObjectStore, folder: Path
) -> None:
    running.hold(lambda environ: "hold")
    assert running.held.wait(60)
    make(folder, "half", "2")
    assert server.line() == "live: half/2"
    assert "nothing came for 1 s" in server.stderr("nothing came for 1 s")
    assert is_live(server)
    running.heal()


def test_the_process_that_fetches_is_replaced_when_it_dies(
    server: Process, running: ObjectStore, folder: Path
) -> None:
    below = server.below()
    (fetcher,) = [process for process in below if process.name() == "torchship-m"]
    os.kill(fetcher.pid, signal.SIGKILL)
    assert "starting another" in server.stderr("starting another")
    running.asked.clear()
    running.put("models/new.pt", archive_bytes(folder, 0, version="2"))
    assert server.line() == "live: memory/2"
    assert running.downloads() == [f"GET /{BUCKET}/models/new.pt"], "the cache has the rest"


def test_a_removed_archive_is_unloaded(server: Process, running: ObjectStore) -> None:
    assert is_live(server)
    running.delete("models/memory.pt")
    running.delete("models/new.pt")
    lines = {server.line(), server.line()}
    assert lines == {"unloaded: memory/1", "unloaded: memory/2"}
