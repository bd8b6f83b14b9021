"""A LibTorch of another minor version than the one that was built with: said when it is loaded.

The wrong one is the right one with another answer to the question which it is: a library that is
loaded before it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cmake_projects import done, run
from torchship.cpp_runner.binary import cmake_prefix, runner_path
from torchship.script.exporting.export import export
from torchship.script.exporting.target import find_target

MINOR = ".".join(torch.__version__.split(".")[:2])
# ctypes loads the library as the program that embeds it would.
EMBEDDED = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
library.torchship_last_message.restype = ctypes.c_char_p
archive = ctypes.c_void_p()
status = library.torchship_archive_open(sys.argv[2].encode(), None, ctypes.byref(archive))
print(status, library.torchship_last_message().decode())
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "fizzbuzz.pt"
    export(find_target("fizzbuzz", None, {}), path)
    return path


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("older")
    (folder / "older.c").write_text(
        "#include <stdint.h>\n"
        "uint64_t aoti_torch_abi_version(void) { return UINT64_C(2) << 56 | UINT64_C(9) << 48; }\n"
    )
    done("cc", "-shared", "-fPIC", "-o", folder / "older.so", folder / "older.c")
    return folder / "older.so"


@pytest.mark.parametrize("command", ["verify", "bench", "inspect"])
def test_the_runner_refuses_it_in_one_line(command: str, archive: Path, older: Path) -> None:
    assert run(runner_path(), "verify", archive).returncode == 0
    refused = run(runner_path(), command, archive, LD_PRELOAD=str(older))
    assert refused.returncode == 2
    [line] = [x for x in refused.stderr.splitlines() if "no trusted keys" not in x]
    assert line.startswith("torchship-runner: error: LibTorch: expected " + MINOR)
    assert "got 2.9" in line
    assert f"pip install 'torch=={MINOR}.*'" in line


def test_the_c_library_refuses_it(archive: Path, older: Path) -> None:
    library = cmake_prefix() / "lib" / "libtorchship_c.so"
    arguments = [sys.executable, "-c", EMBEDDED, library, archive]
    assert run(*arguments).stdout.startswith("0 ")
    printed = run(*arguments, LD_PRELOAD=str(older)).stdout
    assert printed.startswith(
        f"2 LibTorch: expected {MINOR}, which torchship was built with, got 2.9"
    )


def test_the_command_line_says_what_the_runner_said(archive: Path, older: Path) -> None:
    environment = os.environ | {"LD_PRELOAD": str(older)}
    result = subprocess.run(
        [sys.executable, "-m", "torchship", "verify", str(archive), "--runtime", "cpp"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert f"LibTorch: expected {MINOR}" in result.stdout
