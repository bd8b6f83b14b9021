"""Exports, and refusals with their reasons."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from torchship.script.errors import ExportError, TorchShipError, UsageError
from torchship.script.exporting.export import Options, export
from torchship.script.exporting.target import Target, find_target
from torchship.script.format.golden import run_case
from torchship.script.format.nodes import leaves
from torchship.script.runtime import torchscript
from torchship.script.runtime.archive import open_archive
from torchship.script.runtime.program import Program


def refusal(target: Target, tmp_path: Path, options: Options | None = None) -> str:
    """The message with which an export is refused; nothing may be written."""
    with pytest.raises(TorchShipError) as caught:
        export(target, tmp_path / "refused.pt", options)
    assert list(tmp_path.iterdir()) == []
    return str(caught.value)


def test_a_saved_archive_reproduces_the_eager_module(tmp_path: Path) -> None:
    export(zoo.target(zoo.linear, zoo.rows), tmp_path / "a.pt")
    archive = open_archive(tmp_path / "a.pt")
    x = zoo.noise(9, 6, 3)
    with torch.no_grad():
        expected = zoo.linear()(x)
    assert torch.equal(archive.program().call("forward", {"x": x})["output"], expected)


def test_golden_outputs_are_the_eager_modules(tmp_path: Path) -> None:
    archive = export(zoo.target(zoo.linear, zoo.rows), tmp_path / "a.pt")
    eager = zoo.linear()
    assert [case.name for case in archive.golden] == [
        "forward example 0",
        "forward example 1",
        "batch 1",
        "batch 5",
    ]
    for case in archive.golden:
        with torch.no_grad():
            expected = eager(case.steps[0].inputs["x"])
        assert torch.equal(case.steps[0].outputs["output"], expected)


def test_every_kind_of_argument_and_result(tmp_path: Path) -> None:
    archive = export(zoo.target(zoo.everything, zoo.everything_examples), tmp_path / "a.pt")
    method = archive.require_manifest().methods["forward"]
    names = [leaf.name for argument in method.inputs for leaf in leaves(argument.value)]
    assert names == [
        *("x", "memory.h", "memory.c", "options.plus.0", "options.plus.1"),
        *("options.minus.0", "options.minus.1", "parts.*", "sizes.0", "sizes.1"),
        *("pair.0", "pair.1", "times", "flip", "tag"),
    ]
    assert [leaf.name for leaf in leaves(method.outputs)] == [
        *("output.0", "output.1.sum", "output.1.long"),
        *("output.2.0.h", "output.2.0.c", "output.2.1.h", "output.2.1.c"),
    ]
    assert [argument.required for argument in method.inputs] == [True] * 5 + [False] * 4
    eager = Program(archive.require_manifest(), zoo.everything())
    scripted = archive.program()
    for case in archive.golden:
        for program in (eager, scripted):
            outputs = run_case(program.call, method, case)[0]
            assert outputs.keys() == case.steps[0].outputs.keys()
            for name, tensor in outputs.items():
                assert torch.equal(tensor, case.steps[0].outputs[name]), name


def test_state_is_carried_through_three_steps(tmp_path: Path) -> None:
    archive = export(zoo.accumulator_target(), tmp_path / "a.pt")
    unrolled = [case for case in archive.golden if len(case.steps) == 3]
    assert unrolled
    eager = zoo.accumulator()
    for case in unrolled:
        total = case.steps[0].inputs.get("total", torch.zeros(len(case.steps[0].inputs["x"]), 4))
        for index, step in enumerate(case.steps):
            assert index == 0 or "total" not in step.inputs
            with torch.no_grad():
                y, total = eager(step.inputs["x"], total)
            assert torch.equal(y, step.outputs["y"])
            assert torch.equal(total, step.outputs["total"])
    assert len({tuple(step.outputs["y"].flatten().tolist()) for step in unrolled[0].steps}) == 3


def test_the_same_module_gives_the_same_bytes(tmp_path: Path) -> None:
    first = export(zoo.target(zoo.linear, zoo.rows), tmp_path / "a.pt")
    second = export(zoo.target(zoo.linear, zoo.rows), tmp_path / "b.pt")
    assert first.data == second.data == (tmp_path / "a.pt").read_bytes()


def test_a_refusal_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(b"precious")
    with pytest.raises(ExportError):
        export(zoo.target(zoo.guessing, zoo.rows), path)
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot write '.*nowhere.*': No such file or directory"):
        export(zoo.target(zoo.linear, zoo.rows), tmp_path / "nowhere" / "a.pt")


def test_training_mode_is_refused(tmp_path: Path) -> None:
    message = refusal(zoo.target(zoo.training, zoo.rows), tmp_path)
    assert "in training mode" in message
    assert "--eval" in message


def test_training_mode_is_left_when_the_user_says_so(tmp_path: Path) -> None:
    archive = export(zoo.target(zoo.training, zoo.rows), tmp_path / "a.pt", Options(eval_mode=True))
    x = zoo.noise(9, 6, 3)
    with torch.no_grad():
        expected = zoo.training().eval()(x)
    assert torch.equal(archive.program().call("forward", {"x": x})["output"], expected)


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    message = refusal(zoo.target(zoo.not_finite, zoo.rows), tmp_path)
    assert "'layer.bias' holds 1 NaN of 4 values: expected numbers" in message


def test_weights_that_are_infinite(tmp_path: Path) -> None:
    message = refusal(zoo.target(zoo.diverged, zoo.rows), tmp_path)
    assert "'layer.bias' holds 2 infinite values of 4: expected finite weights" in message


@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        (zoo.remembering, "two equal calls of the module's forward differ"),
        (zoo.guessing, "two equal calls of the module's forward differ"),
        (zoo.counting, "calling the module changes its 'count'"),
        (zoo.overwriting, "changes its argument 'x' in place"),
        (zoo.mixing, "tensors only"),
        (zoo.running_maximum, "two equal calls of the module's forward differ"),
        (zoo.aliasing, "two equal calls of the module's forward differ"),
        (zoo.not_finite_attribute, "'scale' holds 1 NaN of 2 values"),
        (zoo.not_finite_list, "'scales.1' holds 1 NaN of 1 values"),
    ],
)
def test_modules_that_misbehave(
    factory: Callable[[], object], expected: str, tmp_path: Path
) -> None:
    assert expected in refusal(zoo.target(factory, zoo.rows), tmp_path)


def test_a_module_that_changes_the_callers_list(tmp_path: Path) -> None:
    examples = [{"x": [zoo.noise(n, n, 3), zoo.noise(n + 9, n, 3)]} for n in (2, 3)]
    assert "changes its argument 'x'" in refusal(zoo.target(zoo.appending, examples), tmp_path)


def test_an_example_that_the_module_rejects(tmp_path: Path) -> None:
    examples = [*zoo.rows(), {"x": zoo.noise(3, 2, 7)}]
    message = refusal(zoo.target(zoo.linear, examples), tmp_path)
    assert "rejects example 2: RuntimeError" in message


@pytest.mark.parametrize(
    ("factory", "line", "change"),
    [
        (zoo.with_lambda, "double = lambda t: t * 2", "plain loops"),
        (zoo.outside, "random.choice", "TorchScript"),
    ],
)
def test_code_that_torch_jit_cannot_compile(
    factory: Callable[[], object], line: str, change: str, tmp_path: Path
) -> None:
    message = refusal(zoo.target(factory, zoo.rows), tmp_path)
    assert "torch.jit cannot script the module at " in message
    assert line in message
    assert change in message
    number = int(message.split("zoo.py:")[1].split(" ")[0].rstrip(":"))
    assert line in Path(zoo.__file__).read_text().splitlines()[number - 1]


def test_a_missing_annotation_is_named(tmp_path: Path) -> None:
    examples = [{"x": zoo.noise(n, n, 3), "times": n} for n in (2, 3)]
    message = refusal(zoo.target(zoo.unannotated, examples), tmp_path)
    assert "annotate the argument's type" in message


@pytest.mark.parametrize(
    ("examples", "expected"),
    [
        (
            [{"x": zoo.noise(1, 2, 3)}, {"x": zoo.noise(2, 2, 3)}],
            "every example has the same sizes",
        ),
        ([{"x": zoo.noise(1, 2, 3)}, {"x": zoo.noise(2, 4, 3).double()}], "rejects example 1"),
        ([{"x": 3}], "rejects example 0"),
        ([], "expected a list of examples"),
        ([3], "expected a dict of keyword arguments"),
        ({"forward": zoo.rows(), "fly": zoo.rows()}, "a method 'fly', which the module does not"),
    ],
)
def test_examples_that_do_not_do(examples: object, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=expected):
        export(zoo.target(zoo.linear, examples), tmp_path / "a.pt")


def test_one_size_is_enough_when_the_user_says_so(tmp_path: Path) -> None:
    target = zoo.target(zoo.linear, [{"x": zoo.noise(1, 2, 3)}])
    archive = export(target, tmp_path / "a.pt", Options(fixed=True))
    (leaf,) = leaves(archive.require_manifest().methods["forward"].inputs[0].value)
    assert leaf.model_dump()["shape"] == (2, 3)


def test_rows_that_depend_on_each_other_are_no_batch(tmp_path: Path) -> None:
    archive = export(zoo.target(zoo.coupling, zoo.rows), tmp_path / "a.pt")
    (leaf,) = leaves(archive.require_manifest().methods["forward"].inputs[0].value)
    assert leaf.model_dump()["shape"] == ("x_0", 3)
    independent = export(zoo.target(zoo.linear, zoo.rows), tmp_path / "b.pt")
    (leaf,) = leaves(independent.require_manifest().methods["forward"].inputs[0].value)
    assert leaf.model_dump()["shape"] == ("batch", 3)


def test_rows_that_lean_on_each_other_a_little_are_no_batch(tmp_path: Path) -> None:
    archive = export(zoo.target(zoo.leaning, zoo.rows), tmp_path / "a.pt")
    (leaf,) = leaves(archive.require_manifest().methods["forward"].inputs[0].value)
    assert leaf.model_dump()["shape"] == ("x_0", 3)


def test_what_the_user_says_goes_to_the_methods_that_it_fits(tmp_path: Path) -> None:
    options = Options(
        outputs={"forward": ["y", "total"], "act": ["choice", "total"]},
        state=[("total", "total", None)],
        dims={"x.0": "batch"},
    )
    target = zoo.target(zoo.acting, zoo.acting_examples)
    methods = export(target, tmp_path / "a.pt", options).require_manifest().methods
    assert [leaf.name for leaf in leaves(methods["act"].outputs)] == ["choice", "total"]
    for method in methods.values():
        (state,) = method.state
        assert (state.input, state.output, state.start) == ("total", "total", "zeros")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (Options(state=[("h", "total", None)]), "state names the input 'h', which no example"),
        (Options(state=[("total", "h", None)]), "state names 'h', which is no tensor output"),
        (
            Options(state=[("total", "output.1", "absent")]),
            "state 'total' starts absent, and may not be left out",
        ),
        (
            Options(state=[("total", "output.1", None), ("total", "output.1", None)]),
            "state input 'total' stands twice",
        ),
        (Options(dims={"y.0": "batch"}), "a dimension is named of the input 'y.0', which no"),
        (Options(outputs={"fly": ["y"]}), "outputs are named of 'fly'"),
    ],
)
def test_what_the_user_says_of_no_method(options: Options, expected: str, tmp_path: Path) -> None:
    assert expected in refusal(zoo.target(zoo.acting, zoo.acting_examples), tmp_path, options)


def test_a_step_that_gives_the_state_again(tmp_path: Path) -> None:
    steps = [{"x": zoo.noise(n, 2, 3), "total": zoo.noise(n + 5, 2, 4)} for n in range(2)]
    others = [{"x": zoo.noise(8, 3, 3), "total": zoo.noise(9, 3, 4)}]
    target = zoo.target(
        zoo.accumulator, [steps, others], state={"forward": [("total", "output.1", "zeros")]}
    )
    message = refusal(target, tmp_path)
    assert "forward example 0 gives the state 'total' after its first step" in message


def test_an_examples_function_that_fails() -> None:
    with pytest.raises(ExportError, match="'zoo:failing_examples' raised RuntimeError: no examp"):
        find_target("zoo:linear", "zoo:failing_examples", {})


def test_our_models_take_no_example_and_no_keyword() -> None:
    given: list[tuple[str | None, dict[str, Any]]] = [("zoo:rows", {}), (None, {"seed": 3})]
    for example, kwargs in given:
        with pytest.raises(UsageError, match="takes no --example and no --kwarg"):
            find_target("fizzbuzz", example, kwargs)


def test_examples_may_carry_gradients(tmp_path: Path) -> None:
    examples = [{"x": zoo.noise(n, n, 3).requires_grad_() * 2} for n in (2, 3)]
    export(zoo.target(zoo.linear, examples), tmp_path / "a.pt")


def test_a_false_batch_is_refused(tmp_path: Path) -> None:
    message = refusal(zoo.target(zoo.coupling, zoo.rows), tmp_path, Options(dims={"x.0": "batch"}))
    assert "rows of forward's dimension 'batch' are not independent" in message


def test_a_golden_output_that_is_nan(tmp_path: Path) -> None:
    examples = [*zoo.rows(), {"x": torch.zeros(2, 3)}]
    message = refusal(zoo.target(zoo.dividing, examples), tmp_path)
    assert "golden case 'forward example 2', step 0: output 'output' holds NaN" in message


def test_a_trace_that_loses_a_branch(tmp_path: Path) -> None:
    examples = [{"x": zoo.noise(1, 2, 3).abs()}, {"x": zoo.noise(2, 4, 3).abs()}]
    message = refusal(zoo.target(zoo.branching, examples), tmp_path, Options(mode="trace"))
    assert "a trace of the module would not compute the same for other inputs: at " in message
    number = int(message.split("zoo.py:")[1].split(",")[0])
    assert "if float(x.sum()) > 0" in Path(zoo.__file__).read_text().splitlines()[number - 1]
    export(zoo.target(zoo.branching, examples), tmp_path / "scripted.pt")


def test_a_trace_that_loses_a_loop(tmp_path: Path) -> None:
    message = refusal(zoo.target(zoo.looping, zoo.rows), tmp_path, Options(mode="trace"))
    assert "the compiled module fails where eager runs" in message


def test_a_trace_without_branches(tmp_path: Path) -> None:
    archive = export(zoo.target(zoo.linear, zoo.rows), tmp_path / "a.pt", Options(mode="trace"))
    assert archive.require_manifest().mode == "trace"


def test_a_compiler_that_changes_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = torchscript.compile_module

    def dishonest(module: torch.nn.Module, *rest: object) -> torch.jit.ScriptModule:
        changed = honest(module, *rest)  # type: ignore[arg-type]
        # A new tensor: the compiled module shares its weights with the eager one.
        changed.layer.bias = torch.nn.Parameter(changed.layer.bias + 1e-3)
        return changed

    monkeypatch.setattr(torchscript, "compile_module", dishonest)
    message = refusal(zoo.target(zoo.linear, zoo.rows), tmp_path)
    assert "does not agree with eager" in message
    assert "first submodule that differs: 'layer' (its bias differ)" in message


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            {"labels": {"output": ["a", "b"]}},
            "has 2 labels: expected as many as its last dimension",
        ),
        ({"labels": {"nothing": ["a"]}}, "labels for 'nothing', which is no output"),
        (
            {"state": {"forward": [("h", "output", "absent")]}},
            "state names 'h', which is no tensor input",
        ),
        (
            {"state": {"forward": [("x", "h", "absent")]}},
            "state names 'h', which is no tensor output",
        ),
        ({"outputs": {"forward": ["a", "b"]}}, "got 2 output names, and the module returns one"),
        ({"dims": {"x.1": "features"}}, "has the size 3 in every example"),
        ({"dims": {"x.5": "features"}}, "no input dimension 'x.5'"),
        ({"name": "a/b"}, "field 'name'"),
    ],
)
def test_the_users_options_must_fit(said: dict[str, Any], expected: str, tmp_path: Path) -> None:
    assert expected in refusal(zoo.target(zoo.linear, zoo.rows, **said), tmp_path)


def test_a_state_that_no_example_gives(tmp_path: Path) -> None:
    target = zoo.target(
        zoo.accumulator,
        [{"x": zoo.noise(1, 2, 3)}],
        state={"forward": [("total", "output.1", "zeros")]},
    )
    assert "gives its state total" in refusal(target, tmp_path)


def test_the_factory_and_the_example_are_found_by_name() -> None:
    target = find_target("zoo:linear", "zoo:rows", {})
    assert target.name == "linear"
    assert len(target.examples["forward"]) == 2


@pytest.mark.parametrize(
    ("text", "example", "expected"),
    [
        ("fizbuzz", None, "no model 'fizbuzz': ours are .*fizzbuzz"),
        ("nowhere.at.all:make", "zoo:rows", "cannot import 'nowhere.at.all'"),
        ("zoo:nothing", "zoo:rows", "module 'zoo' has no 'nothing'"),
        ("zoo:linear", None, "needs --example module:function"),
        ("zoo:linear", "zoo", "expected module:name"),
        ("zoo:__doc__", "zoo:rows", "expected a function or class"),
    ],
)
def test_names_that_lead_nowhere(text: str, example: str | None, expected: str) -> None:
    with pytest.raises(TorchShipError, match=expected):
        find_target(text, example, {})


@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        (zoo.not_a_module, r"'zoo:not_a_module' returned int: expected a torch.nn.Module"),
        (zoo.failing, r"'zoo:failing' raised RuntimeError: no weights today"),
    ],
)
def test_factories_that_make_no_module(
    factory: Callable[[], object], expected: str, tmp_path: Path
) -> None:
    assert expected in refusal(zoo.target(factory, zoo.rows), tmp_path)


def test_annotations_in_quotes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "quoted.py").write_text(
        """
from __future__ import annotations
import torch
from torch import Tensor, nn

class Quoted(nn.Module):
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return x - self.mean

def make() -> nn.Module:
    return Quoted().eval()

def examples() -> list[dict[str, Tensor]]:
    return [{"x": torch.randn(2, 3)}, {"x": torch.randn(4, 3)}]
"""
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ExportError, match=r"Unknown type annotation: 'Tensor'.* without `from"):
        export(find_target("quoted:make", "quoted:examples", {}), tmp_path / "quoted.pt")
    assert not (tmp_path / "quoted.pt").exists()


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ({"y": zoo.noise(1, 2, 3)}, "a step of an example gives the argument 'y': expected x, tot"),
        ({"x": [zoo.noise(1, 2, 3)]}, "the argument 'x' differs in structure from step to step: '"),
        (
            {"x": zoo.noise(1, 2)},
            r"not fit the first ones: input 'x': expected float32\[batch",
        ),
        ({"x": zoo.noise(1, 2, 3).double()}, "does not fit the first ones: input 'x': expected fl"),
    ],
)
def test_later_steps_of_an_example_that_do_not_fit(
    step: dict[str, object], expected: str, tmp_path: Path
) -> None:
    examples = [[{"x": zoo.noise(1, n, 3), "total": zoo.noise(2, n, 4)}, step] for n in (2, 3)]
    target = zoo.target(
        zoo.accumulator, examples, state={"forward": [("total", "output.1", "zeros")]}
    )
    with pytest.raises(ExportError, match=expected):
        export(target, tmp_path / "a.pt")


def test_a_value_that_is_no_tuple_is_shown_on_one_line(tmp_path: Path) -> None:
    examples = zoo.everything_examples()
    for example in examples:
        example["pair"] = [zoo.noise(1, 2, 4), zoo.noise(2, 2, 4)]
    message = refusal(zoo.target(zoo.everything, examples), tmp_path)
    assert "\n" not in message
