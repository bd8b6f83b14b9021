"""An archive of what was compiled before: every runtime agrees with it, and says what it is."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import zoo
from torchship.agreement import all_runtimes, verify_archive
from torchship.cpp_runner.binary import runner_path
from torchship.script.exporting.export import export
from torchship.script.format.manifest import Source

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own notices that torch.jit is old

FACTORY = f"{__name__}:make"


def make() -> object:
    return torch.jit.script(zoo.linear())


def test_every_runtime_agrees_with_the_factory_s_module(tmp_path: Path) -> None:
    target = zoo.target(make, zoo.rows)
    archive = export(replace(target, source=Source(factory=FACTORY)), tmp_path / "whole.pt")
    report = verify_archive(archive, list(all_runtimes(consent=FACTORY).values()), FACTORY)
    assert [result.error for result in report.results] == [""] * 7
    assert report.agreed

    def inspect(*options: str) -> str:
        return subprocess.run(
            [runner_path(), "inspect", *options, tmp_path / "whole.pt"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert json.loads(inspect("--json"))["source"]["compiled"] == [""]
    assert "compiled before  the whole module: no eager code vouches" in inspect()
