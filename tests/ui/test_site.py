"""`torchship compile --target web`: what is written, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import zoo
from torchship.native.cli import app
from torchship.native.errors import NativeError, UnsupportedError
from torchship.native.running.wasm import NodeProcess
from torchship.native.site import proof
from torchship.native.site.writer import write_site
from torchship.script.errors import TorchShipError, UsageError
from torchship.script.exporting.export import export
from torchship.script.exporting.target import find_target
from torchship.script.format.tree import Flat
from torchship.script.runtime.archive import Archive, open_archive
from torchship.ui import PAGE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("archives")


@pytest.fixture(scope="module")
def xor(folder: Path) -> Archive:
    export(find_target("xor", None, {}), folder / "xor.pt")
    return open_archive(folder / "xor.pt")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def refusal(*arguments: object) -> str:
    """The words with which the command refuses."""
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert isinstance(result.exception, TorchShipError), result.output
    assert result.exception.exit_code == 2
    return str(result.exception)


def test_a_site_has_the_page_and_its_models(xor: Archive, tmp_path: Path) -> None:
    site = tmp_path / "my site"
    command = [sys.executable, "-m", "torchship", "compile", str(xor.path), "--target", "web"]
    done = subprocess.run([*command, "-o", str(site)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"python3 -m http.server -d '{site}'" in done.stdout
    written = files(site)
    page = {name for name in files(PAGE) if not Path(name).name.startswith((".", "swagger"))}
    models = {"archive.json", "golden.safetensors", "model.mjs", "model.wasm", "model.d.ts"}
    assert written == page | {f"models/xor/{name}" for name in models} | {"site.json"}
    facts = json.loads((site / "site.json").read_text())
    assert facts["form"] == "site"
    (listed,) = facts["models"]
    assert (listed["name"], listed["parameters"], listed["sha256"]) == ("xor", 12, xor.digest)
    for name in sorted(page):
        assert (site / name).read_bytes() == (PAGE / name).read_bytes()
    assert oct(site.stat().st_mode & 0o777) == oct(0o777 & ~umask())


def umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def test_a_new_site_replaces_the_old_one_and_leaves_what_is_not_ours(
    xor: Archive, tmp_path: Path
) -> None:
    site = write_site([xor], tmp_path / "site")
    (site / "CNAME").write_text("example.org")
    (site / "models" / "gone").mkdir()
    (site / "ui" / "old.mjs").write_text("")
    before = files(site)
    write_site([xor], site)
    assert files(site) == before - {"ui/old.mjs"}
    assert (site / "CNAME").read_text() == "example.org"
    assert not (site / "models" / "gone").exists()


def test_a_failure_leaves_what_was_there(
    xor: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = write_site([xor], tmp_path / "site")
    before = {name: (site / name).read_bytes() for name in files(site)}
    monkeypatch.setenv("WASM_CC", "false")  # a compiler that fails
    with pytest.raises(NativeError, match="false failed"):
        write_site([xor], site)
    assert {name: (site / name).read_bytes() for name in files(site)} == before
    with pytest.raises(NativeError):
        write_site([xor], tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site"]


def test_other_things_are_not_overwritten(xor: Archive, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds other things, such as 'thesis\.txt': expected"):
        write_site([xor], tmp_path)
    (tmp_path / "site.json").write_text('{"form": "server"}')
    with pytest.raises(UsageError, match="holds other things"):
        write_site([xor], tmp_path)
    with pytest.raises(UsageError, match="is a file: expected a folder"):
        write_site([xor], tmp_path / "thesis.txt")
    with pytest.raises(UsageError, match="cannot write the site"):
        write_site([xor], tmp_path / "thesis.txt" / "site")
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2


def test_two_archives_of_one_name_are_refused(xor: Archive, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"are both named 'xor': .* leave one out"):
        write_site([xor, xor], tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_an_archive_that_has_no_c_is_named_with_its_operator(
    xor: Archive, folder: Path, tmp_path: Path
) -> None:
    path = folder / "everything.pt"
    export(zoo.target(zoo.everything, zoo.everything_examples), path)
    with pytest.raises(UnsupportedError, match=r"'everything\.pt': "):
        write_site([xor, open_archive(path)], tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_a_module_that_differs_is_not_published(
    xor: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the compiler had made other code than the archive's."""

    class Wrong(NodeProcess):
        def call(self, method: str, inputs: Mapping[str, torch.Tensor]) -> Flat:
            return {name: value + 1 for name, value in super().call(method, inputs).items()}

    monkeypatch.setattr(proof, "NodeProcess", Wrong)
    with pytest.raises(NativeError, match=r"'xor\.pt': wasm in node.*: golden case 0, step 0"):
        write_site([xor], tmp_path / "site")
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--target", "web", "--strip"], "--strip does not go with --target web"),
        (["--target", "web", "--trace"], "--trace does not go with --target web"),
        (["--target", "web", "--weights", "file"], "--weights file goes with --target c"),
    ],
)
def test_options_of_other_targets_are_refused(
    xor: Archive, options: list[str], words: str, tmp_path: Path
) -> None:
    assert words in refusal(xor.path, *options, "-o", tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_only_a_site_takes_several_archives(xor: Archive, tmp_path: Path) -> None:
    said = refusal(xor.path, xor.path, "-o", tmp_path / "code")
    assert said == "--target c takes one archive, got 2: only --target web takes several"


def test_without_a_compiler_an_error_says_what_to_install(
    xor: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WASM_CC", "no-such-compiler")
    said = refusal(xor.path, "--target", "web", "-o", tmp_path / "site")
    assert "clang, lld and wasi-libc" in said
    assert not (tmp_path / "site").exists()
