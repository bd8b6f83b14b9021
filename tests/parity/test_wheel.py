"""The wheel, built, installed into an empty folder and used from there, in Python and in C++.

It is built where `make` has built, so that nothing is compiled again.
"""

from __future__ import annotations

import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch

from cmake_projects import PYTHON, ROOT, built, done, run

# A Python without site-packages' own start-up files, since they lead to an editable install. The
# dependencies come last.
FRESH = """
import sys
sys.path.extend({paths!r})
from importlib.metadata import distribution
[entry] = distribution("torchship").entry_points.select(name={program!r})
sys.argv = {arguments!r}
entry.load()()
"""


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed") / "site"
    pip("install", "--no-deps", "--target", folder, wheel)
    return folder


def pip(*arguments: object) -> None:
    done(sys.executable, "-m", "pip", *arguments, "--no-index", "--disable-pip-version-check")


def fresh(site: Path, program: str, *arguments: object) -> str:
    """What a console script of the wheel prints."""
    dependencies = Path(torch.__file__).parents[1]
    code = FRESH.format(
        paths=[str(site), str(dependencies)],
        program=program,
        arguments=[program, *map(str, arguments)],
    )
    return done(sys.executable, "-I", "-S", "-c", code)


def test_it_is_for_every_python(wheel: Path) -> None:
    assert "-py3-none-" in wheel.name


def test_what_is_in_it(wheel: Path) -> None:
    with ZipFile(wheel) as file:
        names = set(file.namelist())
    inside = {name for name in names if name.startswith("torchship/cpp_runner/")}
    headers = {f"include/torchship/{f.name}" for f in ROOT.glob("cpp_runner/include/torchship/*.h")}
    libraries = {"libtorchship.a", "libtorchship_c.so", "libtorchship_ops.so", "libtorch-version"}
    libraries |= {"libtorchship_snake.so"}
    modules = {f.name for f in ROOT.glob("cpp_runner/python/*.py")}
    folder = ROOT / "cpp_runner"
    examples = {
        str(file.relative_to(folder))
        for file in (folder / "examples").rglob("*")
        if file.is_file() and file.suffix != ".pyc"
    }
    package = {name for name in inside if "/lib/cmake/torchship/" in name}
    assert inside - package == {
        f"torchship/cpp_runner/{name}"
        for name in {"bin/torchship-runner", "lib/pkgconfig/torchship-c.pc"}
        | headers
        | examples
        | {f"lib/{x}" for x in libraries}
        | modules
    }
    assert [name for name in names if name.endswith(".data/scripts/torchship-runner")]
    assert "torchship/cpp_runner/lib/cmake/torchship/torchship-config.cmake" in package
    weights = {f"torchship/models/weights/{f.name}" for f in ROOT.glob("models/weights/*")}
    assert weights
    assert weights <= names


def test_it_works_where_it_was_installed(site: Path, tmp_path: Path) -> None:
    archive = tmp_path / "lstm-fused.pt"  # which needs the wheel's library of operators
    fresh(site, "torchship", "script", "lstm-fused", "-o", archive)
    assert "torchship_ops" in fresh(site, "torchship", "runner", "inspect", archive)
    assert "agreed" in fresh(site, "torchship", "runner", "verify", archive)
    assert "agreed" in fresh(site, "torchship", "verify", archive, "--runtime", "cpp")


def test_the_binary_alone_needs_torch_beside_it(site: Path, tmp_path: Path) -> None:
    fresh(site, "torchship", "script", "fizzbuzz", "-o", tmp_path / "fizzbuzz.pt")
    program = [
        site / "torchship/cpp_runner/bin/torchship-runner",
        "verify",
        tmp_path / "fizzbuzz.pt",
    ]
    refused = run(*program)
    assert refused.returncode == 127  # the loader's
    assert "libtorch_cpu.so: cannot open shared object file" in refused.stderr
    beside = site / "torch"
    beside.symlink_to(Path(torch.__file__).parent)
    try:
        assert "agreed" in done(*program)
        assert "agreed" in done(site / "bin" / "torchship-runner", *program[1:])
    finally:
        beside.unlink()


def test_a_cmake_project_builds_against_it(site: Path, tmp_path: Path) -> None:
    prefix = Path(fresh(site, "torchship", "cmake-prefix").removesuffix("\n"))
    assert prefix == site.resolve() / "torchship" / "cpp_runner"
    fresh(site, "torchship", "script", "fizzbuzz", "-o", tmp_path / "fizzbuzz.pt")
    program = built("minimal", tmp_path, prefix, PYTHON)
    assert done(program, tmp_path / "fizzbuzz.pt", "15") == "fizzbuzz\n"
