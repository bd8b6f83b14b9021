"""The first submodule that differs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import zoo
from torchship.script.exporting.export import export
from torchship.script.exporting.localise import first_difference
from torchship.script.runtime.archive import Archive
from torchship.script.runtime.program import Program


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return export(zoo.network_target(), tmp_path_factory.mktemp("localise") / "network.pt")


def changed(archive: Archive, *names: str) -> Program:
    """The archive's module with some parameters changed."""
    program = archive.program()
    with torch.no_grad():
        for name, tensor in program.module.state_dict().items():
            if name in names:
                tensor += 0.5
    return program


def blamed(archive: Archive, program: Program) -> str:
    return first_difference(zoo.network(), program, archive.golden[0])


def test_nothing_is_blamed_when_nothing_differs(archive: Archive) -> None:
    assert blamed(archive, archive.program()) == ""


@pytest.mark.parametrize("name", ["norm.running_mean", "ih.weight", "hh.bias", "head.weight"])
def test_the_submodule_with_the_wrong_weight_is_blamed(archive: Archive, name: str) -> None:
    path, _, weight = name.partition(".")
    expected = f"first submodule that differs: '{path}' (its {weight} differ)"
    assert blamed(archive, changed(archive, name)) == expected


def test_the_first_of_two_is_blamed(archive: Archive) -> None:
    message = blamed(archive, changed(archive, "head.bias", "ih.bias"))
    assert message == "first submodule that differs: 'ih' (its bias differ)"


def test_hooks_are_gone_afterwards(archive: Archive) -> None:
    eager = zoo.network()
    first_difference(eager, changed(archive, "head.bias"), archive.golden[0])
    assert all(not module._forward_hooks for module in eager.modules())


def test_a_layer_that_works_in_place_is_not_blamed(tmp_path: Path) -> None:
    target = zoo.target(zoo.in_place, zoo.in_place_examples)
    sequence = export(target, tmp_path / "a.pt")
    program = changed(sequence, "2.weight")
    message = first_difference(zoo.in_place(), program, sequence.golden[0])
    assert message == "first submodule that differs: '2' (its weight differ)"
