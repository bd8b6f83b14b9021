"""Wrappers and recomputed weights are refused; the message names what to ship instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import unshippable
import zoo
from torchship.script.errors import ExportError
from torchship.script.exporting.export import Options, export

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own notices of what is deprecated


def refusal(factory: Callable[[], object], folder: Path, options: Options | None = None) -> str:
    examples = [{"input": row["x"]} for row in zoo.rows()]
    with pytest.raises(ExportError) as caught:
        export(zoo.target(factory, examples), folder / "refused.pt", options)
    assert list(folder.iterdir()) == []
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("factory", "what", "remedy"),
    [
        (
            unshippable.weight_norm,
            "'0' computes its weight anew at every call (weight norm)",
            "torch.nn.utils.remove_weight_norm(model[0], 'weight')",
        ),
        (
            unshippable.spectral_norm,
            "'0' computes its weight anew at every call (spectral norm)",
            "torch.nn.utils.remove_spectral_norm(model[0], 'weight')",
        ),
        (
            unshippable.pruned,
            "'0' computes its weight anew at every call (pruning)",
            "torch.nn.utils.prune.remove(model[0], 'weight')",
        ),
        (
            unshippable.parametrised_weight_norm,
            "(the parametrisation WeightNorm)",
            "torch.nn.utils.parametrize.remove_parametrizations(model[0], 'weight')",
        ),
        (
            unshippable.parametrised_spectral_norm,
            "(the parametrisation SpectralNorm)",
            "torch.nn.utils.parametrize.remove_parametrizations(model[0], 'weight')",
        ),
        (
            unshippable.orthogonal,
            "(the parametrisation Orthogonal)",
            "torch.nn.utils.parametrize.remove_parametrizations(model[0], 'weight')",
        ),
    ],
)
def test_what_is_named_for_a_computed_weight_makes_the_module_ship(
    factory: Callable[[], nn.Module], what: str, remedy: str, tmp_path: Path
) -> None:
    message = refusal(factory, tmp_path)
    assert what in message
    assert remedy in message

    def mended() -> nn.Module:
        model = factory()
        exec(remedy, {"torch": torch, "model": model})
        return model

    with torch.no_grad():
        torch.manual_seed(0)
        before = factory()(torch.ones(2, 3))
        torch.manual_seed(0)
        assert torch.allclose(mended()(torch.ones(2, 3)), before)
    module = mended()
    examples = [{"input": row["x"]} for row in zoo.rows()]
    export(zoo.target(lambda: module, examples), tmp_path / "mended.pt")


def test_spectral_norm_is_no_hidden_state_in_a_trace_either(tmp_path: Path) -> None:
    message = refusal(unshippable.spectral_norm, tmp_path, Options(mode="trace"))
    assert "remove_spectral_norm(model[0], 'weight')" in message


def test_a_trace_records_what_weight_norm_computes(tmp_path: Path) -> None:
    examples = [{"input": row["x"]} for row in zoo.rows()]
    for factory in (unshippable.weight_norm, unshippable.parametrised_weight_norm):
        torch.manual_seed(0)
        module = factory()
        target = zoo.target(lambda module=module: module, examples)  # type: ignore[misc]
        export(target, tmp_path / "traced.pt", Options(mode="trace"))


@pytest.mark.parametrize("mode", ["script", "trace"])
@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        (unshippable.torch_compiled, "the module is what torch.compile returns: ship the module"),
        (unshippable.torch_compiled, "its attribute '_orig_mod' (return model._orig_mod in the"),
        (unshippable.torch_compiled_part, "'0' is what torch.compile returns: put the module that"),
        (unshippable.torch_compiled_part, "in its place, its attribute '_orig_mod'"),
        (unshippable.data_parallel, "the module is a wrapper (DataParallel): ship the module that"),
        (unshippable.data_parallel, "its attribute 'module' (return model.module in the factory)"),
        (unshippable.data_parallel_part, "'body' is a wrapper (DataParallel): put the module"),
        (unshippable.averaged, "the module is a wrapper (AveragedModel)"),
        (unshippable.compiled_in_place, "'0' was compiled in place: leave its .compile() out"),
        (unshippable.exported, "the module comes from torch.export"),
    ],
)
def test_wrappers_are_named_with_what_they_wrap(
    factory: Callable[[], object], expected: str, mode: str, tmp_path: Path
) -> None:
    options = Options(mode="trace" if mode == "trace" else "script")
    assert expected in refusal(factory, tmp_path, options)


def test_an_exported_program_cannot_be_put_in_eval_mode(tmp_path: Path) -> None:
    message = refusal(unshippable.exported, tmp_path, Options(eval_mode=True))
    assert "ship the nn.Module that was exported" in message


@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        (unshippable.hooked, "'0' has a hook that is a Hook: TorchScript compiles only functions"),
        (unshippable.hooked_by_a_partial, "the module has a hook that is a partial: TorchScript"),
    ],
)
def test_hooks_that_are_no_functions(
    factory: Callable[[], object], expected: str, tmp_path: Path
) -> None:
    assert expected in refusal(factory, tmp_path)


def test_dynamic_quantisation_leaves_its_modules_in_training_mode(tmp_path: Path) -> None:
    message = refusal(unshippable.quantised, tmp_path)
    assert "in training mode (0): quantisation makes its modules in that mode" in message
    assert "call .eval() on what it returns" in message
    message = refusal(unshippable.quantised_lstm, tmp_path)
    assert "quantisation makes its modules in that mode" in message
    examples = [{"input": row["x"]} for row in zoo.rows()]
    target = zoo.target(lambda: unshippable.quantised().eval(), examples)
    export(target, tmp_path / "quantised.pt")


def test_a_quantised_module_in_training_mode_is_refused_for_dropout(tmp_path: Path) -> None:
    message = refusal(lambda: unshippable.sequential().train(), tmp_path)
    assert "dropout and batch normalisation" in message
