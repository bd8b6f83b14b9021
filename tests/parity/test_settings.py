"""What the numbers depend on beside the archive is set alike in Python and in C++."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from torchship.cpp_runner.binary import runner_path
from torchship.script.exporting.export import export
from torchship.script.exporting.target import find_target
from torchship.script.runtime import torchscript, torchscript_file
from torchship.script.runtime.program import Program

# What torchship sets or takes for granted, as a new process finds it. Not this one's: other tests
# have changed it.
IN_FORCE = """
import json, torch
from torchship.script.runtime import torchscript_file, torchscript
{before}
torchscript.configure({arguments})
print(json.dumps(torchscript.settings_in_force()))
"""


@pytest.fixture(scope="module")
def fizzbuzz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(find_target("fizzbuzz", None, {}), tmp_path_factory.mktemp("a") / "a.pt").path


def python_settings(arguments: str = "", before: str = "") -> dict[str, Any]:
    code = IN_FORCE.format(arguments=arguments, before=before)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    settings: dict[str, Any] = json.loads(done.stdout)
    return settings


def cpp_settings(archive: Path) -> dict[str, Any]:
    command = [str(runner_path()), "bench", str(archive), "--seconds", "0", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    settings: dict[str, Any] = json.loads(done.stdout)["settings"]
    return settings


def test_both_languages_set_the_same(fizzbuzz: Path) -> None:
    ours = cpp_settings(fizzbuzz)
    defaults = asdict(torchscript.DEFAULTS)
    assert python_settings() | defaults == ours
    assert {name: ours[name] for name in defaults} == defaults
    assert ours["interop_threads"] == 1
    assert ours["float32_matmul"] == "highest"


def test_what_somebody_set_before_does_not_stay() -> None:
    others = "torch.set_num_threads(2); torch._C._jit_set_texpr_fuser_enabled(True)"
    assert python_settings(before=others) == python_settings()


def test_threads_between_operators_are_set_once_and_may_have_been() -> None:
    assert python_settings(before="torch.set_num_interop_threads(2)")["interop_threads"] == 2


@pytest.mark.parametrize("fusion", ["static", "dynamic"])
def test_the_fuser_can_be_asked_for(fusion: str) -> None:
    settings = python_settings(f"threads=2, fusion='{fusion}'")
    fused = {"threads": 2, "fusion": fusion, "profiling_executor": True}
    assert settings == python_settings() | fused


def test_a_frozen_module_keeps_its_methods(tmp_path: Path) -> None:
    archive = export(find_target("moba", None, {}), tmp_path / "moba.pt")
    frozen = torchscript_file.load(archive.data, freeze=True)
    assert list(archive.load().parameters())
    assert not list(frozen.parameters())
    case = next(case for case in archive.golden if case.method == "act")
    outputs = Program(archive.require_manifest(), frozen).call("act", case.steps[0].inputs)
    expected = archive.program().call("act", case.steps[0].inputs)
    assert outputs.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(outputs[name], value)
