"""`torchship compile` as a user calls it."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from torchship.script.exporting.export import export
from torchship.script.exporting.target import find_target


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "snake.pt"
    export(find_target("snake", None, {}), path)
    return path


def torchship(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torchship", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-ffp-contract=off"]
COMPILERS = {
    "C11 by gcc": ["gcc", "-std=c11"],
    "C++17 by g++": ["g++", "-std=c++17", "-x", "c++"],
    "C11 by clang": ["clang", "-std=c11"],
    "C++17 by clang++": ["clang++", "-std=c++17", "-x", "c++"],
}


@pytest.fixture(scope="module")
def code(archive: Path) -> Path:
    """The folder of the generated C."""
    done = torchship("compile", archive, "-o", archive.parent / "code")
    assert done.returncode == 0, done.stderr
    return archive.parent / "code"


@pytest.mark.parametrize("compiler", COMPILERS.values(), ids=COMPILERS.keys())
def test_the_c_has_no_warnings(compiler: list[str], code: Path) -> None:
    subprocess.run([*compiler, *STRICT, "-fsyntax-only", str(code / "snake.c")], check=True)


def test_the_project_builds_and_its_golden_cases_agree(code: Path, tmp_path: Path) -> None:
    subprocess.run(["cmake", "-S", str(code), "-B", str(tmp_path)], check=True)
    subprocess.run(["cmake", "--build", str(tmp_path)], check=True)
    ran = subprocess.run([str(tmp_path / "example")], capture_output=True, text=True, check=True)
    assert "60 outputs of 12 golden cases agree" in ran.stdout


def test_the_same_archive_gives_the_same_bytes(archive: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert torchship("compile", archive, "-o", tmp_path / name).returncode == 0
    for file in ("snake.c", "snake.h", "CMakeLists.txt", "example.c"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_strip_leaves_the_golden_cases_out(archive: Path, tmp_path: Path) -> None:
    done = torchship("compile", archive, "--strip", "-o", tmp_path / "code")
    assert done.returncode == 0, done.stderr
    assert "selftest" not in (tmp_path / "code" / "snake.c").read_text()


def test_a_missing_compiler_is_named(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    done = torchship("compile", archive, "--target", "lib", "-o", archive.parent / "x.so")
    assert done.returncode == 2
    assert "no-such-compiler" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (archive.parent / "x.so").exists()


def test_a_target_that_does_not_exist_is_refused(archive: Path) -> None:
    done = torchship("compile", archive, "--target", "rust")
    assert done.returncode == 2
    assert "--target 'rust': expected one of c, lib, wasm" in done.stderr


def test_verify_skips_what_has_no_compiler(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    asked = torchship("verify", archive, "--runtime", "native")
    assert asked.returncode == 1
    assert "there is no C compiler" in asked.stdout


def test_texts_of_the_archive_do_not_become_code(tmp_path: Path) -> None:
    description = "ends */ int injected(void); /*\n#error injected\\\n// ??/"
    target = replace(find_target("snake", None, {}), description=description)
    export(target, tmp_path / "snake.pt")
    assert torchship("compile", tmp_path / "snake.pt", "-o", tmp_path / "code").returncode == 0
    for name in ("snake.h", "snake.c"):
        text = (tmp_path / "code" / name).read_text()
        assert "injected" in text
        assert "injected" not in re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    flags = ["-std=c11", "-trigraphs", "-fsyntax-only", "-Wall", "-Werror"]
    subprocess.run(["gcc", *flags, str(tmp_path / "code" / "snake.c")], check=True)


@pytest.mark.parametrize("target", ["lib", "wasm"])
def test_a_file_of_weights_goes_with_c_alone(archive: Path, target: str) -> None:
    done = torchship("compile", archive, "--target", target, "--weights", "file")
    assert done.returncode == 2
    assert f"--weights file goes with --target c: a {target} is one file" in done.stderr


def test_weights_go_into_the_code_or_a_file(archive: Path) -> None:
    done = torchship("compile", archive, "--weights", "table")
    assert done.returncode == 2
    assert "--weights 'table': expected one of code, file" in done.stderr
