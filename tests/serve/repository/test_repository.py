import asyncio
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from torchship.script.errors import UsageError
from torchship.script.format.tree import Flat
from torchship.serve.errors import NotReadyError, UnknownModelError
from torchship.serve.repository.catalogue import IndexEntry
from torchship.serve.repository.discovery import find_archives, version_order
from torchship.serve.repository.repository import Repository

MakeArchive = Callable[..., Path]


def wrong(outputs: Flat) -> Flat:
    return {name: value + 1 for name, value in outputs.items()}


def loaded(*files: Path) -> Repository:
    repository = Repository(files)
    asyncio.run(repository.load())
    repository.release()
    return repository


def test_a_folder_gives_its_archives_in_order(tmp_path: Path) -> None:
    for name in ("b.pt", "a.pt", "a.pt.sig", "notes.txt"):
        (tmp_path / name).touch()
    assert find_archives([tmp_path]) == [tmp_path / "a.pt", tmp_path / "b.pt"]


def test_a_file_is_served_once_however_often_it_is_named(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    file.touch()
    assert find_archives([file, tmp_path, file]) == [file]


def test_nothing_to_serve_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is not there"):
        find_archives([tmp_path / "missing.pt"])
    for paths in ([], [tmp_path]):
        with pytest.raises(UsageError, match="no archives to serve"):
            find_archives(paths)


def test_versions_are_ordered_as_numbers() -> None:
    versions = ["10", "9", "1.10", "1.9", "2-rc1", "2", "beta", "1.9.1"]
    assert sorted(versions, key=version_order) == [
        "beta",
        "1.9",
        "1.9.1",
        "1.10",
        "2",
        "2-rc1",
        "9",
        "10",
    ]


def test_the_newest_live_version_answers(make_archive: MakeArchive) -> None:
    files = [make_archive("memory", version=version) for version in ("9", "10")]
    repository = loaded(*files, make_archive("memory", version="11", edit=wrong))
    assert repository.find("memory").manifest.version == "10"
    assert repository.find("memory", "9").manifest.version == "9"
    assert repository.versions("memory") == ["10", "9"]
    assert not repository.ready


def test_all_live_is_ready_until_closed(archives: dict[str, Path]) -> None:
    repository = Repository([archives["memory"], archives["half"]])
    assert not repository.ready
    asyncio.run(repository.load())
    assert repository.ready
    repository.close()
    assert not repository.ready
    repository.release()


def test_the_same_name_and_version_twice_is_an_error(make_archive: MakeArchive) -> None:
    files = [make_archive("memory", file=f"{name}.pt") for name in "ab"]
    repository = loaded(*files)
    assert [entry.state for entry in repository.entries] == ["live", "failed"]
    assert repository.entries[1].reason == "model 'memory' version '1' is in 'a.pt' already"


def test_a_failed_archive_does_not_stand_in_the_way_of_a_good_one(
    make_archive: MakeArchive,
) -> None:
    bad = make_archive("memory", file="bad.pt", edit=wrong)
    good = make_archive("memory", file="good.pt")
    repository = loaded(bad, good)
    assert [entry.state for entry in repository.entries] == ["failed", "live"]
    assert repository.find("memory").manifest.name == "memory"


def test_a_failed_archive_is_listed_with_its_reason(
    make_archive: MakeArchive, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"no archive")
    repository = loaded(broken, make_archive("half", edit=wrong), make_archive("memory"))
    assert [entry.state for entry in repository.entries] == ["failed", "failed", "live"]
    assert "'broken.pt': not a readable zip" in repository.entries[0].reason
    assert "output 'double'" in repository.entries[1].reason
    with pytest.raises(NotReadyError, match="'half' is not ready: it failed its checks"):
        repository.find("half")
    with pytest.raises(NotReadyError, match="'half' version '1' is not ready"):
        repository.find("half", "1")
    assert repository.find("memory").manifest.name == "memory"


def test_an_unforeseen_failure_is_a_failed_archive(
    archives: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object) -> None:
        raise MemoryError("no room\nat all")

    monkeypatch.setattr("torchship.serve.repository.loading.check_content", explode)
    assert loaded(archives["tiny"]).entries[0].reason == "MemoryError: no room at all"


def test_the_index_keeps_folders_and_faults_to_the_log(
    make_archive: MakeArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, missing = make_archive("memory"), tmp_path / "missing.pt"
    repository = Repository([memory, missing])
    before = [(entry.name, entry.version, entry.state) for entry in repository.index()]
    assert before == [("memory-1", "", "LOADING"), ("missing", "", "LOADING")]
    asyncio.run(repository.load())
    assert repository.index() == [
        IndexEntry("memory", "1", "READY", "", sha256(memory.read_bytes()).hexdigest()),
        IndexEntry(
            "missing", "", "UNAVAILABLE", "cannot read 'missing.pt': No such file or directory"
        ),
    ]
    repository.release()

    def explode(*_: object) -> None:
        raise OSError("secret in /srv/models")

    monkeypatch.setattr("torchship.serve.repository.loading.read_content", explode)
    repository = loaded(missing)
    assert "secret" in repository.entries[0].reason
    assert repository.index()[0].reason == "internal error while loading"


def test_a_plain_torchscript_file_is_not_served(tmp_path: Path, archives: dict[str, Path]) -> None:
    import zipfile

    plain = tmp_path / "plain.pt"
    with zipfile.ZipFile(archives["tiny"]) as source, zipfile.ZipFile(plain, "w") as target:
        for info in source.infolist():
            if "torchship" not in info.filename:
                target.writestr(info, source.read(info))
    assert "nothing vouches for it" in loaded(plain).entries[0].reason


def test_what_is_not_there_is_unknown(archives: dict[str, Path]) -> None:
    repository = Repository([archives["memory"]])
    with pytest.raises(NotReadyError, match="archives are still being loaded"):
        repository.find("tiny")
    asyncio.run(repository.load())
    with pytest.raises(UnknownModelError, match="model 'tiny' is unknown: the server has 'memory'"):
        repository.find("tiny")
    with pytest.raises(
        UnknownModelError, match="model 'memory' version '2' is unknown: it has '1'"
    ):
        repository.find("memory", "2")
    repository.release()
