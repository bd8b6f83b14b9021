"""The checker checked: a wrong model in an archive is caught in every runtime."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import zoo
from torchship.agreement import ALIKE, all_runtimes, verify_archive
from torchship.script.exporting.export import export
from torchship.script.format.golden import Case, Step
from torchship.script.runtime import torchscript, torchscript_file
from torchship.script.runtime.archive import Archive, open_archive, pack

SHIPPED = ("script", "cpp", "http")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return export(zoo.network_target(), tmp_path_factory.mktemp("good") / "network.pt")


def forge(good: Archive, module: nn.Module, path: Path) -> Archive:
    """An archive whose manifest and golden cases are the good one's, and its module another."""
    scripted = (
        module
        if isinstance(module, torch.jit.ScriptModule)
        else torchscript.compile_module(module, "script", {})
    )
    path.write_bytes(pack(torchscript_file.save(scripted), good.require_manifest(), good.golden))
    return open_archive(path)


def copied(change: Callable[[zoo.Network], object]) -> zoo.Network:
    module = zoo.network()
    with torch.no_grad():
        change(module)
    return module


def stale() -> nn.Module:
    module: nn.Module = zoo.Stale().eval()
    module.load_state_dict(zoo.network().state_dict(), strict=False)
    return module


def untouched() -> nn.Module:
    module: nn.Module = zoo.Untouched(zoo.Gates()).eval()
    module.load_state_dict(zoo.network().state_dict())
    return module


MUTANTS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "f*x for f*c": (lambda: zoo.network(zoo.ForgetsX()), "'gates'"),
    "gates swapped": (lambda: zoo.network(zoo.SwapsGates()), "'gates'"),
    "a square weight transposed": (
        lambda: copied(lambda m: m.head.weight.copy_(m.head.weight.T.clone())),
        "'head' (its weight differ)",
    ),
    "a bias dropped": (lambda: copied(lambda m: m.hh.bias.zero_()), "'hh' (its bias differ)"),
    "a cast to half": (
        lambda: copied(lambda m: m.ih.weight.copy_(m.ih.weight.half().float())),
        "'ih' (its weight differ)",
    ),
    "batch normalisation in training mode": (lambda: copied(lambda m: m.norm.train()), "'norm'"),
    "a stale output buffer": (stale, "no submodule differs"),
    "a state that is not handed on": (untouched, "no submodule differs"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught_in_every_runtime(name: str, good: Archive, tmp_path: Path) -> None:
    make, place = MUTANTS[name]
    archive = forge(good, make(), tmp_path / "network.pt")
    runtimes = all_runtimes()
    report = verify_archive(archive, [runtimes[runtime] for runtime in SHIPPED])
    assert [result.agreed for result in report.results] == [False, False, False], name
    assert place in report.first_difference


def test_a_traced_branch_is_caught(good: Archive, tmp_path: Path) -> None:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter makes them errors
        inputs = dict(good.golden[0].steps[0].inputs)
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            zoo.network(), example_kwarg_inputs=inputs, check_trace=False
        )
    archive = forge(good, traced, tmp_path / "network.pt")
    runtimes = all_runtimes()
    report = verify_archive(archive, [runtimes[runtime] for runtime in SHIPPED])
    assert [result.agreed for result in report.results] == [False, False, False]


def test_an_edited_golden_case_is_caught_in_every_runtime(good: Archive, tmp_path: Path) -> None:
    case = good.golden[1]
    y = case.steps[0].outputs["y"].clone()
    y[0, 3] += 1e-3
    edited = Step(case.steps[0].inputs, case.steps[0].outputs | {"y": y})
    cases: list[Case] = [good.golden[0], replace(case, steps=(edited, *case.steps[1:]))]
    cases += good.golden[2:]
    path = tmp_path / "network.pt"
    path.write_bytes(pack(torchscript_file.save(good.load()), good.require_manifest(), cases))
    report = verify_archive(open_archive(path), list(all_runtimes().values()))
    assert [result.agreed for result in report.results] == [False] * 7
    for result in report.results[:3]:
        (wrong,) = [d for d in result.differences if not d.agreed]
        assert (wrong.case, wrong.step, wrong.output) == (1, 0, "y")
        assert wrong.max_abs == pytest.approx(1e-3, rel=1e-3)
    assert "1 of 24 values differ" in report.results[3].error
    assert report.first_difference == ALIKE


def test_the_good_one_agrees_in_every_runtime(good: Archive) -> None:
    report = verify_archive(good, list(all_runtimes().values()))
    assert report.agreed, report.to_json()
    for result in report.results[:4]:  # those with LibTorch
        assert all(difference.bit_identical for difference in result.differences), result.runtime
    assert report.first_difference == ""
