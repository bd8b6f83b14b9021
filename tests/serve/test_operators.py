"""Archives with custom operators on the server: loaded by it, or refused without naming folders."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from torchship.script.exporting.export import export
from torchship.script.exporting.target import find_target
from torchship.script.format.manifest import CustomOperator
from torchship.script.runtime import operators, torchscript_file
from torchship.script.runtime.archive import Archive, pack
from torchship.serve.client.local_server import StartError, running_server
from torchship.serve.repository.repository import Repository
from torchship.serve.settings import Settings


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return export(
        find_target("lstm-fused", None, {}), tmp_path_factory.mktemp("ours") / "lstm-fused.pt"
    )


def loaded(path: Path) -> Repository:
    repository = Repository([path])
    asyncio.run(repository.load())
    repository.release()
    return repository


def test_an_archive_with_an_operator_of_ours_goes_live(ours: Archive) -> None:
    [entry] = loaded(ours.path).entries
    assert (entry.state, entry.reason) == ("live", "")


def test_clients_learn_what_is_missing_and_not_which_folders_there_are(
    ours: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(operators.VARIABLE, str(tmp_path / "secret"))
    nothing = CustomOperator(name="acme::nothing", library="acme_ops")
    said = ours.require_manifest().model_copy(update={"custom_ops": (nothing,)})
    path = tmp_path / "a.pt"
    path.write_bytes(pack(torchscript_file.save(ours.load()), said, ours.golden))
    [entry] = loaded(path).entries
    assert entry.state == "failed"
    assert f"in '{tmp_path / 'secret'}'" in entry.reason
    told = entry.public().reason
    assert "'a.pt': it needs the operator 'acme::nothing' of the library 'acme_ops': " in told
    assert "there is no 'libacme_ops.so' in the folders of operator libraries" in told
    assert str(tmp_path) not in told


def test_a_library_that_comes_later_is_found(
    ours: Archive, tmp_path: Path, launch: Callable[..., Any]
) -> None:
    """The archive does not change by it, and is tried again all the same."""
    of_acme = tuple(
        CustomOperator(name=operator.name, library="acme_ops")
        for operator in ours.require_manifest().custom_ops
    )
    said = ours.require_manifest().model_copy(update={"custom_ops": of_acme})
    (tmp_path / "a.pt").write_bytes(pack(torchscript_file.save(ours.load()), said, ours.golden))
    (tmp_path / "libraries").mkdir()
    options = ["--mode", "poll", "--poll-seconds", "0.05", "--operators", tmp_path / "libraries"]
    with launch(*options, tmp_path) as server:
        assert "there is no 'libacme_ops.so'" in server.line()
        made = shutil.copy(operators.find("torchship_ops"), tmp_path / "made")
        Path(made).rename(tmp_path / "libraries" / "libacme_ops.so")
        assert server.line() == "live: lstm-fused/1"


def test_folders_can_be_set() -> None:
    settings = Settings(operators=(Path("/a"), Path("/b")))
    assert settings.operators == (Path("/a"), Path("/b"))
    assert Settings().operators == ()


def test_the_server_looks_in_the_folders_of_its_setting(ours: Archive, tmp_path: Path) -> None:
    """In a process of its own, where no operator is registered yet."""
    shutil.copy(operators.find("torchship_ops"), tmp_path / "libacme_ops.so")
    of_acme = tuple(
        CustomOperator(name=operator.name, library="acme_ops")
        for operator in ours.require_manifest().custom_ops
    )
    said = ours.require_manifest().model_copy(update={"custom_ops": of_acme})
    path = tmp_path / "a.pt"
    path.write_bytes(pack(torchscript_file.save(ours.load()), said, ours.golden))
    with pytest.raises(StartError, match=r"there is no 'libacme_ops\.so'"), running_server([path]):
        pass
    two = ["--workers", "2", "--state", "none"]
    for options in (["--operators", str(tmp_path)], ["--operators", str(tmp_path), *two]):
        with running_server([path], options=options) as url:
            assert url
