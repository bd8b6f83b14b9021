"""`torchship-runner` as a process: how it is found and started, how it ends, and when it cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cmake_projects import ROOT, done, run
from torchship.agreement import ALIKE, verify_archive
from torchship.cpp_runner import child
from torchship.cpp_runner.binary import runner_path
from torchship.cpp_runner.runtime import CppRuntime
from torchship.cpp_runner.stepper import Stepper
from torchship.script.errors import UsageError
from torchship.script.exporting.export import export
from torchship.script.exporting.runtimes import EagerRuntime
from torchship.script.exporting.target import find_target
from torchship.script.runtime.archive import Archive, open_archive

SCRIPT = ROOT / "cpp_runner" / "torchship-runner.sh"
INSIDE = Path("torchship", "cpp_runner", "bin", "torchship-runner")
ARGUMENTS = ("run", "a b", "", "*", "$HOME", "--json", "line\nline")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    path = tmp_path_factory.mktemp("archives") / "fizzbuzz.pt"
    export(find_target("fizzbuzz", None, {}), path)
    return open_archive(path)


# --- the command ---


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def listing(path: Path, word: str) -> None:
    """A program that prints its own name and its arguments, each in brackets."""
    executable(path, f'#!/bin/sh\nprintf "{word}"\nfor a; do printf "[%s]" "$a"; done\n')


def installed(prefix: Path, *packages: str) -> Path:
    """A prefix with the command in `bin` and, below each folder of packages, a binary."""
    for folder in packages:
        listing(prefix / folder / INSIDE, folder)
        executable(prefix / folder / "torch" / "lib" / "libtorch_cpu.so", "")
    return executable(prefix / "bin" / "torchship-runner", SCRIPT.read_text())


def printed(word: str) -> str:
    return word + "".join(f"[{argument}]" for argument in ARGUMENTS)


@pytest.mark.parametrize(
    "packages",
    [
        "lib/python3.11/site-packages",
        "lib64/python3.14/site-packages",
        "lib/python3/dist-packages",
        ".",  # pip install --target
    ],
)
def test_the_command_becomes_the_binary(packages: str, tmp_path: Path) -> None:
    command = installed(tmp_path / "a prefix", packages)
    assert done(command, *ARGUMENTS) == printed(packages)
    linked = tmp_path / "link"
    linked.symlink_to(command)
    assert done(linked, *ARGUMENTS) == printed(packages)
    by_name = run("torchship-runner", *ARGUMENTS, PATH=f"{command.parent}:/usr/bin:/bin")
    assert by_name.stdout == printed(packages)
    here = subprocess.run(
        ["sh", "torchship-runner", *ARGUMENTS],
        cwd=command.parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert here.stdout == printed(packages)


def test_of_two_pythons_the_command_beside_it_knows_which(tmp_path: Path) -> None:
    command = installed(tmp_path, "lib/python3.11/site-packages", "lib/python3.12/site-packages")
    listing(tmp_path / "bin" / "torchship", "asked")
    assert done(command, *ARGUMENTS) == printed("asked[runner]")


def test_where_torch_is_elsewhere_the_command_beside_it_knows_where(tmp_path: Path) -> None:
    command = installed(tmp_path, "lib/python3.11/site-packages")
    (tmp_path / "lib/python3.11/site-packages/torch/lib/libtorch_cpu.so").unlink()
    listing(tmp_path / "bin" / "torchship", "asked")
    assert done(command, *ARGUMENTS) == printed("asked[runner]")


def test_the_command_line_becomes_the_binary_too(archive: Archive) -> None:
    torchship = (sys.executable, "-m", "torchship", "runner")
    assert "agreed" in done(*torchship, "verify", archive.path)
    assert json.loads(done(*torchship, "inspect", "--json", archive.path))["name"] == "fizzbuzz"
    assert "Runs and checks" in done(*torchship, "--help")


def test_without_a_package_it_fails(tmp_path: Path) -> None:
    command = installed(tmp_path)
    assert run(command).returncode != 0
    message = "torchship-runner is not installed"
    executable(tmp_path / "bin" / "torchship", f'#!/bin/sh\necho "{message}" >&2\nexit 2\n')
    result = run(command)
    assert (result.returncode, result.stdout, result.stderr) == (2, "", f"{message}\n")


def test_the_module_becomes_the_binary_too() -> None:
    result = run(sys.executable, "-m", "torchship.cpp_runner.binary", "nonsense", **PATHS)
    assert result.returncode == 2
    assert "there is no command 'nonsense'" in result.stderr


PATHS = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


# --- the end ---

TEARDOWN = """
#include <unistd.h>
__attribute__((destructor)) static void end(void) {
  if (write(2, "torn down\\n", 10) != 10) _exit(99);
}
"""


def test_no_time_goes_into_the_end_of_libtorch(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "end.c").write_text(TEARDOWN)
    done("gcc", "-shared", "-fPIC", tmp_path / "end.c", "-o", tmp_path / "end.so")
    preload = {"LD_PRELOAD": str(tmp_path / "end.so")}
    commands: list[tuple[int, tuple[str, ...]]] = [
        (0, ("verify", str(archive.path))),
        (0, ("inspect", str(archive.path), "--json")),
        (0, ("--help",)),
        (0, ("run", "--help")),
        (2, ("nonsense",)),
        (3, ("inspect", __file__)),
    ]
    for code, arguments in commands:
        quick = run(runner_path(), *arguments, **preload)
        full = run(runner_path(), *arguments, **preload, TORCHSHIP_TEARDOWN="1")
        assert (quick.returncode, full.returncode) == (code, code), quick.stderr
        assert quick.stdout == full.stdout
        assert "torn down" not in quick.stderr
        assert full.stderr == f"{quick.stderr}torn down\n"


@pytest.mark.parametrize("command", [("--help",), ("verify", "--help"), ("inspect",), ("verify",)])
def test_what_cannot_be_written_is_an_error(command: tuple[str, ...], archive: Archive) -> None:
    files = () if "--help" in command else (archive.path,)
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [runner_path(), *command, *files],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert result.returncode == 2
    assert "cannot write to standard output: No space left on device" in result.stderr


def test_all_of_a_long_answer_arrives(archive: Archive, tmp_path: Path) -> None:
    lines = 2000
    text = json.dumps({"x": [[1.0] * 10] * 16}) + "\n"
    (tmp_path / "lines").write_text(text * lines)
    with (tmp_path / "lines").open() as stdin:
        answer = subprocess.run(
            [runner_path(), "run", archive.path, "--input", "-"],
            stdin=stdin, capture_output=True, text=True, check=True,
        )  # fmt: skip
    assert len(answer.stdout.splitlines()) == lines
    assert len({*answer.stdout.splitlines()}) == 1


# --- a binary that cannot start ---


def without_its_library(folder: Path) -> Path:
    (folder / "gone.c").write_text("int gone(void) { return 0; }\n")
    (folder / "main.c").write_text("int gone(void);\nint main(void) { return gone(); }\n")
    done("gcc", "-shared", "-fPIC", folder / "gone.c", "-o", folder / "libgone.so")
    done("gcc", folder / "main.c", f"-L{folder}", "-lgone", "-o", folder / "runner")
    (folder / "libgone.so").unlink()
    return folder / "runner"


def with_another_library(folder: Path) -> Path:
    """Bound lazily, as LibTorch's functions are: it ends in the middle of its work."""
    (folder / "old.c").write_text("int gone(void) { return 0; }\n")
    (folder / "new.c").write_text("int other(void) { return 0; }\n")
    (folder / "main.c").write_text("int gone(void);\nint main(void) { return gone(); }\n")
    lib, rpath = folder / "libgone.so", f"-Wl,-rpath,{folder},-z,lazy"
    done("gcc", "-shared", "-fPIC", folder / "old.c", "-o", lib)
    done("gcc", folder / "main.c", f"-L{folder}", "-lgone", rpath, "-o", folder / "runner")
    done("gcc", "-shared", "-fPIC", folder / "new.c", "-o", lib)
    return folder / "runner"


def with_an_older_c_library(folder: Path) -> Path:
    said = "runner: /lib/libc.so.6: version 'GLIBC_9.9' not found (required by runner)"
    return executable(folder / "runner", f'#!/bin/sh\necho "{said}" >&2\nexit 1\n')


def of_another_machine(folder: Path) -> Path:
    return executable(folder / "runner", "\177ELF\2\1\1")


def killed(folder: Path) -> Path:
    return executable(folder / "runner", "#!/bin/sh\nkill -SEGV $$\n")


CANNOT_START = "the C++ runner cannot start: "
BROKEN: list[tuple[Callable[[Path], Path], str, str]] = [
    (without_its_library, CANNOT_START, "error while loading shared libraries: libgone.so"),
    (with_another_library, CANNOT_START, "undefined symbol: gone"),
    (with_an_older_c_library, CANNOT_START, "version 'GLIBC_9.9' not found"),
    (of_another_machine, CANNOT_START, "Exec format error"),
    (killed, "torchship-runner verify was ended by SIGSEGV: ", "it said nothing"),
]


@pytest.mark.parametrize(("broken", "began", "reason"), BROKEN)
def test_verify_says_that_the_binary_cannot_start(
    broken: Callable[[Path], Path],
    began: str,
    reason: str,
    archive: Archive,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    binary = broken(tmp_path)
    monkeypatch.setattr(child, "runner_path", lambda: binary)
    report = verify_archive(archive, [EagerRuntime(), CppRuntime()])
    assert not report.agreed
    eager, cpp = report.results
    assert eager.agreed
    assert cpp.error.startswith(began)
    assert reason in cpp.error
    assert "\n" not in cpp.error
    # The archive is not to blame, and nothing has differed.
    assert report.first_difference == ""

    def step() -> None:
        with Stepper(archive, "forward") as stepper:
            stepper.receive()

    with pytest.raises(UsageError) as raised:
        step()
    assert str(raised.value).startswith(began.replace("verify", "run"))


def test_what_differs_is_still_said_of_a_runtime_that_ran(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = json.loads(done(runner_path(), "verify", archive.path, "--json"))
    for entry in verdict["results"]:
        entry |= {"agreed": False, "reason": "another number"}
    (tmp_path / "verdict").write_text(json.dumps(verdict))
    binary = executable(
        tmp_path / "runner",
        f'#!/bin/sh\n[ "$1" = verify ] || exec "{runner_path()}" "$@"\n'
        f'"{runner_path()}" "$@" >/dev/null\ncat "{tmp_path / "verdict"}"\nexit 1\n',
    )
    monkeypatch.setattr(child, "runner_path", lambda: binary)
    report = verify_archive(archive, [EagerRuntime(), CppRuntime()])
    assert report.first_difference == ALIKE
