"""Host programs of the C ABI in C, Python and Rust: how they are built, and what they may do."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

from cmake_projects import ROOT, done, run
from torchship.cpp_runner.binary import cmake_prefix
from torchship.script.runtime.archive import open_archive

EXAMPLES = ROOT / "cpp_runner" / "examples"


@pytest.fixture(scope="module")
def folder(model_archive: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("archives")
    for name in ("fizzbuzz", "moba"):
        shutil.copy(model_archive(name), made)
    return made


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the package has installed, moved, torch beside it; in a path that needs quotes."""
    site = tmp_path_factory.mktemp("site") / "with a space"
    shutil.copytree(cmake_prefix(), site / "torchship" / "cpp_runner")
    (site / "torch").symlink_to(Path(torch.__file__).parent)
    return site / "torchship" / "cpp_runner"


def flags(prefix: Path, *options: str) -> list[str]:
    where = {"PKG_CONFIG_PATH": str(prefix / "lib" / "pkgconfig")}
    result = run("pkg-config", *options, "torchship-c", **where)
    assert result.returncode == 0, result.stderr
    return shlex.split(result.stdout)


def test_a_c_program_is_built_with_pkg_config(moved: Path, folder: Path, tmp_path: Path) -> None:
    assert flags(moved, "--modversion") == [version("torchship")]
    source, program = EXAMPLES / "c_program" / "main.c", tmp_path / "c_program"
    strict = ("-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic")
    done("gcc", *strict, source, *flags(moved, "--cflags", "--libs"), "-o", program)
    loaded = done("ldd", program)
    assert f"{moved}/lib/pkgconfig/../libtorchship_c.so" in loaded
    assert "step 2: value" in done(program, folder / "moba.pt", 3)


def test_nothing_in_the_file_leads_to_where_it_was_built() -> None:
    text = (cmake_prefix() / "lib" / "pkgconfig" / "torchship-c.pc").read_text()
    assert not re.search(r"(?m)[=\s\"]/", text)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("host") / "host_program"
    strict = ("-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-pthread")
    libraries = flags(cmake_prefix(), "--cflags", "--libs")
    done("gcc", *strict, ROOT / "bench" / "host_program.c", *libraries, "-o", program)
    return program


MOBA = ("obs", 1, "1,510")
FIZZBUZZ = ("x", 11, "1,10")


@pytest.mark.parametrize(("name", "given"), [("moba", MOBA), ("fizzbuzz", FIZZBUZZ)])
def test_a_thread_of_96_kib_can_step(
    name: str, given: tuple[object, ...], host: Path, folder: Path
) -> None:
    printed = done(host, "stack", folder / f"{name}.pt", *given)
    match = re.fullmatch(r"\d+ KiB to open, (\d+) KiB to step\n", printed)
    assert match
    assert int(match[1]) <= 96


def test_a_forked_child_can_step(host: Path, folder: Path) -> None:
    printed = done(host, "fork", folder / "moba.pt", *MOBA)
    assert printed == "the child steps as its parent does\n"


def test_handles_may_be_closed_after_main(host: Path, folder: Path) -> None:
    assert done(host, "exit", folder / "moba.pt", *MOBA) == "closed after main\n"


def values(policy: Path) -> list[float]:
    program = open_archive(policy).program()
    state: dict[str, torch.Tensor] = {}
    found = []
    for step in range(3):
        obs = torch.full((1, 510), step, dtype=torch.uint8)
        outputs = program.call("forward", {"obs": obs, **state})
        state = {name: outputs[name] for name in "hc"}
        found.append(outputs["value"].item())
    return found


def printed_values(text: str) -> list[float]:
    return [float(np.float32(line.rsplit(" ", 1)[1])) for line in text.splitlines()]


def test_the_program_of_ctypes(folder: Path, tmp_path: Path) -> None:
    # With nothing of site-packages: neither torch nor numpy is there.
    program = ("-S", "-I", EXAMPLES / "ctypes_program" / "main.py")
    shared = cmake_prefix() / "lib" / "libtorchship_c.so"
    printed = done(sys.executable, *program, shared, folder / "moba.pt")
    assert printed_values(printed) == values(folder / "moba.pt")
    refused = run(sys.executable, *program, shared, tmp_path / "none.pt")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "none.pt" in refused.stderr


def test_the_program_in_rust(folder: Path, tmp_path: Path) -> None:
    lib = cmake_prefix() / "lib"
    linked = ("-L", lib, "-C", "link-arg=-ltorchship_c", "-C", f"link-arg=-Wl,-rpath,{lib}")
    source, program = EXAMPLES / "rust_program" / "main.rs", tmp_path / "rust_program"
    # Where there is a compiler: nothing else of the project needs one.
    for compiler in filter(None, [shutil.which("rustc")]):
        done(compiler, "--edition", "2021", source, *linked, "-o", program)
        assert printed_values(done(program, folder / "moba.pt")) == values(folder / "moba.pt")
