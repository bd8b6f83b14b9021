"""Where libraries come from: the user's cache, or a folder of finished ones."""

import os
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from served import Model, method, needs, noise, once, tensor, write
from torchship.native.cli import make_library
from torchship.native.compiler import compile_archive
from torchship.native.errors import CompilerMissingError, NativeError, UnsupportedError
from torchship.native.running.compiled import LARGEST, compile_library
from torchship.native.running.prebuilt import load_prebuilt
from torchship.script.errors import UsageError
from torchship.script.format.nodes import DictNode
from torchship.script.format.signing import make_key, read_trusted_keys, sign
from torchship.script.runtime.archive import Archive, open_archive


class Keyed(torch.nn.Module):
    """Takes a dict with one key: gives twice its tensor."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key

    def forward(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
        return x[self.key] * 2


X = {"x": torch.ones(1, 2)}


@pytest.fixture
def compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Take the place of the C compiler; return a function that counts its compilations."""
    record = tmp_path / "compilations"
    script = tmp_path / "cc"
    script.write_text(f'#!/bin/sh\n[ "$1" = --version ] || echo >> {record}\nexec cc "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    monkeypatch.setenv("TORCHSHIP_NATIVE_CACHE", str(tmp_path / "cache"))
    return lambda: len(record.read_text().splitlines()) if record.exists() else 0


@pytest.fixture
def folder(tmp_path: Path, archives: dict[str, Path]) -> Path:
    """Return a folder with the library of the archive `memory`."""
    made = tmp_path / "libraries"
    made.mkdir()
    code = compile_archive(open_archive(archives["memory"]), golden=False)
    make_library(code, made / "memory-1.so")
    return made


def test_an_archive_is_compiled_once(
    compiles: Callable[[], int], archives: dict[str, Path], tmp_path: Path
) -> None:
    archive = open_archive(archives["memory"])
    for _ in range(2):
        assert compile_library(archive).call("forward", X)["h"].tolist() == [[1.0, 1.0]]
    assert compiles() == 1
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700


def test_a_library_that_has_gone_is_made_again(
    compiles: Callable[[], int], archives: dict[str, Path], tmp_path: Path
) -> None:
    archive = open_archive(archives["memory"])
    compile_library(archive)
    for file in (tmp_path / "cache").glob("*.so"):
        file.unlink()
    compile_library(archive)
    assert compiles() == 2


def test_a_cache_that_others_may_write_to_is_refused(
    compiles: Callable[[], int], archives: dict[str, Path], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o770)
    with pytest.raises(UsageError, match="can be written by others"):
        compile_library(open_archive(archives["memory"]))
    assert compiles() == 0


def test_without_a_compiler_there_is_no_library(
    archives: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CC", "missing")
    monkeypatch.setenv("TORCHSHIP_NATIVE_CACHE", str(tmp_path))
    with pytest.raises(CompilerMissingError, match="no C compiler"):
        compile_library(open_archive(archives["memory"]))


def test_a_large_archive_is_not_compiled_while_it_is_loaded(
    compiles: Callable[[], int], archives: dict[str, Path]
) -> None:
    archive = open_archive(archives["memory"])
    archive.size = LARGEST + 1
    with pytest.raises(UnsupportedError, match="at most 32 MiB"):
        compile_library(archive)


def test_texts_of_the_manifest_do_not_become_code(
    compiles: Callable[[], int], tmp_path: Path
) -> None:
    key = "x*/ code \\"
    named = DictNode(keys=(key,), items=(tensor(f"x.{key}", "float32", "batch", 2),))
    signature = method([needs(named, "x")], tensor("y*/ code", "float32", "batch", 2))
    model = Model(Keyed(key), {"forward": signature}, [once({f"x.{key}": noise(2, 2)})])
    write(tmp_path / "keyed.pt", model, "keyed")
    archive = open_archive(tmp_path / "keyed.pt")
    description = "*\\\n/ code */ code *??/\n/ code"
    manifest = archive.require_manifest().model_copy(update={"description": description})
    archive.manifest = manifest
    library = compile_library(archive)
    assert library.call("forward", {f"x.{key}": torch.ones(1, 2)})["y*/ code"].tolist() == [[2, 2]]


def test_the_library_of_an_archive_is_found_among_others(
    folder: Path, archives: dict[str, Path]
) -> None:
    (folder / "memory-0.so").write_bytes(b"another")
    (folder / "tiny.so").write_bytes(b"of another name")
    library = load_prebuilt(folder, open_archive(archives["memory"]), [])
    assert library.call("forward", X)["h"].tolist() == [[1.0, 1.0]]


def test_a_library_of_another_archive_is_refused(
    folder: Path, make_archive: Callable[..., Path]
) -> None:
    newer = open_archive(make_archive("memory", version="2"))
    expected = f"'memory-1.so' in '{folder}' was compiled from another archive: expected the digest"
    with pytest.raises(NativeError, match=re.escape(expected)):
        load_prebuilt(folder, newer, [])


def test_a_folder_without_the_library_is_named(folder: Path, archives: dict[str, Path]) -> None:
    with pytest.raises(NativeError, match=r"has no library 'tiny\*\.so'"):
        load_prebuilt(folder, open_archive(archives["tiny"]), [])


def test_a_file_that_only_holds_the_digest_is_no_library(
    folder: Path, archives: dict[str, Path]
) -> None:
    archive = open_archive(archives["tiny"])
    (folder / "tiny.so").write_bytes(archive.digest.encode())
    with pytest.raises(NativeError, match=r"'tiny\.so' is no library"):
        load_prebuilt(folder, archive, [])


def test_with_trusted_keys_a_library_needs_a_signature_of_its_own(
    folder: Path, archives: dict[str, Path], tmp_path: Path
) -> None:
    archive: Archive = open_archive(archives["memory"])
    make_key(tmp_path / "private.pem", tmp_path / "public.pem")
    keys = read_trusted_keys(tmp_path / "public.pem")
    with pytest.raises(NativeError, match="is not signed"):
        load_prebuilt(folder, archive, keys)
    file = folder / "memory-1.so"
    sign(file, tmp_path / "private.pem")
    assert load_prebuilt(folder, archive, keys).call("forward", X)
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(NativeError, match="fits none of the 1 trusted keys"):
        load_prebuilt(folder, archive, keys)


def test_a_replaced_file_is_loaded_anew(
    folder: Path, archives: dict[str, Path], make_archive: Callable[..., Path]
) -> None:
    file = folder / "memory-1.so"
    held = load_prebuilt(folder, open_archive(archives["memory"]), [])
    newer = open_archive(make_archive("memory", version="2"))
    make_library(compile_archive(newer, golden=False), file)
    assert load_prebuilt(folder, newer, []).call("forward", X)
    assert held.call("forward", X)


def test_nothing_is_left_of_copies(folder: Path, archives: dict[str, Path], tmp_path: Path,
                                   monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    load_prebuilt(folder, open_archive(archives["memory"]), [])
    assert os.listdir(temporary) == []
    shutil.rmtree(folder)
