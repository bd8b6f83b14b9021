"""Other people's kinds of modules, compiled to C."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import architectures
from compiled import exported, library_of, quick_options
from torchship.native.compiler import compile_archive
from torchship.native.errors import UnsupportedError
from torchship.native.ir.program import Call, Loop
from torchship.script.errors import ModelError
from torchship.script.exporting.export import export
from torchship.script.exporting.options import Options
from torchship.script.exporting.target import find_target
from torchship.script.runtime import torchscript_graph
from torchship.script.runtime.agreement import check_case
from torchship.script.runtime.batch import batch_axes


@pytest.mark.parametrize("name", architectures.ACCEPTED)
def test_compiled_modules_agree_and_rows_do_not_depend_on_their_batch(
    name: str, tmp_path: Path
) -> None:
    archive = exported(tmp_path, f"architectures:{name}", f"architectures:{name}_examples")
    manifest = archive.require_manifest()
    library = library_of(archive, tmp_path)
    for number, case in enumerate(archive.golden):
        for difference in check_case(manifest, number, case, library.call):
            assert difference.agreed, difference
    # A batch larger than a piece, its rows in it and alone: the same bits.
    case = archive.golden[1]
    inputs = case.steps[0].inputs
    axes = batch_axes(manifest.methods[case.method])
    assert axes, "the module has no batch"
    many = {n: torch.cat([t] * 40, axes[n]) if n in axes else t for n, t in inputs.items()}
    together = library.call(case.method, many)
    one = {n: t.narrow(axes[n], 1, 1) if n in axes else t for n, t in inputs.items()}
    alone = library.call(case.method, one)
    for output, value in together.items():
        if output in axes:
            row = value.narrow(axes[output], 61, 1)
            assert torch.equal(row, alone[output]), output


def test_sizes_that_a_trace_has_as_tensors(tmp_path: Path) -> None:
    path = tmp_path / "sizes.pt"
    target = find_target("architectures:sizes", "architectures:sizes_examples", {})
    archive = export(target, path, Options(mode="trace"))
    kinds = str(torchscript_graph.inlined_graph(archive.load(), "forward"))
    assert {"prim::NumToTensor", "aten::ScalarImplicit"} <= set(re.findall(r"\w+::\w+", kinds))
    library = library_of(archive, tmp_path, quick_options())
    for number, case in enumerate(archive.golden):
        for difference in check_case(archive.require_manifest(), number, case, library.call):
            assert difference.agreed, difference


def test_products_with_the_inputs_of_a_loop_are_computed_before_their_steps(tmp_path: Path) -> None:
    archive = exported(tmp_path, "architectures:own_cell", "architectures:own_cell_examples")
    method = compile_archive(archive, golden=False).unit.methods[0].program
    loops = [s for s in method.statements if isinstance(s, Loop)]
    in_steps = [s for loop in loops for s in loop.body if isinstance(s, Call)]
    assert [s.kernel for s in in_steps] == ["linear", "linear", "softmax"]


@pytest.mark.parametrize("factory", ["crowded", "refusing"])
def test_the_number_of_rows_is_that_of_the_batch(factory: str, tmp_path: Path) -> None:
    archive = exported(tmp_path, f"architectures:{factory}", "architectures:crowded_examples")
    (compiled,) = compile_archive(archive, golden=False).unit.methods
    assert (compiled.piece > 0) is (factory == "refusing")
    library = library_of(archive, tmp_path, quick_options())
    x = torch.randn(150, 4, generator=torch.Generator().manual_seed(1))
    wanted = getattr(architectures, factory)()(x)
    torch.testing.assert_close(library.call("forward", {"x": x})["output"], wanted)
    x[3] = 101
    with pytest.raises(ModelError, match=r"expected at most 100, got \[150, 4\]"):
        library.call("forward", {"x": x})


def test_bfloat16_is_refused_by_name(tmp_path: Path) -> None:
    archive = exported(tmp_path, "architectures:half", "architectures:half_examples")
    with pytest.raises(
        UnsupportedError, match=r"architectures\.py:\d+: a tensor of dtype bfloat16"
    ):
        compile_archive(archive)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "uint16"])
def test_inputs_of_other_dtypes_are_refused_by_name(dtype: str, tmp_path: Path) -> None:
    archive = exported(tmp_path, "architectures:narrow", f"architectures:{dtype}_examples")
    message = rf"input 'x' of method 'forward': the dtype {dtype} has no C, expected float32, "
    with pytest.raises(UnsupportedError, match=message):
        compile_archive(archive)


def test_outputs_of_other_dtypes_are_refused_by_name(tmp_path: Path) -> None:
    archive = exported(tmp_path, "architectures:narrowing", "architectures:half_examples")
    with pytest.raises(UnsupportedError, match="dtype float16"):
        compile_archive(archive)


def test_an_operator_without_c_is_refused_with_its_line(tmp_path: Path) -> None:
    archive = exported(tmp_path, "architectures:sorted_", "architectures:sorted_examples")
    with pytest.raises(UnsupportedError, match=r"py:\d+: operator aten::sort has no C yet"):
        compile_archive(archive)


def test_the_models_own_message_comes_back(tmp_path: Path) -> None:
    archive = exported(tmp_path, "architectures:strict", "architectures:strict_examples")
    library = library_of(archive, tmp_path)
    with pytest.raises(ModelError, match=r"raised: x: expected at most 5\.\.\., got 7 of \[3\]"):
        library.call("forward", {"x": torch.tensor([1, 7, 2])})
