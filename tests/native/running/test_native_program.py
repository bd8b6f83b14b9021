"""Compiled code answers, and refuses, as the archive's own program does."""

import gc
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from torchship.native.errors import NativeError
from torchship.native.running.program import NativeProgram
from torchship.script.errors import InputError, ModelError
from torchship.script.format.tree import Flat
from torchship.script.runtime.archive import open_archive
from torchship.script.runtime.program import check_inputs

MakeNative = Callable[[Path], NativeProgram]


def close(a: Flat, b: Flat) -> bool:
    return a.keys() == b.keys() and all(torch.allclose(a[name], b[name], 1e-5, 1e-6) for name in a)


@pytest.mark.parametrize("rows", [1, 2, 64, 0, 2])
def test_batches_of_all_sizes_are_answered(
    native: MakeNative, archives: dict[str, Path], rows: int
) -> None:
    program = native(archives["tiny"])
    inputs = {"obs": torch.arange(rows * 510).reshape(rows, 510).to(torch.uint8)}
    expected = open_archive(archives["tiny"]).program()
    for method in ("forward", "act"):
        assert close(program.call(method, inputs), expected.call(method, inputs))


def test_a_state_may_be_given_or_left_out(native: MakeNative, archives: dict[str, Path]) -> None:
    program, expected = native(archives["memory"]), open_archive(archives["memory"]).program()
    x = torch.arange(6.0).reshape(3, 2)
    for given in ({}, {"h": torch.ones(3, 2)}, {}):
        inputs = {"x": x, **given}
        assert close(program.call("forward", inputs), expected.call("forward", inputs))


def test_inputs_need_not_be_contiguous(native: MakeNative, archives: dict[str, Path]) -> None:
    program, expected = native(archives["memory"]), open_archive(archives["memory"]).program()
    inputs = {"x": torch.arange(6.0).reshape(2, 3).t(), "h": torch.ones(2).expand(3, 2)}
    assert close(program.call("forward", inputs), expected.call("forward", inputs))


def test_numbers_are_part_of_a_call(
    native: MakeNative, make_archive: Callable[[str], Path]
) -> None:
    program = native(make_archive("lasting"))
    for rounds in (0, 1, 7, 1):
        inputs = {"rounds": torch.tensor(rounds), "h": torch.tensor([5.0])}
        (output,) = program.call("forward", inputs).values()
        assert output.tolist() == [5.0 + rounds]


def test_what_a_call_returned_stays_as_it_was(
    native: MakeNative, archives: dict[str, Path]
) -> None:
    program = native(archives["memory"])
    first = program.call("forward", {"x": torch.ones(1, 2)})
    kept = first["h"].clone()
    program.call("forward", {"x": torch.full((1, 2), 5.0)})
    assert first["h"].equal(kept)


@pytest.mark.parametrize(
    ("name", "method", "inputs"),
    [
        ("memory", "forward", {}),
        ("memory", "forward", {"h": torch.zeros(1, 2)}),
        ("memory", "forward", {"x": torch.zeros(1, 3)}),
        ("memory", "forward", {"x": torch.zeros(1, 2), "y": torch.zeros(1)}),
        ("memory", "forward", {"x": torch.zeros(1, 2), "h": torch.zeros(2, 2)}),
        ("memory", "other", {"x": torch.zeros(1, 2)}),
        ("rationed", "forward", {"x": torch.full((1, 1), 101.0)}),
    ],
)
def test_refusals_have_the_same_words(
    native: MakeNative, make_archive: Callable[[str], Path], name: str, method: str, inputs: Flat
) -> None:
    path = make_archive(name)
    with pytest.raises((InputError, ModelError)) as expected:
        open_archive(path).program().call(method, inputs)
    with pytest.raises(type(expected.value)) as refused:
        native(path).call(method, inputs)
    assert str(refused.value) == str(expected.value)


def test_a_call_after_a_refusal_is_answered(
    native: MakeNative, make_archive: Callable[[str], Path]
) -> None:
    program = native(make_archive("rationed"))
    with pytest.raises(ModelError):
        program.call("forward", {"x": torch.full((1, 1), 101.0)})
    (output,) = program.call("forward", {"x": torch.ones(1, 1)}).values()
    assert output.tolist() == [[2.0]]


def test_threads_do_not_disturb_each_other(native: MakeNative, archives: dict[str, Path]) -> None:
    program = native(archives["memory"])

    def run(number: float) -> Flat:
        inputs = {"x": torch.full((2, 2), number)}
        return program.run("forward", inputs, check_inputs(program.method("forward"), inputs))

    mine = run(1.0)
    other = threading.Thread(target=run, args=(2.0,))
    other.start()
    other.join()
    assert mine["h"].tolist() == [[1.0, 1.0]] * 2


def test_a_library_leaves_memory_with_its_program(
    native: MakeNative, make_archive: Callable[..., Path]
) -> None:
    before = mapped_files()
    program = native(make_archive("memory", version="unloaded"))
    program.call("forward", {"x": torch.ones(1, 2)})
    (library,) = [file for file in mapped_files() - before if file.endswith(".so")]
    del program
    gc.collect()
    assert library not in mapped_files()


def mapped_files() -> set[str]:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[-1] for line in lines if "/" in line}


def test_a_default_that_the_code_does_not_know_is_refused(
    native: MakeNative, tmp_path: Path
) -> None:
    from served import Model, method, needs, noise, once, tensor, write
    from torchship.script.format.nodes import ScalarNode

    class Scaled(torch.nn.Module):
        def forward(self, x: torch.Tensor, scale: float = 2.0) -> torch.Tensor:
            return x * scale

    row = tensor("x", "float32", "batch", 2)
    scale = needs(ScalarNode(kind="float", name="scale"), required=False)
    signature = method([needs(row), scale], tensor("output", "float32", "batch", 2))
    model = Model(Scaled(), {"forward": signature}, [once({"x": noise(2, 2)})])
    write(tmp_path / "scaled.pt", model, "scaled")
    with pytest.raises(NativeError, match="argument 'scale' has a default"):
        native(tmp_path / "scaled.pt")
