"""Our models through the whole journey: four runtimes, one set of numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from torchship.cpp_runner.binary import runner_path
from torchship.models import registry
from torchship.script import torchscript
from torchship.script.archive import open_archive, pack
from torchship.script.export import export
from torchship.script.target import find_target

RUNTIMES = ["eager", "script", "C++", "HTTP"]


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archives")
    for name in registry.names():
        export(find_target(name, None, {}), folder / f"{name}.pt")
    return folder


def torchship(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torchship", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", registry.names())
def test_all_four_runtimes_are_bit_identical(name: str, archives: Path) -> None:
    done = torchship("verify", archives / f"{name}.pt", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["agreed"] is True
    assert [entry["runtime"] for entry in report["runtimes"]] == RUNTIMES
    for entry in report["runtimes"]:
        assert entry["p50_us"] > 0
        for output in entry["outputs"]:
            assert output["bit_identical"], (entry["runtime"], output)
            assert (output["max_abs"], output["max_rel"], output["max_ulp"]) == (0, 0, 0)


def test_recurrent_golden_cases_take_three_steps_and_a_state_that_is_not_zero(
    archives: Path,
) -> None:
    for name, state in (("lstm", "hidden.1"), ("moba", "c")):
        cases = open_archive(archives / f"{name}.pt").golden
        assert any(len(case.steps) >= 3 for case in cases)
        assert any(bool(case.steps[0].inputs.get(state, torch.zeros(1)).any()) for case in cases)


def test_a_mismatch_ends_with_exit_code_1_in_both_commands(archives: Path, tmp_path: Path) -> None:
    archive = open_archive(archives / "fizzbuzz.pt")
    module = archive.load()
    with_other_bias = module.state_dict()
    for name, tensor in with_other_bias.items():
        if name.endswith("bias"):
            tensor += 0.01
    path = tmp_path / "wrong.pt"
    path.write_bytes(pack(torchscript.save(module), archive.vouched, archive.golden))
    done = torchship("verify", path, "--runtime", "script", "--runtime", "cpp")
    assert done.returncode == 1
    assert "NOT AGREED" in done.stdout
    assert "first submodule that differs: " in done.stdout
    runner = subprocess.run([runner_path(), "verify", path], capture_output=True, check=False)
    assert runner.returncode == 1


def test_exit_codes_of_bad_usage_and_bad_archives(archives: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.pt"
    bad.write_bytes((archives / "fizzbuzz.pt").read_bytes()[:-100])
    for arguments, code, message in (
        (["verify", bad], 3, "'bad.pt': not a readable zip"),
        (["verify", tmp_path / "none.pt"], 3, "No such file"),
        (["verify", archives / "fizzbuzz.pt", "--runtime", "java"], 2, "--runtime 'java'"),
        (["script", "fizbuzz"], 2, "no model 'fizbuzz'"),
        (["inspect", bad], 3, "'bad.pt': not a readable zip"),
    ):
        done = torchship(*arguments)
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        assert done.stderr.startswith("torchship: error: ")
        assert message in done.stderr
        assert "Traceback" not in done.stderr
