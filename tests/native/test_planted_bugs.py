"""Bugs planted in the compiler: each is caught by the golden cases that the C itself runs.

A bug is a change of one place of the compiler's text, in Python or in a kernel. Without
bugs the golden cases agree: `test_whole_models.py` runs them too.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import architectures
import scripted
from compiled import exported
from hosted import Answer, Call, Hosted, calls_of
from torchship.native.emitting import kernel_sources
from torchship.script.runtime.archive import Archive, open_archive

NATIVE = Path(kernel_sources.__file__).resolve().parents[1]


@dataclass(frozen=True)
class Bug:
    """A text of the compiler, what takes its place, and the module that shows it."""

    old: str
    new: str
    module: str
    options: tuple[str, ...] = ("-DTS_ONLY_PLAIN",)


VECTORS = ("-DTS_ONLY_SSE2",)
BUGS = {
    # products and convolutions
    "weights packed by columns": Bug("panel.reshape(-1)", "panel.T.reshape(-1)", "encoder"),
    "a sum that starts with its own output": Bug(
        "rows, start = _flat(add.out), _flat(other)",
        "rows, start = _flat(add.out), _flat(add.out)",
        "recurrent",
    ),
    "a bias taken off, not added": Bug(
        "weight_value(known).double() + weight_value(bias).double()",
        "weight_value(known).double() - weight_value(bias).double()",
        "recurrent",
    ),
    "a ReLU dropped": Bug('last.attributes | {"relu": True}', "last.attributes", "repeated"),
    "a dilation ignored": Bug("y * dy * row + c * dx * pixel", "y * row + c * pixel", "convnet"),
    "pooling without its padding": Bug("ty = y * {sy} - {py}", "ty = y * {sy}", "convnet"),
    "two gates swapped": Bug(
        "i, f, g, o = split_into(importer", "f, i, g, o = split_into(importer", "recurrent"
    ),
    # rows and reductions
    "a row of a sum one element short": Bug(
        "ts_loadi(first + TS_W - (n - at))",
        "ts_loadi(first + TS_W - (n - at) + 1)",
        "tails",
        VECTORS,
    ),
    "the last elements of a vector loop left out": Bug(
        "({sizes.c_text(size)} - j);", "({sizes.c_text(size)} - j - 1);", "tails", VECTORS
    ),
    "a logarithm of softmax without its maximum": Bug(
        "0) - top - log_sum", "0) - log_sum", "tails"
    ),
    "a reduction along another axis's stride": Bug(
        "place + sizes.symbol(name) * view.strides[axis]",
        "place + sizes.symbol(name) * out.strides[axis]",
        "counts",
    ),
    "a sum of integers that begins with 1": Bug('{"sum": "0"', '{"sum": "1"', "counts"),
    # views
    "a broadcast axis that moves": Bug(
        "strides.append(0 if size == 1 and wanted != 1 else stride)",
        "strides.append(stride)",
        "signal",
    ),
    "every step of a loop reads the first one": Bug(
        "view.offset + index * view.strides[axis]", "view.offset", "own_cell"
    ),
    # passes
    "statements joined over one that conflicts": Bug(
        "if conflict(previous, statement, aliases):", "if False:", "recurrent"
    ),
    "a result that others read is not stored": Bug(
        "statement.stored[number] = not all(", "statement.stored[number] = not any(", "recurrent"
    ),
    "a buffer reused while it is alive": Bug(
        "if all(life[1] < begin or end < life[0] for begin, end in taken)",
        "if all(life[0] != begin for begin, end in taken)",
        "encoder",
    ),
    "what a pointer points to is forgotten": Bug(
        "for target in aliases.of(storage):", "for target in [storage]:", "gru"
    ),
    "what a loop reads in every round shares its place": Bug(
        "if _crosses(storage, statement, method, aliases):", "if False:", "repeated"
    ),
    # control flow
    "the branches of an if exchanged": Bug(
        'block(f"if ({statement.condition.text})")',
        'block(f"if (!({statement.condition.text}))")',
        "scaled",
    ),
}


def plant(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change the one place of the compiler that has the bug's text."""
    files = [f for f in NATIVE.rglob("*") if f.suffix in (".py", ".h")]
    found = [f for f in sorted(files) for _ in range(f.read_text().count(bug.old))]
    assert len(found) == 1, f"{bug.old!r} is at {len(found)} places of the compiler, not at one"
    (file,) = found
    text = file.read_text().replace(bug.old, bug.new)
    if file.suffix == ".h":
        original = kernel_sources.source
        monkeypatch.setattr(
            kernel_sources, "source", lambda name: text if name == file.stem else original(name)
        )
    else:
        line = file.read_text()[: file.read_text().index(bug.old)].count("\n") + 1
        _replace_function(file, text, line, monkeypatch)


def _replace_function(file: Path, text: str, line: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the changed function or method in the place of the one at a line."""
    parts = ("torchship", "native", *file.relative_to(NATIVE).with_suffix("").parts)
    module = importlib.import_module(".".join(parts))
    owner: object = module
    body = ast.parse(text).body
    while True:
        node = next(n for n in body if n.lineno <= line <= (n.end_lineno or 0))
        if not isinstance(node, ast.ClassDef):
            break
        owner, body = getattr(owner, node.name), node.body
    assert isinstance(node, ast.FunctionDef), "the text is in no function"
    node.decorator_list = []
    made: dict[str, object] = {}
    future = ast.parse("from __future__ import annotations").body
    exec(compile(ast.Module([*future, node], []), str(file), "exec"), vars(module), made)
    old, new = getattr(owner, node.name), made[node.name]
    assert isinstance(old, FunctionType)
    monkeypatch.setattr(owner, node.name, new)
    for name, other in list(sys.modules.items()):
        if not name.startswith("torchship.native"):
            continue
        for key, value in list(vars(other).items()):
            if value is old:
                monkeypatch.setattr(other, key, new)
            elif isinstance(value, dict):
                for entry in [k for k, v in value.items() if v is old]:
                    monkeypatch.setitem(value, entry, new)


@pytest.fixture(scope="module")
def archives(
    tmp_path_factory: pytest.TempPathFactory, model_archive: Callable[[str], Path]
) -> Callable[[str], Archive]:
    """Return a function that exports a module once."""
    folder = tmp_path_factory.mktemp("archives")
    made: dict[str, Archive] = {}

    def archive(name: str) -> Archive:
        if name not in made and hasattr(architectures, name):
            made[name] = exported(folder, f"architectures:{name}", f"architectures:{name}_examples")
        elif name not in made:
            made[name] = open_archive(model_archive(name))
        return made[name]

    return archive


def hosted_and_program(
    archive: Archive, name: str, folder: Path, options: tuple[str, ...]
) -> tuple[Hosted, Path]:
    hosted = Hosted({name: archive}, folder)
    return hosted, hosted.build("program", "gcc", "-O1", *options)


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_caught_by_the_golden_cases(
    name: str,
    archives: Callable[[str], Archive],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bug = BUGS[name]
    archive = archives(bug.module)
    plant(bug, monkeypatch)
    hosted, program = hosted_and_program(archive, bug.module, tmp_path, bug.options)
    assert hosted.selftest([program]).endswith(" differs")


# --- what no golden case shows ---


class Checked(torch.nn.Module):
    def forward(self, x: Tensor, i: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        return functional.embedding(i, x[:3]), numbers // 3


SIGNATURE = "x: float32[5, 4], i: int64[m], numbers: int64[k]"


def checked(folder: Path, index: int) -> Answer:
    """Return the answer of the module above to an index and some numbers."""
    archive, _ = scripted.archive_of(Checked(), {"forward": SIGNATURE}, folder)
    hosted, program = hosted_and_program(archive, "checked", folder, ("-DTS_ONLY_PLAIN",))
    numbers = torch.arange(-7, 8)
    inputs = {"x": torch.ones(5, 4), "i": torch.tensor([0, index]), "numbers": numbers}
    (answer,) = hosted.run([program], [Call("checked_forward", inputs)], embedded=True)
    if answer.status == 0:
        assert torch.equal(answer.outputs["y1"], numbers // 3), "the quotients differ"
    return answer


def test_a_bound_of_indices_that_is_one_too_large_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(Bug("chosen >= {text(size)}", "chosen > {text(size)}", ""), monkeypatch)
    assert checked(tmp_path, 3).status == 0


def test_an_integer_division_that_rounds_to_zero_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(Bug(" - (a % b != 0 && (a < 0) != (b < 0))", "", ""), monkeypatch)
    with pytest.raises(AssertionError, match="the quotients differ"):
        checked(tmp_path, 2)


def test_without_a_bug_indices_and_quotients_are_right(tmp_path: Path) -> None:
    assert checked(tmp_path, 2).status == 0
    answer = checked(tmp_path, 3)
    assert (answer.status, answer.message) == (1, "index out of range in self")


def test_a_piece_that_begins_at_the_wrong_row_is_caught(
    archives: Callable[[str], Archive], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(Bug('sizes.symbol("first") * inner', 'sizes.symbol("first")', ""), monkeypatch)
    archive = archives("fusion")
    hosted, program = hosted_and_program(archive, "fusion", tmp_path, ("-DTS_ONLY_PLAIN",))
    assert hosted.selftest([program]) == ""
    calls, _ = calls_of(hosted, {"fusion": archive})
    with pytest.raises(AssertionError, match="or on what lay in memory before"):
        hosted.run([program], calls)


def test_a_golden_infinity_is_no_tolerance_for_everything(tmp_path: Path) -> None:
    module, examples = "torchship.models.xor:xor", "torchship.models.xor:examples"
    archive = exported(tmp_path, module, examples)
    [golden] = archive.golden[0].steps[0].outputs.values()
    golden.flatten()[0] = torch.inf
    hosted, program = hosted_and_program(archive, "xor", tmp_path, ("-DTS_ONLY_PLAIN",))
    assert hosted.selftest([program]).endswith(" differs")
