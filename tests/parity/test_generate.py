"""Names drawn inside the script: one seed, the same names in every runtime."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

from torchship.cpp_runner.binary import runner_path
from torchship.models.names import decode
from torchship.script.exporting.export import export
from torchship.script.exporting.target import find_target, make_module
from torchship.script.runtime.archive import Archive
from torchship.script.runtime.program import Program
from torchship.serve.client.client import Client
from torchship.serve.client.local_server import running_server

ARGUMENTS = {"count": 20, "seed": 2**53 + 1, "max_length": 12}


@pytest.fixture(scope="module", params=["makemore-flat", "wavenet", "charlstm"])
def archive(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Archive:
    name = request.param
    return export(find_target(name, None, {}), tmp_path_factory.mktemp("names") / f"{name}.pt")


def names_in(program: Program) -> list[str]:
    inputs = {name: torch.tensor(value) for name, value in ARGUMENTS.items()}
    return decode(program.call("generate", inputs)["names"])


def names_in_cpp(path: Path) -> list[str]:
    command = [str(runner_path()), "run", str(path), "--method", "generate", "--input", "-"]
    done = subprocess.run(
        command, input=json.dumps(ARGUMENTS), capture_output=True, text=True, check=True
    )
    return decode(torch.tensor(json.loads(done.stdout)["names"]))


def names_over_http(archive: Archive, binary: bool) -> list[str]:
    manifest = archive.require_manifest()
    inputs = {name: torch.tensor(value) for name, value in ARGUMENTS.items()}
    with running_server([archive.path]) as url, Client(url) as client:
        method = manifest.methods["generate"]
        outputs = client.infer(manifest.name, method, inputs, method="generate", binary=binary)
    return decode(outputs["names"])


def test_one_seed_gives_the_same_names_everywhere(archive: Archive) -> None:
    eager = names_in(
        Program(archive.require_manifest(), make_module(archive.require_manifest().source))
    )
    assert len(set(eager)) > 10
    assert all(0 < len(name) <= 12 for name in eager)
    assert names_in(archive.program()) == eager
    assert names_in_cpp(archive.path) == eager
    assert names_over_http(archive, binary=True) == eager
    assert names_over_http(archive, binary=False) == eager


def test_the_seed_is_read_to_its_last_bit(archive: Archive) -> None:
    """2**53 + 1 is no double: a JSON reader that rounds would draw the names of 2**53."""
    program = archive.program()
    inputs = {name: torch.tensor(value) for name, value in ARGUMENTS.items()}
    other = program.call("generate", inputs | {"seed": torch.tensor(2**53)})["names"]
    assert decode(other) != names_in(program)
