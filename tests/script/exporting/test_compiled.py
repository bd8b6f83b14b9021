"""Modules that torch.jit compiles and then cannot save, load or run as eager does."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

import unshippable
import zoo
from torchship.script.errors import ExportError
from torchship.script.exporting.export import Options, export
from torchship.script.runtime.archive import open_archive
from torchship.script.runtime.torchscript import Mode


def refusal(module: type[Any], examples: object, folder: Path, mode: Mode = "script") -> str:
    def make() -> object:
        return zoo.seeded(module())

    with pytest.raises(ExportError) as caught:
        export(zoo.target(make, examples), folder / "refused.pt", Options(mode=mode))
    assert not (folder / "refused.pt").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("module", "name", "line"),
    [
        (unshippable.Ignored, "helper", "return self.helper(self.layer(x))"),
        (unshippable.CallsIgnoredFunction, "ignored_function", "return ignored_function("),
        (unshippable.OwnGradient, "Double", "return Double.apply(self.layer(x))"),
    ],
)
def test_functions_of_python_are_named_with_their_line(
    module: type[Any], name: str, line: str, tmp_path: Path
) -> None:
    message = refusal(module, zoo.rows, tmp_path)
    assert name in message
    assert "; a function of Python (@t" in message
    assert line in message
    number = int(message.split("unshippable.py:")[1].split(" ")[0].rstrip(":"))
    assert line in Path(unshippable.__file__).read_text().splitlines()[number - 1]


def test_a_part_that_calls_a_function_of_python(tmp_path: Path) -> None:
    def make() -> object:
        return unshippable.Around(unshippable.Ignored()).eval()

    with pytest.raises(ExportError, match="Could not export Python function call 'helper'; a fu"):
        export(zoo.target(make, zoo.rows), tmp_path / "refused.pt")


def test_a_gradient_of_its_own_in_a_trace(tmp_path: Path) -> None:
    message = refusal(unshippable.OwnGradient, zoo.rows, tmp_path, "trace")
    assert "Could not export Python function call 'Double'; a function of Python" in message


def test_an_ignored_method_is_traced_through(tmp_path: Path) -> None:
    def make() -> object:
        return zoo.seeded(unshippable.Ignored())

    export(zoo.target(make, zoo.rows), tmp_path / "a.pt", Options(mode="trace"))


def test_a_method_that_is_not_used_by_torchscript(tmp_path: Path) -> None:
    message = refusal(unshippable.Unused, zoo.rows, tmp_path)
    assert "the compiled module fails where eager runs: forward raised: This Python" in message
    assert "a function of Python (@torch.jit.ignore, @torch.jit.unused" in message


@pytest.mark.parametrize(
    ("module", "examples", "name"),
    [
        (unshippable.IgnoredForward, zoo.rows(), "forward"),
        (unshippable.Unexported, {"forward": zoo.rows(), "act": zoo.rows()}, "act"),
    ],
)
def test_methods_that_are_not_compiled(
    module: type[Any], examples: object, name: str, tmp_path: Path
) -> None:
    message = refusal(module, examples, tmp_path)
    assert f"the compiled module has no method '{name}': mark it with @torch.jit.exp" in message


def test_none_for_an_argument_without_an_annotation(tmp_path: Path) -> None:
    given = [{**row, "mask": zoo.noise(3, 1, 4)} for row in zoo.rows()]
    for examples in (zoo.rows(), given):
        message = refusal(unshippable.UnannotatedNone, examples, tmp_path)
        assert message == (
            "the argument 'mask' of forward has the default None and no annotation that allows "
            "it: annotate it, mask: Tensor | None = None"
        )


def test_none_for_an_argument_of_a_part(tmp_path: Path) -> None:
    def make() -> object:
        return unshippable.Around(unshippable.UnannotatedNone()).eval()

    with pytest.raises(ExportError, match=r"annotate it as Tensor \| None"):
        export(zoo.target(make, zoo.rows), tmp_path / "refused.pt")


def test_a_number_for_an_argument_without_an_annotation(tmp_path: Path) -> None:
    message = refusal(unshippable.UnannotatedNumber, zoo.rows, tmp_path)
    assert "annotate the argument's type: without one TorchScript takes it for" in message


@pytest.mark.parametrize(
    ("module", "scripted", "eager"),
    [
        (unshippable.TupleForTensor, "(Tensor, Tensor)", "Tensor"),
        (unshippable.TensorForTuple, "Tensor", "(Tensor, Tensor)"),
        (unshippable.TupleForDict, "(Tensor, Tensor)", "{'a': Tensor, 'b': Tensor}"),
        (unshippable.OtherKeys, "{'a': Tensor}", "{'b': Tensor}"),
        (unshippable.LongerList, "[Tensor, Tensor]", "[Tensor]"),
        (unshippable.TupleForList, "(Tensor, Tensor)", "[Tensor, Tensor]"),
        (unshippable.DeeperTuple, "(Tensor, (Tensor, Tensor))", "(Tensor, Tensor)"),
    ],
)
def test_other_structures_than_eager_returns(
    module: type[Any], scripted: str, eager: str, tmp_path: Path
) -> None:
    message = refusal(module, zoo.rows, tmp_path)
    assert message.startswith(
        f"the compiled forward returns {scripted} where the eager one returns {eager}: "
        "make both return the same structure"
    )


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (unshippable.Größe, "Größe"),
        (unshippable.BeyondAsciiAttribute, "größe"),
        (unshippable.BeyondAsciiSubmodule, "größe"),
        (unshippable.BeyondAsciiMethod, "größe"),
        (unshippable.BeyondAsciiFunction, "größe"),
        (unshippable.BeyondAsciiField, "größe"),
        (lambda: unshippable.Keyed("größe"), "größe"),
    ],
)
def test_names_beyond_ascii(module: type[Any], name: str, tmp_path: Path) -> None:
    message = refusal(module, zoo.rows, tmp_path)
    assert message.startswith(f"the name '{name}' is not ASCII, and LibTorch cannot read saved")


def test_an_argument_beyond_ascii(tmp_path: Path) -> None:
    examples = [{"é": row["x"]} for row in zoo.rows()]
    message = refusal(unshippable.BeyondAsciiArgument, examples, tmp_path)
    assert message.startswith("the name 'é' is not ASCII, and LibTorch cannot read saved code")


def test_a_file_whose_name_is_beyond_ascii(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(zoo.__file__).with_name("größe.py")
    assert not source.exists()
    (tmp_path / "größe.py").write_text(
        "import torch\n\n\nclass Twice(torch.nn.Module):\n"
        "    def forward(self, x: torch.Tensor) -> torch.Tensor:\n        return x * 2\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "größe", raising=False)
    message = refusal(importlib.import_module("größe").Twice, zoo.rows, tmp_path)
    assert message.startswith("the name 'größe' is not ASCII")


@pytest.mark.parametrize("key", ["class", "assert", "async"])
def test_keys_that_are_words_of_python(key: str, tmp_path: Path) -> None:
    message = refusal(lambda: unshippable.Keyed(key), zoo.rows, tmp_path)  # type: ignore[arg-type]
    assert message.startswith(f"the name '{key}' is a word of Python's own")


def test_names_beyond_ascii_where_libtorch_reads_them(tmp_path: Path) -> None:
    def make() -> object:
        return zoo.seeded(unshippable.BeyondAsciiWhereItMay())

    export(zoo.target(make, zoo.rows), tmp_path / "a.pt")
    x = zoo.noise(3, 2, 3)
    outputs = open_archive(tmp_path / "a.pt").program().call("forward", {"x": x})
    assert list(outputs) == ["output.größe"]


def test_a_module_that_ends_the_process(tmp_path: Path) -> None:
    message = refusal(unshippable.Leaving, zoo.rows, tmp_path)
    assert message == "the module's forward rejects example 0: SystemExit: 0"
