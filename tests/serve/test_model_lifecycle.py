"""Versions are added, changed, refused and removed, in a repository without a server."""

import asyncio
import hashlib
import os
import socket
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import torch

from engine_calls import call_engine
from torchship.script.errors import UsageError
from torchship.script.format.tree import Flat
from torchship.serve.engine.engine import Engine
from torchship.serve.engine.limits import Limits
from torchship.serve.errors import (
    LoadError,
    ModeError,
    NotReadyError,
    OutOfServiceError,
    UnknownModelError,
)
from torchship.serve.process.channel import Channel
from torchship.serve.process.messages import ArchiveLoading, FromWorker, from_worker
from torchship.serve.process.worker_repository import WorkerRepository
from torchship.serve.repository.discovery import find_archives, scan
from torchship.serve.repository.repository import Mode, Repository

MakeArchive = Callable[..., Path]
LIMITS = Limits(max_batch=1)
ROW = {"x": torch.ones(1, 2), "h": torch.zeros(1, 2)}


def wrong(outputs: Flat) -> Flat:
    return {name: value + 1 for name, value in outputs.items()}


def other(outputs: Flat) -> Flat:
    """Agree with the model, and make another archive."""
    return {name: value + 1e-7 for name, value in outputs.items()}


class Lines(list[str]):
    """What a repository reports; `until` waits for a line."""

    def __init__(self) -> None:
        super().__init__()
        self._came = asyncio.Event()

    def __call__(self, line: str) -> None:
        self.append(line)
        self._came.set()

    async def until(self, line: str) -> None:
        while line not in self:
            self._came.clear()
            await self._came.wait()


@pytest.fixture
def place(tmp_path: Path, make_archive: MakeArchive) -> MakeArchive:
    """Return a function that puts an archive where its folders say what it is."""

    def placed(name: str, version: str = "1", where: str = "", **said: object) -> Path:
        file = f"models/{where or f'{name}/{version}'}/model.pt"
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        return make_archive(name, version=version, file=file, **said)

    return placed


def run(
    mode: Mode,
    test: Callable[[Repository, Lines], Awaitable[None]],
    *paths: Path,
    load: tuple[str, ...] = (),
) -> None:
    """Run a test with a loaded repository."""

    async def whole() -> None:
        lines = Lines()
        repository = Repository(paths, (), LIMITS, mode=mode, load=load, report=lines)
        await repository.load()
        try:
            await test(repository, lines)
        finally:
            repository.release()

    asyncio.run(whole())


def states(repository: Repository) -> dict[str, str]:
    return {f"{e.name}/{e.version}": e.state for e in repository.index()}


def reasons(repository: Repository) -> dict[str, str]:
    return {f"{e.name}/{e.version}": e.reason for e in repository.index()}


def test_folders_of_models_and_versions_are_found_beside_flat_files(
    place: MakeArchive, tmp_path: Path
) -> None:
    files = [place("memory", "2"), place("memory", "10"), tmp_path / "models" / "flat.pt"]
    files[-1].touch()
    (tmp_path / "models/.git/1").mkdir(parents=True)
    (tmp_path / "models/.git/1/model.pt").touch()
    found = {file.path: file.key for file in scan([tmp_path / "models"])}
    assert found == {files[0]: ("memory", "2"), files[1]: ("memory", "10"), files[2]: None}
    assert set(find_archives([tmp_path / "models"])) == set(files)


def test_an_empty_folder_is_for_a_repository_that_changes(tmp_path: Path) -> None:
    assert find_archives([tmp_path], empty=True) == []
    for paths in ([], [tmp_path / "gone"]):
        with pytest.raises(UsageError):
            find_archives(paths, empty=True)


def test_an_archive_is_what_its_folders_say(place: MakeArchive, tmp_path: Path) -> None:
    place("memory", "1")
    place("memory", "2", where="memory/3")
    place("half", "1", where="whole/1")

    async def test(repository: Repository, lines: Lines) -> None:
        assert states(repository) == {
            "memory/1": "READY",
            "memory/3": "UNAVAILABLE",
            "whole/1": "UNAVAILABLE",
        }
        assert reasons(repository)["memory/3"] == (
            "the archive is model 'memory' version '2': expected what its folders say, "
            "'memory' version '3'"
        )
        assert repository.versions("memory") == ["1"]
        with pytest.raises(UnknownModelError):
            repository.find("half")

    run("fixed", test, tmp_path / "models")


def test_a_poll_loads_what_is_new_or_changed_and_unloads_what_is_gone(
    place: MakeArchive, tmp_path: Path
) -> None:
    first = place("memory", "1")

    async def test(repository: Repository, lines: Lines) -> None:
        one = repository.find("memory")
        await repository.rescan()
        assert repository.find("memory") is one, "nothing changed"
        place("memory", "2")
        place("half")
        await repository.rescan()
        assert repository.find("memory").manifest.version == "2"
        assert repository.find("memory", "1") is one
        assert repository.find("half").manifest.name == "half"
        place("memory", "1")
        await repository.rescan()
        assert repository.find("memory", "1") is one, "the same bytes"
        place("memory", "1", edit=other)
        await repository.rescan()
        assert repository.find("memory", "1") is not one
        two = repository.find("memory", "2")
        first.unlink()
        await repository.rescan()
        await lines.until("unloaded: memory/1")
        assert repository.find("memory") is two
        with pytest.raises(UnknownModelError, match="version '1' is unknown: it has '2'"):
            repository.find("memory", "1")
        assert states(repository) == {"half/1": "READY", "memory/2": "READY"}
        assert repository.ready

    run("poll", test, tmp_path / "models")


def test_a_version_that_fails_its_golden_cases_never_goes_live(
    place: MakeArchive, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place("memory", "1")

    async def test(repository: Repository, lines: Lines) -> None:
        old = repository.find("memory")
        bad = place("memory", "2", edit=wrong)
        await repository.rescan()
        assert repository.find("memory") is old
        assert states(repository) == {"memory/1": "READY", "memory/2": "UNAVAILABLE"}
        why = reasons(repository)["memory/2"]
        assert why.startswith("golden case 0 ('three steps'), method 'forward', step 0")
        assert lines == [f"failed: {bad}: {why}"]
        assert lines[0] in caplog.text
        assert repository.ready, "what was asked for at the start is still live"
        assert (repository.verified, repository.failed) == (1, 1)
        assert (repository.verified_total, repository.failed_total) == (1, 1)
        with pytest.raises(NotReadyError, match="failed its checks"):
            repository.find("memory", "2")
        await repository.rescan()
        assert len(lines) == 1, "a file is tried once"
        place("memory", "2")
        await repository.rescan()
        assert repository.find("memory").manifest.version == "2"
        assert (repository.verified, repository.failed) == (2, 0)

    run("poll", test, tmp_path / "models")


def test_a_file_damaged_while_live_is_reported_and_what_was_read_serves_on(
    place: MakeArchive, tmp_path: Path
) -> None:
    file = place("memory", "1")

    async def test(repository: Repository, lines: Lines) -> None:
        old = repository.find("memory")
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        await repository.rescan()
        assert repository.find("memory") is old
        assert "y" in await call_engine(old, "forward", ROW)
        assert states(repository) == {"memory/1": "READY"}
        assert reasons(repository)["memory/1"].startswith("'model.pt': not a readable zip")
        assert len(lines) == 1 and str(file) in lines[0]
        assert repository.ready
        file.write_bytes(whole)
        await repository.rescan()
        assert reasons(repository) == {"memory/1": ""}

    run("poll", test, tmp_path / "models")


def test_a_file_that_changes_its_name_or_version_is_one_change(
    make_archive: MakeArchive, tmp_path: Path
) -> None:
    (tmp_path / "flat").mkdir()
    file = make_archive("memory", file="flat/a.pt")

    async def test(repository: Repository, lines: Lines) -> None:
        old = repository.find("memory")
        moved = file.rename(tmp_path / "flat" / "b.pt")
        await repository.rescan()
        assert repository.find("memory") is not old
        make_archive("memory", version="2", file="flat/b.pt")
        await repository.rescan()
        assert repository.versions("memory") == ["2"]
        await lines.until("unloaded: memory/1")
        assert lines == ["live: memory/1", "live: memory/2", "unloaded: memory/1"]
        assert [entry.path for entry in repository.entries] == [moved]

    run("poll", test, tmp_path / "flat")


def test_a_folder_that_vanishes_unloads_nothing(place: MakeArchive, tmp_path: Path) -> None:
    place("memory", "1")

    async def test(repository: Repository, lines: Lines) -> None:
        old = repository.find("memory")
        (tmp_path / "models").rename(tmp_path / "elsewhere")
        await repository.rescan()
        assert repository.find("memory") is old
        (tmp_path / "elsewhere").rename(tmp_path / "models")
        await repository.rescan()
        assert repository.find("memory") is old

    run("poll", test, tmp_path / "models")


def test_a_model_that_failed_at_the_start_makes_the_server_ready_when_it_is_mended(
    place: MakeArchive, tmp_path: Path
) -> None:
    place("memory", "1", edit=wrong)

    async def test(repository: Repository, lines: Lines) -> None:
        assert not repository.ready
        place("memory", "1")
        await repository.rescan()
        assert repository.ready

    run("poll", test, tmp_path / "models")


def test_an_engine_that_is_held_answers_until_it_is_let_go(
    place: MakeArchive, tmp_path: Path
) -> None:
    place("memory", "1")

    async def test(repository: Repository, lines: Lines) -> None:
        with repository.find("memory") as old:
            place("memory", "1", edit=other)
            await repository.load_model("memory")
            assert repository.find("memory") is not old
            await repository.unload_model("memory")
            with pytest.raises(UnknownModelError):
                repository.find("memory")
            assert "y" in await call_engine(old, "forward", ROW)
        await lines.until("unloaded: memory/1")
        # On another thread: the loop has yet to close it.
        assert await asyncio.to_thread(old.join)
        with pytest.raises(NotReadyError):
            await call_engine(old, "forward", ROW)

    run("explicit", test, tmp_path / "models", load=("memory",))


def test_an_engine_that_was_replaced_is_closed_and_freed(
    place: MakeArchive, tmp_path: Path
) -> None:
    place("memory", "1")

    async def test(repository: Repository, lines: Lines) -> None:
        freed = asyncio.Event()
        loop = asyncio.get_running_loop()
        weakref.finalize(
            repository.find("memory"), lambda: loop.call_soon_threadsafe(freed.set)
        ).atexit = False
        place("memory", "1", edit=other)
        await repository.load_model("memory")
        await asyncio.wait_for(freed.wait(), 60)

    run("explicit", test, tmp_path / "models", load=("memory",))


def test_explicit_mode_loads_only_what_is_requested(
    place: MakeArchive, make_archive: MakeArchive, tmp_path: Path
) -> None:
    place("memory", "1")
    place("memory", "2")
    make_archive("half", version="7", file="models/anything.pt")

    async def test(repository: Repository, lines: Lines) -> None:
        assert repository.ready
        assert set(states(repository).values()) == {"UNAVAILABLE"}
        assert set(reasons(repository).values()) == {"not loaded"}
        with pytest.raises(UnknownModelError, match="model 'memory' is not loaded"):
            repository.find("memory")
        await repository.load_model("half")
        assert repository.find("half").manifest.version == "7"
        await repository.load_model("memory")
        assert repository.versions("memory") == ["2", "1"]
        (tmp_path / "models/memory/1/model.pt").unlink()
        await repository.load_model("memory")
        assert repository.versions("memory") == ["2"]
        with pytest.raises(UnknownModelError, match="'chess' is not in the repository"):
            await repository.load_model("chess")
        for _ in range(2):
            await repository.unload_model("memory")
            assert repository.versions("memory") == []
        await repository.unload_model("chess")
        assert states(repository) == {"half/7": "READY", "memory/2": "UNAVAILABLE"}

    run("explicit", test, tmp_path / "models")


def test_a_load_that_fails_says_why_and_the_old_one_goes_on(
    place: MakeArchive, tmp_path: Path
) -> None:
    place("memory", "1")

    async def test(repository: Repository, lines: Lines) -> None:
        assert repository.ready
        old = repository.find("memory")
        file = place("memory", "1", edit=wrong)
        with pytest.raises(LoadError, match=r"step 0.*what was live before stays live") as caught:
            await repository.load_model("memory")
        assert str(tmp_path) not in str(caught.value)
        assert repository.find("memory") is old
        assert repository.ready
        file.unlink()
        with pytest.raises(UnknownModelError):
            await repository.load_model("memory")
        assert repository.find("memory") is old

    run("explicit", test, tmp_path / "models", load=("memory",))


def test_a_model_named_at_the_start_that_is_not_there_is_waited_for(
    place: MakeArchive, tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()

    async def test(repository: Repository, lines: Lines) -> None:
        assert not repository.ready
        assert reasons(repository) == {"memory/": "it is not in the repository"}
        place("half")
        await repository.load_model("half")
        assert not repository.ready
        place("memory", "1", edit=wrong)
        with pytest.raises(LoadError):
            await repository.load_model("memory")
        assert not repository.ready
        place("memory", "1")
        await repository.load_model("memory")
        assert repository.ready

    run("explicit", test, tmp_path / "models", load=("memory",))


@pytest.mark.parametrize("mode", ["fixed", "poll"])
def test_load_and_unload_are_for_explicit_mode(mode: Mode, archives: dict[str, Path]) -> None:
    async def test(repository: Repository, lines: Lines) -> None:
        with pytest.raises(ModeError, match=f"cannot load a model: the server is in {mode} mode"):
            await repository.load_model("memory")
        with pytest.raises(ModeError, match=f"cannot unload a model: the server is in {mode}"):
            await repository.unload_model("memory")
        assert repository.find("memory").manifest.name == "memory"

    run(mode, test, archives["memory"])
    with pytest.raises(UsageError, match="setting 'load' is for explicit mode"):
        Repository([archives["memory"]], mode=mode, load=("memory",))


def test_what_is_being_loaded_is_given_up_when_the_server_ends(
    place: MakeArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place("memory", "1")
    start = Engine.start

    async def test(repository: Repository, lines: Lines) -> None:
        async def interrupted(engine: Engine) -> None:
            repository.halt()
            await start(engine)

        monkeypatch.setattr(Engine, "start", interrupted)
        with pytest.raises(NotReadyError, match="shutting down"):
            await repository.load_model("memory")
        with pytest.raises(NotReadyError, match="shutting down"):
            await repository.load_model("memory")

    run("explicit", test, tmp_path / "models")


def test_a_new_signature_is_a_change(archives: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    os.link(archives["memory"], file)
    before = scan([file])
    assert before == scan([file])
    (tmp_path / "a.pt.sig").write_bytes(b"signature")
    assert before != scan([file])


def test_a_load_from_the_bytes_that_are_live_changes_nothing(
    place: MakeArchive, tmp_path: Path
) -> None:
    file = place("memory", "1")

    async def test(repository: Repository, lines: Lines) -> None:
        live = repository.find("memory")
        os.utime(file, (1, 1))
        for _ in range(2):
            await repository.load_model("memory")
        assert repository.find("memory") is live
        assert repository.verified_total == 1
        await repository.unload_model("memory")
        await repository.unload_model("memory")
        await repository.unload_model("nothing")
        await repository.load_model("memory")
        assert repository.find("memory") is not live

    run("explicit", test, tmp_path / "models", load=("memory",))


@pytest.mark.parametrize("limits", [LIMITS, Limits(max_batch=1, inline_threshold_seconds=10)])
def test_an_engine_out_of_service_gets_no_requests_and_is_not_waited_for(
    place: MakeArchive, tmp_path: Path, limits: Limits
) -> None:
    file = place("slow", "1")
    place("slow", "2")

    async def test(repository: Repository, lines: Lines) -> None:
        sick, well = repository.find("slow", "2"), repository.find("slow", "1")
        endless = {"rounds": torch.tensor(1 << 22)}
        with sick:
            call = asyncio.create_task(call_engine(sick, "forward", endless))
            await asyncio.sleep(0)
            repository.take_out(sick, "a call took longer than 30 s")
            assert repository.find("slow") is well
            with pytest.raises(OutOfServiceError, match="a call took longer than 30 s"):
                repository.find("slow", "2")
            assert states(repository) == {"slow/1": "READY", "slow/2": "UNAVAILABLE"}
            assert reasons(repository)["slow/2"] == "a call took longer than 30 s"
            assert not repository.ready
            assert lines == [f"failed: {repository.entries[1].path}: a call took longer than 30 s"]
            await repository.rescan()
            assert states(repository)["slow/2"] == "UNAVAILABLE", "the file has not changed"
            assert repository.find("slow") is well
            place("slow", "2", edit=other)
            await repository.rescan()
            assert repository.find("slow", "2") is not sick
            assert repository.ready
        with pytest.raises(NotReadyError):
            await call
        repository.take_out(sick, "again")
        assert repository.ready
        assert file.exists()

    run("poll", test, tmp_path / "models")


def test_an_archive_in_quarantine_is_refused_until_it_changes(
    place: MakeArchive, tmp_path: Path
) -> None:
    file = place("memory", "1")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()

    async def test(repository: Repository, lines: Lines) -> None:
        assert not repository.ready
        assert reasons(repository) == {"memory/1": "it ended a worker"}
        os.utime(file, (1, 1))
        await repository.rescan()
        assert reasons(repository) == {"memory/1": "it ended a worker"}
        place("memory", "1", edit=other)
        await repository.rescan()
        assert repository.ready
        live = repository.find("memory")
        repository.quarantine_digest(live.digest, "it ended two")
        assert not repository.ready
        assert reasons(repository) == {"memory/1": "it ended two"}
        with pytest.raises(OutOfServiceError):
            repository.find("memory")

    async def whole() -> None:
        lines = Lines()
        repository = Repository(
            [tmp_path / "models"],
            limits=LIMITS,
            mode="poll",
            quarantine={digest: "it ended a worker"},
            report=lines,
        )
        await repository.load()
        await test(repository, lines)
        repository.release()

    asyncio.run(whole())


def test_an_archive_in_quarantine_is_not_even_checked(place: MakeArchive, tmp_path: Path) -> None:
    """Reading its zip may be what ends the process."""
    file = place("memory", "1")
    file.write_bytes(file.read_bytes()[:-1])
    digest = hashlib.sha256(file.read_bytes()).hexdigest()

    async def whole() -> None:
        quarantine = {digest: "it ended a worker"}
        models = [tmp_path / "models"]
        repository = Repository(models, limits=LIMITS, mode="poll", quarantine=quarantine)
        await repository.load()
        assert reasons(repository) == {"memory/1": "it ended a worker"}
        repository.release()

    asyncio.run(whole())


def test_the_supervisor_knows_an_archive_before_it_is_checked(
    place: MakeArchive, tmp_path: Path
) -> None:
    file = place("memory", "1")
    damaged = file.parent / "2.pt"
    damaged.write_bytes(file.read_bytes()[:-1])

    async def whole() -> list[FromWorker]:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            paths = [file, damaged]
            channel = Channel(ours)
            repository = WorkerRepository(paths, limits=LIMITS, channel=channel, pinned={})
            await repository.load()
            repository.release()
            ours.shutdown(socket.SHUT_WR)
            heard = iter(Channel(theirs).receive, None)
            return [from_worker(message) for message in heard]

    said = [message for message in asyncio.run(whole()) if isinstance(message, ArchiveLoading)]
    for path, names in ((file, ["model", "memory"]), (damaged, ["2"])):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        own = [message for message in said if message.digest == digest]
        assert [message.name for message in own if message.begins] == names
        assert [message.begins for message in own] == [True] * len(names) + [False]


def test_an_explicit_load_overrides_the_quarantine(place: MakeArchive, tmp_path: Path) -> None:
    place("memory", "1")

    async def test(repository: Repository, lines: Lines) -> None:
        repository.quarantine_digest(repository.find("memory").digest, "it ended a worker")
        assert not repository.ready
        await repository.load_model("memory")
        assert repository.ready
        assert reasons(repository) == {"memory/1": ""}

    run("explicit", test, tmp_path / "models", load=("memory",))


@pytest.mark.parametrize("how", ["take out", "quarantine"])
def test_an_engine_whose_proof_does_not_end_can_be_taken_out(
    place: MakeArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    place("memory", "1")
    started: list[Engine] = []

    async def test(repository: Repository, lines: Lines) -> None:
        async def endless(engine: Engine) -> None:
            started.append(engine)
            await asyncio.get_running_loop().create_future()

        monkeypatch.setattr(Engine, "start", endless)
        loading = asyncio.create_task(repository.load_model("memory"))
        while not started:
            await asyncio.sleep(0)
        if how == "take out":
            repository.take_out(started[0], "it took too long")
        else:
            repository.quarantine_digest(started[0].digest, "it took too long")
        with pytest.raises(LoadError, match="it took too long"):
            await loading

    run("explicit", test, tmp_path / "models")
