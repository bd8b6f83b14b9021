"""A model that prints: the same numbers in every runtime, and never a word among our output."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from torchship.cpp_runner import child
from torchship.cpp_runner.binary import runner_path
from torchship.cpp_runner.runtime import CppRuntime
from torchship.cpp_runner.stepper import Stepper
from torchship.script.errors import UsageError
from torchship.script.exporting.export import export
from torchship.script.exporting.target import find_target, source_of
from torchship.script.format.manifest import CustomOperator
from torchship.script.runtime import torchscript_file
from torchship.script.runtime.archive import open_archive, pack
from torchship.script.runtime.trial_load import load_apart

# Eager, it prints in ways that TorchScript does not have; compiled, a part of a character.
TALKER = r"""
import os, sys, warnings
import torch
from torch import Tensor, nn

print("imported")

def branch(x: Tensor) -> Tensor:
    print("in a branch")
    return x * 2

class Talker(nn.Module):
    def forward(self, x: Tensor, text: str) -> Tensor:
        print(text)
        print('{"results": []}')
        print(text[0:1])
        warnings.warn("mind")
        y = torch.jit.wait(torch.jit.fork(branch, x))
        if not torch.jit.is_scripting():
            self.more()
        return y

    @torch.jit.unused
    def more(self) -> None:
        os.write(1, b"by the system\n")
        print("begun", end="")

def make() -> nn.Module:
    print("made")
    return Talker().eval()

def examples() -> list[dict[str, object]]:
    print("asked")
    texts = ["\u00e9\x1b[2J\nmoba: forged", "\u00e9" * 9]
    return [{"x": torch.ones(n, 2), "text": text} for n, text in zip((2, 3), texts)]
"""


def redirected(redirect: str, *command: object) -> list[str]:
    return ["sh", "-c", f'exec "$0" "$@" {redirect}', *map(str, command)]


def torchship(
    folder: Path, *arguments: object, redirect: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run the command line in the folder; a shell redirects its output."""
    command = redirected(redirect, sys.executable, "-m", "torchship", *arguments)
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """`torchship script` of the talker, in the folder that is its first argument."""
    folder = tmp_path_factory.mktemp("talker")
    (folder / "talker.py").write_text(TALKER)
    done = torchship(
        folder, "script", "talker:make", "--example", "talker:examples", "--name", "talker"
    )
    assert done.returncode == 0, done.stderr
    done.args = [folder]
    return done


@pytest.fixture(scope="module")
def folder(made: subprocess.CompletedProcess[str]) -> Path:
    path: Path = made.args[0]
    return path


def test_script_prints_its_own_line_alone(made: subprocess.CompletedProcess[str]) -> None:
    assert made.stdout.startswith("talker.pt: ")
    assert len(made.stdout.splitlines()) == 1
    said = set(made.stderr.splitlines())
    assert {"talker:make: imported", "talker:make: asked", "talker: made", "talker: \\xc3"} <= said
    assert {"talker: in a branch", "talker: warning: mind", "by the system"} <= said
    assert "talker: é\\x1b[2J" in said
    assert not any(line.startswith("moba:") for line in said)


def test_verify_agrees_in_all_runtimes_and_prints_json_alone(folder: Path) -> None:
    done = torchship(folder, "verify", "talker.pt", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    *with_libtorch, native, wasm = report["runtimes"]
    assert [(entry["runtime"], entry["error"]) for entry in with_libtorch] == [
        ("eager", ""), ("script", ""), ("C++", ""), ("HTTP", ""), ("gRPC", "")
    ]  # fmt: skip
    assert all("a string has no C" in entry["error"] for entry in (native, wasm))
    assert report["agreed"] is True


def test_verify_s_table_has_nothing_else_in_it(folder: Path) -> None:
    done = torchship(folder, "verify", "talker.pt", "--runtime", "eager", "--runtime", "script")
    assert done.stdout.splitlines()[-1] == "agreed"
    for printed in ("branch", "results", "forged", "made", "begun", "by the system"):
        assert printed not in done.stdout
    assert "talker: begun\n" in done.stderr


def test_what_the_binary_s_model_prints_is_passed_on_by_name(folder: Path) -> None:
    done = torchship(folder, "verify", "talker.pt", "--runtime", "cpp", "--json")
    assert json.loads(done.stdout)["agreed"] is True
    said = done.stderr.splitlines()
    assert "talker: \\xc3" in said
    assert "talker: in a branch" in said
    assert not any(line.startswith("torchship-runner") for line in said)


@pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full"])
@pytest.mark.parametrize("runtime", ["script", "cpp"])
def test_a_standard_error_that_is_closed_or_full_fails_no_runtime(
    runtime: str, redirect: str, folder: Path
) -> None:
    done = torchship(
        folder, "verify", "talker.pt", "--runtime", runtime, "--json", redirect=redirect
    )
    assert json.loads(done.stdout)["agreed"] is True


@pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full"])
@pytest.mark.parametrize("command", ["run", "verify", "bench"])
def test_the_binary_answers_without_a_standard_error(
    command: str, redirect: str, folder: Path
) -> None:
    options = {"run": ["--input", "-"], "verify": ["--json"], "bench": ["--json", "--seconds", "0"]}
    done = subprocess.run(
        redirected(redirect, runner_path(), command, "talker.pt", *options[command]),
        input='{"x": [[1, 2]], "text": "told"}\n',
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0
    assert isinstance(json.loads(done.stdout), dict)


def test_the_binary_goes_on_when_nobody_reads_its_standard_error(folder: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [runner_path(), "verify", folder / "talker.pt", "--json"],
        stdout=subprocess.PIPE,
        stderr=write,
        check=False,
    )
    os.close(write)
    assert json.loads(done.stdout)["agreed"] is True


def test_a_stream_of_steps_holds_answers_alone(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Stepper(open_archive(folder / "talker.pt"), "forward") as binary:
        for step in range(3):
            binary.write(b'{"x": [[%d, %d]], "text": "{}"}\n' % (step, step))
            assert binary.receive()["output"].tolist() == [[2 * step, 2 * step]]
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("talker: in a branch\n") == 3


def test_a_model_may_print_more_than_any_pipe_holds(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A parent that read one pipe after the other, or kept all, would hang or grow."""
    with Stepper(open_archive(folder / "talker.pt"), "forward") as binary:
        line = json.dumps({"x": [[1, 1]], "text": "line\n" * 100_000}) + "\n"
        binary.write(line.encode())
        assert binary.receive()["output"].tolist() == [[2, 2]]
    assert capfd.readouterr().err.count("talker: line\n") == 100_000


@pytest.mark.parametrize("said", [r"hello\\n", r"[1]\\n", r"\\377\\n", ""])
def test_an_answer_that_is_no_json_is_one_message(
    said: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary = tmp_path / "runner"
    binary.write_text(f'#!/bin/sh\nprintf "{said}"\n')
    binary.chmod(0o755)
    monkeypatch.setattr(child, "runner_path", lambda: binary)
    archive = open_archive(folder / "talker.pt")
    with pytest.raises(UsageError, match=r"^torchship-runner verify: expected a JSON object, got"):
        CppRuntime().check(archive)
    wanted = r"run: expected a JSON object, got" if said else r"run ended with exit code 0: it said"
    with (
        Stepper(archive, "forward") as stepper,
        pytest.raises(UsageError, match=rf"^torchship-runner {wanted}"),
    ):
        stepper.receive()


LOUD = """
import torch
from torch import Tensor, nn
from torchship.models.training import store
from torchship.models.snake_policy import SnakePolicy
from torchship.models.seeding import with_weights

class Loud(SnakePolicy):
    @torch.jit.export
    def act(self, obs: Tensor) -> Tensor:
        print("I see", obs.shape)
        logits, _ = self.forward(obs)
        return logits.argmax(1, keepdim=True)

def make() -> nn.Module:
    return with_weights(Loud, store.load("snake"))
"""


def test_printing_does_not_change_a_policys_game(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loud_policy.py").write_text(LOUD)
    monkeypatch.syspath_prepend(str(tmp_path))
    loud = importlib.import_module("loud_policy").make
    target = find_target("snake", None, {})
    target = replace(target, factory=loud, source=source_of("loud_policy:make", loud, {}))
    export(target, tmp_path / "loud.pt")
    done = torchship(
        tmp_path, "play", "snake", "--archive", "loud.pt", "--compare", "--steps", 20, "--snakes", 2
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert "identical for 20 steps" in done.stdout
    said = done.stderr.splitlines()
    assert said.count("snake: I see [2, 11, 11]") >= 3 * 20  # script, C++ and the C++ game
    assert said.count("snake: I see torch.Size([2, 11, 11])") == 20  # eager


CHATTY_LIBRARY = '#include <cstdio>\n__attribute__((constructor)) void f() { puts("registered"); }'


@pytest.fixture(scope="module")
def acme(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with libacme_ops.so, which prints while it is loaded and registers nothing."""
    folder = tmp_path_factory.mktemp("acme")
    (folder / "acme.cpp").write_text(CHATTY_LIBRARY)
    library, source = str(folder / "libacme_ops.so"), str(folder / "acme.cpp")
    subprocess.run(["g++", "-shared", "-fPIC", "-o", library, source], check=True)
    return folder


def test_a_library_of_operators_that_prints_is_not_believed(acme: Path) -> None:
    needed = [("acme::nothing", acme / "libacme_ops.so")]
    assert load_apart(needed) == (0, "")
    relu = ("aten::relu", acme / "libacme_ops.so")  # is there already: nothing is loaded
    assert load_apart([relu, *needed]) == (1, "")
    assert load_apart([relu]) is None


def test_a_library_s_prints_are_no_answers_of_the_binary(acme: Path, tmp_path: Path) -> None:
    archive = export(find_target("fizzbuzz", None, {}), tmp_path / "fizzbuzz.pt")
    missing = CustomOperator(name="acme::nothing", library="acme_ops")
    said = archive.require_manifest().model_copy(update={"custom_ops": (missing,)})
    (tmp_path / "acme.pt").write_bytes(
        pack(torchscript_file.save(archive.load()), said, archive.golden)
    )
    done = subprocess.run(
        [runner_path(), "verify", tmp_path / "acme.pt", "--json", "--operators", acme],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert json.loads(done.stdout)["code"] == "missing_operator"
    assert "registered\n" in done.stderr
    done = torchship(
        tmp_path, "verify", "acme.pt", "--operators", acme, "--runtime", "cpp", "--json"
    )
    (cpp,) = json.loads(done.stdout)["runtimes"]
    assert "'libacme_ops.so' does not register it" in cpp["error"].replace(f"{acme}/", "")
