"""The programs of docs/native.md that call compiled models: compiled from the page, and run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from compiled import STRICT, quick_options
from torchship.native.building.toolchain import FLAGS
from torchship.native.compiler import compile_archive
from torchship.native.running.wasm import write_module
from torchship.script.exporting.export import export
from torchship.script.exporting.target import find_target
from torchship.script.runtime.archive import open_archive

PAGE = Path(__file__).resolve().parents[2] / "docs" / "native.md"
BOARD = bytes(place % 5 for place in range(121))


def program(language: str, name: str) -> str:
    """Return the block of the page that begins with a comment with this name."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    found: str = next(block for block in blocks if name in block.splitlines()[0])
    return found


def done(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


def built(*command: object) -> None:
    result = done(*command)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the compiled snake, the programs, and boards."""
    place = tmp_path_factory.mktemp("callers")
    export(find_target("snake", None, {}), place / "snake.pt")
    code = compile_archive(open_archive(place / "snake.pt"), golden=False)
    (place / "snake.h").write_text(code.header)
    (place / "snake.c").write_text(code.source)
    flags = (*FLAGS, *quick_options(), "-fPIC", "-c")
    built("cc", *flags, place / "snake.c", "-o", place / "snake.o")
    built("cc", "-shared", place / "snake.o", "-o", place / "libsnake.so", "-lm")
    (place / "board").write_bytes(BOARD)
    (place / "wrong").write_bytes(bytes([200]) + BOARD[1:])
    return place


def wanted(folder: Path) -> str:
    obs = torch.tensor(list(BOARD), dtype=torch.uint8).view(1, 11, 11)
    outputs = open_archive(folder / "snake.pt").program().call("forward", {"obs": obs})
    return f"move {int(outputs['logits'].argmax())}, value {float(outputs['value']):.3f}"


def check(folder: Path, *command: object) -> None:
    """Compare what a program prints with LibTorch, to 3 decimals, and what it says of a refusal."""
    ran = done(*command, folder / "board")
    assert (ran.returncode, ran.stderr) == (0, "")
    start, _, value = ran.stdout.strip().rpartition(" ")
    assert f"{start} {float(value):.3f}" == wanted(folder)
    refused = done(*command, folder / "wrong")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.strip() == "obs: tile must be below 8, got 200"


@pytest.mark.parametrize(
    ("language", "compiler"),
    [("c", ("cc", "-std=c11")), ("cpp", ("c++", "-std=c++17"))],
    ids=["c", "cpp"],
)
def test_the_caller_in_a_compiled_language(
    language: str, compiler: tuple[str, ...], folder: Path
) -> None:
    source, caller = folder / f"caller.{language}", folder / f"caller_{language}"
    source.write_text(program(language, source.name))
    built(*compiler, *STRICT, source, folder / "snake.o", "-lm", "-o", caller)
    check(folder, caller)


def test_the_caller_in_cpp_takes_a_batch(folder: Path, tmp_path: Path) -> None:
    source = folder / "batch.cpp"
    source.write_text(program("cpp", "caller.cpp"))
    built("c++", "-std=c++17", source, folder / "snake.o", "-lm", "-o", folder / "batch")
    (tmp_path / "boards").write_bytes(BOARD * 3)
    lines = done(folder / "batch", tmp_path / "boards").stdout.splitlines()
    assert len(lines) == 3
    assert len(set(lines)) == 1


def test_the_caller_in_python(folder: Path) -> None:
    source = folder / "caller.py"
    source.write_text(program("python", source.name))
    # With nothing of site-packages: neither torch nor numpy is there.
    check(folder, sys.executable, "-S", "-I", source, folder / "libsnake.so")


def test_the_caller_in_rust(folder: Path) -> None:
    compiler = shutil.which("rustc")
    if compiler is None:
        pytest.skip("rustc is not installed")
    source = folder / "caller.rs"
    source.write_text(program("rust", source.name))
    linked = ("-L", folder, "-l", "snake", "-C", f"link-arg=-Wl,-rpath,{folder}")
    built(compiler, "--edition", "2021", "-D", "warnings", source, *linked, "-o", folder / "rust")
    check(folder, folder / "rust")


def test_the_caller_in_javascript(folder: Path) -> None:
    for tool in ("node", "clang", "wasm-ld"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    write_module(compile_archive(open_archive(folder / "snake.pt"), golden=False), folder, "snake")
    source = folder / "caller.mjs"
    source.write_text(program("js", source.name))
    check(folder, "node", source)
