"""Faults in the folder of models: live models stay live, and others continue to load."""

import asyncio
import errno
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest

from disk import Disk, faulty
from torchship.script.format.signing import signature_path
from torchship.script.format.tree import Flat
from torchship.serve.engine.limits import Limits
from torchship.serve.errors import LoadError, NotReadyError, UnknownModelError
from torchship.serve.repository.repository import Mode, Repository

MakeArchive = Callable[..., Path]
Launch = Callable[..., Any]

PASSING = (errno.EACCES, errno.EIO, errno.EMFILE, errno.ENOMEM, errno.ESTALE)


@pytest.fixture
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    with faulty(tmp_path_factory.mktemp("disk")) as disk:
        yield disk


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture
def put(make_archive: MakeArchive, folder: Path) -> MakeArchive:
    """Return what makes an archive elsewhere, and renames it into the folder of models."""

    def made(name: str, to: str = "", **said: object) -> Path:
        file = folder / (to or f"{name}.pt")
        file.parent.mkdir(parents=True, exist_ok=True)
        return make_archive(name, **said).rename(file)

    return made


def differing(outputs: Flat) -> Flat:
    """Agree with the model, and make an archive of other bytes."""
    return {name: value + 1e-7 for name, value in outputs.items()}


def run(
    test: Callable[[Repository, list[str]], Awaitable[None]],
    *paths: Path,
    mode: Mode = "poll",
    **said: Any,
) -> None:
    """Run a test with a loaded repository, and the lines that it reports."""

    async def whole() -> None:
        lines: list[str] = []
        repository = Repository(
            paths, (), Limits(max_batch=1), mode=mode, report=lines.append, **said
        )
        await asyncio.wait_for(repository.load(), 60)
        try:
            await asyncio.wait_for(test(repository, lines), 120)
        finally:
            repository.release()
            repository.join(60)

    asyncio.run(whole())


def poll(**said: object) -> dict[str, str]:
    names = {f"TORCHSHIP_SERVE_{name.upper()}": str(value) for name, value in said.items()}
    settings = {"MODE": "poll", "POLL_SECONDS": "0.05", "MAX_BATCH": "1"}
    return os.environ | {f"TORCHSHIP_SERVE_{n}": value for n, value in settings.items()} | names


def get(server: Any, path: str) -> httpx.Response:
    return httpx.get(server.url + path, trust_env=False, timeout=60)


def index(server: Any) -> dict[str, dict[str, str]]:
    answer = httpx.post(f"{server.url}/v2/repository/index", trust_env=False, timeout=60)
    return {row["name"]: row for row in answer.json()}


def ended(server: Any) -> None:
    """End a server as its operator does; nothing that its disk does may keep it."""
    server.popen.send_signal(signal.SIGTERM)
    assert server.popen.wait(60) == 0
    assert "Traceback" not in server.stderr()


# ---------------------------------------------------------------- a folder that cannot be listed


@pytest.mark.parametrize("error", PASSING)
@pytest.mark.parametrize("which", ["", "memory"])
def test_a_folder_that_cannot_be_listed_unloads_nothing(
    put: MakeArchive, folder: Path, disk: Disk, which: str, error: int
) -> None:
    put("memory", "memory/1/model.pt")
    put("tiny")

    async def test(repository: Repository, lines: list[str]) -> None:
        engines = [repository.find("memory"), repository.find("tiny")]
        disk.refuse(folder / which, error)
        for _ in range(3):
            await repository.rescan()
        assert disk.told()
        assert [repository.find("memory"), repository.find("tiny")] == engines
        assert repository.ready
        disk.mend(folder / which)
        await repository.rescan()
        assert [repository.find("memory"), repository.find("tiny")] == engines
        (folder / "memory/1/model.pt").unlink()
        await repository.rescan()
        with pytest.raises(UnknownModelError):
            repository.find("memory")
        assert not [line for line in lines if "failed" in line]

    run(test, folder)


def test_a_file_is_gone_when_a_listing_says_so(put: MakeArchive, folder: Path, disk: Disk) -> None:
    file = put("memory", "memory/1/model.pt")

    async def test(repository: Repository, lines: list[str]) -> None:
        disk.refuse(file.parent, errno.EACCES)
        file.unlink()
        for _ in range(3):
            await repository.rescan()
        assert disk.told() == 3
        assert repository.find("memory")
        disk.mend(file.parent)
        await repository.rescan()
        with pytest.raises(UnknownModelError):
            repository.find("memory")

    run(test, folder)


def test_a_folder_that_is_removed_whole_takes_its_models_with_it(
    put: MakeArchive, folder: Path
) -> None:
    file = put("memory", "memory/1/model.pt")
    put("tiny")

    async def test(repository: Repository, lines: list[str]) -> None:
        file.unlink()
        file.parent.rmdir()
        file.parent.parent.rmdir()
        await repository.rescan()
        with pytest.raises(UnknownModelError):
            repository.find("memory")
        assert repository.find("tiny")

    run(test, folder)


@pytest.mark.parametrize("below", ["", "memory"])
def test_a_mount_that_is_away_is_an_empty_folder_of_another_file_system(
    put: MakeArchive, folder: Path, tmp_path: Path, below: str
) -> None:
    """A link stands for the mount: it leads to the disk, and then to what is below the mount."""
    put("memory", "memory/1/model.pt")
    mount = tmp_path / "mount" / below if below else tmp_path / "mount"
    mount.parent.mkdir(exist_ok=True)
    mount.symlink_to(folder / below)

    async def test(repository: Repository, lines: list[str]) -> None:
        engine = repository.find("memory")
        with TemporaryDirectory(dir="/dev/shm") as empty:
            mount.unlink()
            mount.symlink_to(empty)
            await repository.rescan()
            assert repository.find("memory") is engine
        mount.unlink()
        await repository.rescan()
        if not below:  # without a folder, nothing is certain
            assert repository.find("memory") is engine
        mount.symlink_to(folder / below)
        await repository.rescan()
        assert repository.find("memory") is engine or below
        (folder / "memory/1/model.pt").unlink()
        await repository.rescan()
        with pytest.raises(UnknownModelError):
            repository.find("memory")

    run(test, tmp_path / "mount")


def test_a_server_whose_folder_cannot_be_listed_goes_on(
    put: MakeArchive, folder: Path, disk: Disk, launch: Launch
) -> None:
    put("memory")
    with launch(folder, environment=poll() | disk.environment) as server:
        assert server.line() == "ready: memory/1"
        disk.refuse(folder, errno.EIO)
        for _ in range(3):
            disk.wait()
        assert get(server, "/v2/models/memory/ready").status_code == 200
        assert get(server, "/v2/health/ready").status_code == 200
        disk.mend(folder)
        put("tiny")
        assert server.line() == "live: tiny/1"
        problem = "Input/output error: what is live from there stays live"
        assert problem in server.stderr(problem)
        ended(server)


# ------------------------------------------------------------------- a file that cannot be read


@pytest.mark.parametrize("error", PASSING)
def test_a_file_that_could_not_be_read_is_tried_again(
    put: MakeArchive, folder: Path, disk: Disk, error: int
) -> None:
    file = put("memory")
    disk.refuse(file, error)

    async def test(repository: Repository, lines: list[str]) -> None:
        assert not repository.ready
        assert repository.index()[0].reason == f"cannot read 'memory.pt': {os.strerror(error)}"
        disk.told()
        for _ in range(40):
            await repository.rescan()
        assert 3 < disk.told() < 12, "more and more seldom"
        assert lines == [], "it was told once, at the start"
        disk.mend(file)
        while not repository.ready:
            await repository.rescan()
        old = repository.find("memory")
        put("memory", edit=differing)
        disk.refuse(file, error)
        await repository.rescan()
        assert repository.find("memory") is old
        assert repository.ready
        disk.mend(file)
        await repository.rescan()
        assert repository.find("memory") is not old
        assert repository.failed == 0

    run(test, folder)


def test_a_signature_that_could_not_be_read_is_tried_again(
    put: MakeArchive, folder: Path, disk: Disk, tmp_path: Path
) -> None:
    from torchship.script.format.signing import make_key, read_trusted_keys, sign

    file = put("memory")
    make_key(tmp_path / "key", tmp_path / "key.pub")
    sign(file, tmp_path / "key")
    disk.refuse(signature_path(file), errno.EIO)

    async def whole() -> None:
        keys = read_trusted_keys(tmp_path / "key.pub")
        repository = Repository([folder], keys, Limits(max_batch=1), mode="poll")
        await repository.load()
        assert not repository.ready
        disk.mend(signature_path(file))
        await repository.rescan()
        assert repository.ready
        repository.release()

    asyncio.run(whole())


def test_a_file_whose_name_could_not_be_learned_can_be_loaded_later(
    put: MakeArchive, folder: Path, disk: Disk
) -> None:
    file = put("memory", "a.pt")
    disk.refuse(file, errno.EACCES)

    async def test(repository: Repository, lines: list[str]) -> None:
        with pytest.raises(UnknownModelError):
            await repository.load_model("memory")
        disk.mend(file)
        await repository.load_model("memory")
        assert repository.find("memory")

    run(test, folder, mode="explicit")


# ---------------------------------------------------------------------- two files of one model


def test_the_second_file_of_a_model_is_taken_when_the_first_goes(
    put: MakeArchive, folder: Path
) -> None:
    first, second = put("memory", "a.pt"), put("memory", "b.pt", edit=differing)

    async def test(repository: Repository, lines: list[str]) -> None:
        old = repository.find("memory")
        for _ in range(3):
            await repository.rescan()
        assert lines == []
        first.unlink()
        await repository.rescan()
        assert repository.find("memory") is not old
        assert [entry.path for entry in repository.entries] == [second]
        assert repository.failed == 0
        assert lines == ["live: memory/1"], "the model was there all along"

    run(test, folder)


def test_the_second_file_of_a_model_is_taken_when_the_first_becomes_another(
    put: MakeArchive, folder: Path
) -> None:
    put("memory", "a.pt")
    put("memory", "b.pt", edit=differing)

    async def test(repository: Repository, lines: list[str]) -> None:
        put("memory", "a.pt", version="2")
        for _ in range(2):
            await repository.rescan()
        assert repository.versions("memory") == ["2", "1"]
        assert repository.failed == 0

    run(test, folder)


def test_the_second_file_of_a_model_can_be_loaded_when_the_first_is_gone(
    put: MakeArchive, folder: Path
) -> None:
    first, second = put("memory", "a.pt"), put("memory", "b.pt", edit=differing)

    async def test(repository: Repository, lines: list[str]) -> None:
        with pytest.raises(LoadError, match=r"is in 'a\.pt' already"):
            await repository.load_model("memory")
        old = repository.find("memory")
        first.unlink()
        await repository.load_model("memory")
        assert repository.find("memory") is not old
        assert [entry.path for entry in repository.entries] == [second]

    run(test, folder, mode="explicit")


def test_of_two_files_of_a_model_the_first_is_live_whichever_is_read_sooner(
    put: MakeArchive, folder: Path, disk: Disk
) -> None:
    first, second = put("memory", "a.pt"), put("memory", "b.pt", edit=differing)
    disk.stall(first)

    async def whole() -> None:
        live = asyncio.Event()

        def observer(name: str, version: str) -> Any:
            live.set()
            return lambda report: None

        repository = Repository([folder], (), Limits(max_batch=1), observer=observer)
        loading = asyncio.create_task(repository.load())
        await asyncio.wait_for(live.wait(), 60)
        disk.mend(first)
        await asyncio.wait_for(loading, 60)
        assert {e.path: e.state for e in repository.entries} == {first: "live", second: "failed"}
        assert repository.find("memory") is repository.entries[0].engine
        repository.release()
        repository.join(60)

    asyncio.run(whole())


# --------------------------------------------------------------------- what is no regular file


def bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(os.fspath(path))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (os.mkfifo, "is a FIFO: expected a regular file"),
        (Path.mkdir, "is a directory: expected a regular file"),
        (bound, "is a socket: expected a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "is a character device: expected a regular"),
        (lambda path: path.symlink_to("nowhere"), "No such file or directory"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    ],
)
@pytest.mark.parametrize("mode", ["poll", "explicit"])
def test_an_irregular_file_is_named_and_does_not_block_others(
    put: MakeArchive,
    folder: Path,
    launch: Launch,
    make: Callable[[Path], object],
    reason: str,
    mode: str,
) -> None:
    put("memory")
    make(folder / "a.pt")
    environment = poll(mode=mode) | (
        {"TORCHSHIP_SERVE_LOAD": '["memory"]'} if mode != "poll" else {}
    )
    with launch(folder, environment=environment) as server:
        if mode == "poll":
            line = server.line()
            assert line.startswith(f"failed: {folder / 'a.pt'}: ")
            assert reason in line
            assert reason in index(server)["a"]["reason"]
            assert str(folder) not in index(server)["a"]["reason"]
        else:
            assert server.line() == "ready: memory/1"
        assert get(server, "/v2/models/memory/ready").status_code == 200
        ended(server)


def test_a_fifo_in_the_place_of_a_live_file_changes_nothing(
    put: MakeArchive, folder: Path, launch: Launch, tmp_path: Path
) -> None:
    file = put("memory")
    with launch(folder, environment=poll()) as server:
        assert server.line() == "ready: memory/1"
        os.mkfifo(tmp_path / "fifo")
        os.rename(tmp_path / "fifo", file)
        assert "is a FIFO" in server.line()
        assert get(server, "/v2/models/memory/ready").status_code == 200
        put("memory", edit=differing)
        assert server.line() == "live: memory/1"
        ended(server)


def test_a_directory_that_looks_like_a_file_may_be_a_model(put: MakeArchive, folder: Path) -> None:
    put("memory", "memory.pt/1/model.pt")

    async def test(repository: Repository, lines: list[str]) -> None:
        (entry,) = repository.entries
        assert entry.found.key == ("memory.pt", "1")

    run(test, folder)


@pytest.mark.parametrize("name", ["two\nlines", "\udcff", "\x1b[31m"])
def test_a_file_with_any_name_is_reported_on_one_line(
    put: MakeArchive, folder: Path, launch: Launch, name: str
) -> None:
    put("memory")
    (folder / f"{name}.pt").write_bytes(b"no archive")
    with launch(folder, environment=poll()) as server:
        line = server.line()
        assert line.startswith(f"failed: {folder}/") and line.isprintable()
        assert get(server, "/v2/models/memory/ready").status_code == 200
        assert {row["state"] for row in index(server).values()} == {"READY", "UNAVAILABLE"}
        put("tiny")
        assert server.line() == "live: tiny/1"
        ended(server)


# ------------------------------------------------------------------- a disk that does not answer


@pytest.mark.parametrize("signed", [False, True])
def test_files_that_the_disk_does_not_give_keep_neither_the_others_nor_the_end(
    put: MakeArchive, folder: Path, disk: Disk, launch: Launch, tmp_path: Path, signed: bool
) -> None:
    from torchship.script.format.signing import make_key, sign

    stuck = [put("half"), put("logarithm"), put("exact")]
    files = [*stuck, put("memory")]
    make_key(tmp_path / "key", tmp_path / "key.pub")
    for file in files:
        sign(file, tmp_path / "key")
    for file in stuck:
        disk.stall(signature_path(file) if signed else file)
    keys = {"TORCHSHIP_SERVE_TRUSTED_KEYS": str(tmp_path / "key.pub")} if signed else {}
    with launch(folder, environment=poll() | disk.environment | keys) as server:
        waiting = sorted(server.line() for _ in stuck)
        assert waiting == sorted(
            f"waiting: {file}: the disk does not answer: '{file.name}' is being read"
            for file in stuck
        )
        assert get(server, "/v2/health/ready").status_code == 503
        assert get(server, "/v2/models/memory/ready").status_code == 200
        rows = index(server)
        assert {name: row["state"] for name, row in rows.items()} == {
            "half": "LOADING",
            "logarithm": "LOADING",
            "exact": "LOADING",
            "memory": "READY",
        }
        assert rows["half"]["reason"] == "the disk does not answer: 'half.pt' is being read"
        new = put("tiny", "new/tiny.pt").rename(folder / "tiny.pt")
        if signed:
            sign(new, tmp_path / "key")
        while not (line := server.line()).startswith("live"):
            assert "is not signed" in line
        assert line == "live: tiny/1"
        disk.mend(signature_path(stuck[0]) if signed else stuck[0])
        assert server.line() == "live: half/1"
        ended(server)


def test_a_folder_that_the_disk_does_not_list_keeps_no_other(
    put: MakeArchive, folder: Path, disk: Disk, make_archive: MakeArchive, tmp_path: Path
) -> None:
    put("memory")
    (tmp_path / "more").mkdir()

    async def test(repository: Repository, lines: list[str]) -> None:
        disk.stall(folder)
        make_archive("tiny", file="more/tiny.pt")
        await repository.rescan()
        assert repository.find("tiny")
        assert repository.find("memory")
        disk.mend(folder)
        (folder / "memory.pt").unlink()
        for _ in range(2):  # the first ends the look that was under way
            await repository.rescan()
        with pytest.raises(UnknownModelError):
            repository.find("memory")

    run(test, folder, tmp_path / "more")


def test_a_model_whose_disk_does_not_answer_is_not_waited_for_without_end(
    put: MakeArchive, folder: Path, disk: Disk
) -> None:
    file = put("memory", "memory/1/model.pt")

    async def test(repository: Repository, lines: list[str]) -> None:
        disk.stall(file)
        for _ in range(2):
            with pytest.raises(NotReadyError, match=r"the disk does not answer: 'model\.pt' is"):
                await repository.load_model("memory")
        assert disk.told() == 1, "one thread waits"
        await repository.unload_model("memory")
        assert repository.index()[0].reason == "not loaded"
        disk.mend(file)
        await repository.load_model("memory")
        assert repository.find("memory")

    run(test, folder, mode="explicit")


# --------------------------------------------------------------- loads that are under way together


def test_a_small_model_does_not_wait_for_a_large_one(
    put: MakeArchive, folder: Path, disk: Disk
) -> None:
    large, _ = put("wide", "wide/1/model.pt"), put("memory", "memory/1/model.pt")

    async def test(repository: Repository, lines: list[str]) -> None:
        disk.stall(large)
        loading = asyncio.create_task(repository.load_model("wide"))
        await asyncio.to_thread(disk.wait)
        await repository.load_model("memory")
        assert not loading.done()
        assert repository.find("memory")
        await repository.unload_model("memory")
        disk.mend(large)
        await loading
        assert lines[:2] == ["live: memory/1", "unloaded: memory/1"]
        assert repository.find("wide")

    run(test, folder, mode="explicit")


def test_a_new_small_model_does_not_wait_for_the_look_that_found_a_large_one(
    put: MakeArchive, folder: Path, disk: Disk, launch: Launch
) -> None:
    with launch(folder, environment=poll() | disk.environment) as server:
        assert server.line() == "ready: "
        disk.stall(folder / "wide.pt")
        large = put("wide")
        disk.wait()
        put("memory")
        assert server.line() == "live: memory/1"
        disk.mend(large)
        assert server.line() == "live: wide/1"
        ended(server)


@pytest.mark.parametrize("loads", [1, 2, 3])
def test_small_files_go_first_and_no_more_than_so_many_are_read_at_once(
    put: MakeArchive, folder: Path, disk: Disk, loads: int
) -> None:
    files = [put(name) for name in ("wide", "tiny", "memory", "half")]
    files.sort(key=lambda file: file.stat().st_size)
    for file in files:
        disk.stall(file)

    async def whole() -> None:
        order: list[str] = []

        def observer(name: str, version: str) -> Any:
            order.append(name)
            return lambda report: None

        repository = Repository([folder], (), Limits(max_batch=1), loads=loads, observer=observer)
        loading = asyncio.create_task(repository.load())
        for number, file in enumerate(files):
            for _ in range(loads if number == 0 else number + loads <= len(files)):
                await asyncio.to_thread(disk.wait)
            assert disk.told() == 0
            disk.mend(file)
            if loads == 1:
                continue
            while file.stem not in order:
                await asyncio.sleep(0)
        await loading
        assert order == [file.stem for file in files]
        assert repository.ready
        repository.release()
        repository.join(60)

    asyncio.run(asyncio.wait_for(whole(), 120))
