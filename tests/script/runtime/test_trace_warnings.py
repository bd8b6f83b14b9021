"""Traces with warnings: refused, or allowed with more golden cases and a record."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import zoo
from torchship.cpp_runner.binary import runner_path
from torchship.cpp_runner.runtime import CppRuntime
from torchship.script.errors import ArchiveError, ExportError
from torchship.script.exporting.export import Options, export
from torchship.script.runtime.archive import TRACE_WARNINGS, open_archive
from torchship.script.runtime.trace_warnings import from_record

ALLOWED = Options(mode="trace", allow_trace_warnings=True)


class Asserting(nn.Module):
    """Asserts of every input what holds for every input; x: float32[batch, time, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[2] == 3, "three features"
        if x.abs().max() > 1e6:
            raise ValueError("too large")
        y: Tensor = self.layer(x)
        return y.sum(1)


def asserting() -> nn.Module:
    return zoo.seeded(Asserting())


def examples(*lengths: int) -> list[dict[str, object]]:
    return [{"x": zoo.noise(n, n, length, 3)} for n, length in enumerate(lengths, start=2)]


def refusal(target: object, folder: Path, options: Options = ALLOWED) -> str:
    with pytest.raises(ExportError) as caught:
        export(target, folder / "refused.pt", options, lambda line: None)  # type: ignore[arg-type]
    assert list(folder.iterdir()) == []
    return str(caught.value)


def test_without_leave_the_refusal_names_the_line_and_the_option(tmp_path: Path) -> None:
    target = zoo.target(asserting, examples(4, 5, 6))
    message = refusal(target, tmp_path, Options(mode="trace"))
    assert "test_trace_warnings.py:" in message
    assert '(`assert x.shape[2] == 3, "three features"`) and at 1 other line; script' in message
    assert "pass over the warnings (--allow-trace-warnings)" in message


def test_allowed_warnings_are_printed_and_recorded(tmp_path: Path) -> None:
    told: list[str] = []
    target = zoo.target(asserting, examples(4, 5, 6))
    export(target, tmp_path / "a.pt", ALLOWED, told.append)
    archive = open_archive(tmp_path / "a.pt")
    first, second = archive.trace_warnings
    assert told == [f"passed over: {first}", f"passed over: {second}"]
    assert first.code == 'assert x.shape[2] == 3, "three features"'
    assert second.code == "if x.abs().max() > 1e6:"
    for warning in (first, second):
        assert warning.file == "script/runtime/test_trace_warnings.py", "below a folder of sys.path"
        line = Path(__file__).read_text().splitlines()[warning.line - 1]
        assert line.strip() == warning.code
        assert warning.message.startswith("converting a tensor to a Python boolean might cause")
    assert TRACE_WARNINGS in archive.require_manifest().records
    for length in (1, 9):
        x = zoo.noise(7, 3, length, 3)
        with torch.no_grad():
            expected = asserting()(x)
        assert torch.equal(archive.program().call("forward", {"x": x})["output"], expected)
    assert CppRuntime().check(archive).agreed


def test_an_archive_without_warnings_has_no_record_of_them(tmp_path: Path) -> None:
    archive = export(zoo.target(zoo.linear, zoo.rows), tmp_path / "a.pt", ALLOWED)
    assert archive.trace_warnings == ()
    assert TRACE_WARNINGS not in archive.sizes


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ((4, 5), "'x_1' (axis 1 of 'x') of forward has the sizes 4, 5; give examples with 1 more"),
        ((4, 5, 5), "'x_1' (axis 1 of 'x') of forward has the sizes 4, 5; give examples with 1"),
    ],
)
def test_each_free_dimension_needs_three_sizes(
    lengths: tuple[int, ...], expected: str, tmp_path: Path
) -> None:
    message = refusal(zoo.target(asserting, examples(*lengths)), tmp_path)
    assert "golden cases at 3 sizes of each free dimension are needed" in message
    assert expected in message


def test_the_batch_has_its_sizes_by_itself(tmp_path: Path) -> None:
    target = zoo.target(asserting, examples(4, 4))
    archive = export(target, tmp_path / "a.pt", ALLOWED, lambda line: None)
    assert len(archive.trace_warnings) == 2


class Mixing(Asserting):
    """Its rows depend on one another, so that the leading dimension is no batch."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.abs().max() < 1e6
        return torch.softmax(self.layer(x).sum(1), 0)


def mixing() -> nn.Module:
    return zoo.seeded(Mixing())


def test_a_leading_dimension_that_is_no_batch_needs_three_sizes_too(tmp_path: Path) -> None:
    message = refusal(zoo.target(mixing, examples(4, 4)), tmp_path)
    assert "'x_0' (axis 0 of 'x') of forward has the sizes 2, 3; give examples with 1" in message
    export(zoo.target(mixing, examples(4, 4, 4)), tmp_path / "a.pt", ALLOWED, lambda line: None)


def test_a_module_of_one_size_needs_three_different_examples(tmp_path: Path) -> None:
    given = [{"x": zoo.noise(n % 2, 2, 4, 3)} for n in range(3)]
    fixed = Options(mode="trace", allow_trace_warnings=True, fixed=True)
    message = refusal(zoo.target(asserting, given), tmp_path, fixed)
    assert "forward has no free dimension and 2; give 1 more examples" in message
    given.append({"x": zoo.noise(5, 2, 4, 3)})
    export(zoo.target(asserting, given), tmp_path / "a.pt", fixed, lambda line: None)


class Baking(Asserting):
    """Keeps how long the first example is."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y.sum(1) / float(x.new_ones(x.shape[1]).sum())


def baking() -> nn.Module:
    return zoo.seeded(Baking())


def test_a_warning_that_was_right_is_found_by_the_golden_cases(tmp_path: Path) -> None:
    message = refusal(zoo.target(baking, examples(4, 5, 6)), tmp_path)
    assert "does not agree with eager: golden case 'forward example 1'" in message
    positive = [{"x": zoo.noise(n, n, 3).abs()} for n in (2, 3, 4)]
    negative = [{"x": -row["x"]} for row in positive]
    message = refusal(zoo.target(zoo.branching, positive + negative), tmp_path)
    assert "does not agree with eager: golden case 'forward example 3'" in message


@pytest.mark.parametrize(
    "record",
    [
        *(b"", b"{}", b"[1]", b'[{"file": "a.py"}]', b"\xff", b'[{"file": 1}]'),
        b'[{"file": "a", "line": 1, "code": "", "message": "", "more": 1}]',
    ],
)
def test_a_record_that_is_something_else(record: bytes) -> None:
    with pytest.raises(ArchiveError, match="the record of a trace's warnings: "):
        from_record(record)


LIBRARY = """
def check(x):
    assert x.abs().max() < 1e6, "[bold]not so large[/bold]"
"""

USER = """
import torch
from torch import Tensor, nn
from checks import check


class Checked(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        check(x)
        return x * 2


def make() -> Checked:
    return Checked().eval()


def examples() -> list[dict[str, Tensor]]:
    return [{"x": torch.randn(n, 3)} for n in (2, 3)]
"""


def test_the_commands_list_and_show_the_warnings(tmp_path: Path) -> None:
    (tmp_path / "checks.py").write_text(LIBRARY)
    (tmp_path / "user.py").write_text(USER)

    def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    script = ["torchship", "script", "user:make", "--example", "user:examples", "-o", "a.pt"]
    done = run(*script, "--allow-trace-warnings")
    assert done.returncode == 2
    assert done.stderr == (
        "torchship: error: --allow-trace-warnings: expected --mode trace with it\n"
    )
    done = run(*script, "--mode", "trace", "--allow-trace-warnings")
    assert done.returncode == 0, done.stderr
    line = 'checks.py:3 (`assert x.abs().max() < 1e6, "[bold]not so large[/bold]"`): converting a'
    assert f"passed over: {line} tensor to a Python boolean might cause" in done.stderr
    shown = " ".join(run("torchship", "inspect", "a.pt").stdout.split())
    assert "trace warning" in shown
    assert "checks.py:3 (`assert x.abs().max()" in shown
    assert "[bold]" in shown
    for command in ("torchship", runner_path()):
        done = run(command, "inspect", "a.pt", "--json")
        (told,) = json.loads(done.stdout)["trace_warnings"]
        assert (told["file"], told["line"]) == ("checks.py", 3)
    assert f"trace warning  {line}" in run(runner_path(), "inspect", "a.pt").stdout
    done = run(runner_path(), "verify", "a.pt")
    assert done.returncode == 0, done.stderr
