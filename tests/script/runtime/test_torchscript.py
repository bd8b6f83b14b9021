"""Factories that return modules that torch.jit has already compiled."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import unshippable
import zoo
from torchship.__main__ import application
from torchship.script.errors import ExportError, UsageError
from torchship.script.exporting.export import Options, export
from torchship.script.exporting.localise import first_difference
from torchship.script.exporting.runtimes import EagerRuntime, ScriptRuntime
from torchship.script.exporting.target import make_module
from torchship.script.format.manifest import Source
from torchship.script.runtime.archive import open_archive

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own notices that torch.jit is old


def saved(module: torch.jit.ScriptModule, folder: Path) -> torch.jit.ScriptModule:
    torch.jit.save(module, folder / "plain.pt")
    loaded = torch.jit.load(folder / "plain.pt")  # type: ignore[no-untyped-call]
    (folder / "plain.pt").unlink()
    assert isinstance(loaded, torch.jit.ScriptModule)
    return loaded


def traced(module: Callable[[Tensor], Tensor]) -> Any:
    return torch.jit.trace(module, zoo.noise(1, 2, 3))  # type: ignore[no-untyped-call]


def function(x: Tensor, times: int = 2, text: str = "it's") -> dict[str, Tensor]:
    return {"y": x * times if text == "it's" else x}


COMPILED: dict[str, Callable[[Path], object]] = {
    "scripted": lambda folder: torch.jit.script(zoo.linear()),
    "loaded": lambda folder: saved(torch.jit.script(zoo.linear()), folder),
    "traced": lambda folder: traced(zoo.linear()),
    "traced and loaded": lambda folder: saved(traced(zoo.linear()), folder),
    "frozen": lambda folder: torch.jit.freeze(torch.jit.script(zoo.linear())),
    "optimised": lambda folder: torch.jit.optimize_for_inference(torch.jit.script(zoo.linear())),
    "scripted function": lambda folder: torch.jit.script(function),
    "traced function": lambda folder: traced(lambda x: x * 2),
}


@pytest.mark.parametrize("kind", COMPILED)
def test_what_is_compiled_before_becomes_an_archive_that_says_so(kind: str, tmp_path: Path) -> None:
    compiled = COMPILED[kind](tmp_path)
    export(zoo.target(lambda: compiled, zoo.rows), tmp_path / "a.pt")
    archive = open_archive(tmp_path / "a.pt")
    assert archive.require_manifest().source.compiled == ("",)
    x = zoo.noise(9, 6, 3)
    with torch.no_grad():
        expected = compiled(x)  # type: ignore[operator]
    (came,) = archive.program().call("forward", {"x": x}).values()
    assert torch.equal(came, expected["y"] if isinstance(expected, dict) else expected)
    for case in archive.golden:
        assert [len(step.inputs["x"]) for step in case.steps] in ([1], [2], [4], [5])


def make_scripted() -> object:
    return torch.jit.script(zoo.linear())


def make_function() -> object:
    return torch.jit.script(function)


@pytest.mark.parametrize("name", ["make_scripted", "make_function"])
def test_the_factory_s_module_takes_the_eager_one_s_place_in_verify(
    name: str, tmp_path: Path
) -> None:
    text = f"{__name__}:{name}"
    target = zoo.target(globals()[name], zoo.rows)
    target = type(target)(target.name, Source(factory=text), target.factory, target.examples)
    archive = export(target, tmp_path / "a.pt")
    assert make_module(archive.require_manifest().source, text) is not None
    for runtime in (EagerRuntime(text), ScriptRuntime()):
        assert runtime.check(archive).agreed


def test_parts_that_are_compiled_before_are_named(tmp_path: Path) -> None:
    def make() -> nn.Module:
        return unshippable.Around(torch.jit.script(zoo.linear())).eval()

    archive = export(zoo.target(make, zoo.rows), tmp_path / "a.pt")
    assert archive.require_manifest().source.compiled == ("body",)


def test_an_archive_of_eager_code_has_no_such_field(tmp_path: Path) -> None:
    archive = export(zoo.target(zoo.linear, zoo.rows), tmp_path / "a.pt")
    assert archive.require_manifest().source.compiled is None
    assert "compiled" not in json.loads(archive.require_manifest().to_json())["source"]


def test_all_methods_of_a_loaded_module(tmp_path: Path) -> None:
    loaded = saved(torch.jit.script(zoo.acting()), tmp_path)
    target = zoo.target(lambda: loaded, zoo.acting_examples)
    options = Options(state=[("total", "output.1", None)])
    methods = export(target, tmp_path / "a.pt", options).require_manifest().methods
    assert set(methods) == {"forward", "act"}
    assert [state.input for state in methods["act"].state] == ["total"]


def test_a_state_that_no_example_of_a_loaded_module_gives(tmp_path: Path) -> None:
    loaded = saved(torch.jit.script(zoo.accumulator()), tmp_path)
    target = zoo.target(
        lambda: loaded,
        [{"x": zoo.noise(1, 2, 3)}],
        state={"forward": [("total", "output.1", "zeros")]},
    )
    with pytest.raises(ExportError, match="gives its state total"):
        export(target, tmp_path / "a.pt")


class Counting(zoo.Linear):
    """Counts its calls in a number, without using the count."""

    def __init__(self) -> None:
        super().__init__()
        self.count: int = 0

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        y: Tensor = self.layer(x)
        return y


@pytest.mark.parametrize(
    ("module", "options", "expected"),
    [
        (Counting, Options(), "calling the module changes its 'count'"),
        (zoo.Guessing, Options(), "two equal calls of the module's forward differ"),
        (zoo.Overwriting, Options(), "changes its argument 'x' in place"),
        (zoo.Linear, Options(mode="trace"), "torch.jit has compiled: it cannot be traced; leave"),
    ],
)
def test_loaded_modules_are_checked_as_eager_ones_are(
    module: type[nn.Module], options: Options, expected: str, tmp_path: Path
) -> None:
    loaded = saved(torch.jit.script(zoo.seeded(module())), tmp_path)
    with pytest.raises(ExportError, match=expected):
        export(zoo.target(lambda: loaded, zoo.rows), tmp_path / "a.pt", options)


def test_a_loaded_module_in_training_mode(tmp_path: Path) -> None:
    loaded = saved(torch.jit.script(zoo.training()), tmp_path)
    with pytest.raises(ExportError, match=r"training mode \(the module itself\): dropout"):
        export(zoo.target(lambda: loaded, zoo.rows), tmp_path / "a.pt")
    export(zoo.target(lambda: loaded, zoo.rows), tmp_path / "a.pt", Options(eval_mode=True))


def test_a_loaded_module_with_weights_that_are_nan(tmp_path: Path) -> None:
    loaded = saved(torch.jit.script(zoo.not_finite()), tmp_path)
    with pytest.raises(ExportError, match=r"'layer\.bias' holds 1 NaN"):
        export(zoo.target(lambda: loaded, zoo.rows), tmp_path / "a.pt")


def test_a_module_optimised_for_this_process_is_refused_with_the_reason(tmp_path: Path) -> None:
    convolution = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    optimised = torch.jit.optimize_for_inference(torch.jit.script(convolution))
    examples = [{"input": zoo.noise(n, n, 3, 8, 8)} for n in (2, 3)]
    with pytest.raises(ExportError, match=r"cannot be loaded again: .*; ship it before it is opt"):
        export(zoo.target(lambda: optimised, examples), tmp_path / "a.pt")


def sum_of_memory(memory: zoo.Memory) -> Tensor:
    return memory.h + memory.c


def test_a_scripted_function_of_named_tuples_is_refused(tmp_path: Path) -> None:
    scripted = torch.jit.script(sum_of_memory)
    examples = [{"memory": zoo.Memory(zoo.noise(n, n, 3), zoo.noise(n, n, 3))} for n in (2, 3)]
    with pytest.raises(UsageError, match=r"call it in the forward of a module of yours"):
        export(zoo.target(lambda: scripted, examples), tmp_path / "a.pt")


def test_the_commands_say_what_was_compiled_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loading.py").write_text(
        "import torch, zoo\n\n"
        "def make():\n    return torch.jit.load('plain.pt')\n\n"
        "def around():\n    return zoo_around(make())\n\n"
        "def zoo_around(body):\n    import unshippable\n"
        "    return unshippable.Around(body).eval()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.jit.save(torch.jit.script(zoo.linear()), "plain.pt")

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(application(), arguments)
        assert result.exit_code == 0, result.output
        return " ".join(result.output.split())

    printed = run("script", "loading:make", "--example", "zoo:rows", "-o", "whole.pt")
    assert "the one that the factory returned compiled; no eager code vouches for it" in printed
    assert "compiled before the whole module: no eager code vouches" in run("inspect", "whole.pt")
    printed = run("script", "loading:around", "--example", "zoo:rows", "-o", "part.pt")
    assert "no eager code vouches for body, compiled before" in printed
    assert "compiled before body: no eager code vouches" in run("inspect", "part.pt")
    shown = json.loads(run("inspect", "part.pt", "--json", "--no-code"))
    assert shown["manifest"]["source"]["compiled"] == ["body"]


def test_a_plain_file_is_refused_with_how_to_make_an_archive(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(zoo.linear()), tmp_path / "plain.pt")
    opened = open_archive(tmp_path / "plain.pt")
    with pytest.raises(Exception, match="or that loads this file"):
        assert opened.require_manifest()


def test_a_difference_is_looked_for_around_compiled_parts(tmp_path: Path) -> None:
    def make() -> nn.Module:
        return unshippable.Around(torch.jit.script(zoo.linear())).eval()

    archive = export(zoo.target(make, zoo.rows), tmp_path / "a.pt")
    other = make()
    with torch.no_grad():
        other.body.layer.weight.mul_(2)  # type: ignore[union-attr, operator]
    found = first_difference(other, archive.program(), archive.golden[0])
    assert found.startswith("no submodule differs, the module's own code or state does")
