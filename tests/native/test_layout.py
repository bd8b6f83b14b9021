"""The generated C is laid out as clang-format would, which need not be installed to generate it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import operator_modules
import scripted
from torchship.native.cli import write_project
from torchship.native.compiler import compile_archive
from torchship.native.emitting.layout import WIDTH, laid_out
from torchship.script.exporting.export import export
from torchship.script.exporting.target import find_target
from torchship.script.runtime.archive import Archive, open_archive

CLANG_FORMAT = str(Path(sys.executable).with_name("clang-format"))  # of the extra `dev`
MODULES = (
    operator_modules.Control,
    operator_modules.Reductions,
    operator_modules.Views,
)


def of_operators(module: type[torch.nn.Module], folder: Path) -> Archive:
    cases = {name: f.case.signature for name, f in vars(module).items() if hasattr(f, "case")}
    return scripted.archive_of(module(), cases, folder)[0]


def of_ours(name: str, folder: Path) -> Archive:
    export(find_target(name, None, {}), folder / f"{name}.pt")
    return open_archive(folder / f"{name}.pt")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("module", [*MODULES, "xor"], ids=lambda m: getattr(m, "__name__", m))
def test_clang_format_changes_nothing(module: type[torch.nn.Module] | str, tmp_path: Path) -> None:
    archive = (
        of_ours(module, tmp_path) if isinstance(module, str) else of_operators(module, tmp_path)
    )
    code = write_project(compile_archive(archive), tmp_path / "code")
    files = [str(file) for file in code.iterdir() if file.suffix in (".c", ".h")]
    assert len(files) == 3
    command = [CLANG_FORMAT, "--dry-run", "-Werror", "--style=file", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:2000]


LONG = f"call({', '.join(f'argument_{number}' for number in range(12))});"


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("  if (a > (b)) return 1;", ["  if (a > (b))", "    return 1;"]),
        ("for (;;) run();", ["for (;;)", "  run();"]),
        ("else x = 1;", ["else", "  x = 1;"]),
        ("if (a) {", ["if (a) {"]),
        ('say("if (a) b", 1);', ['say("if (a) b", 1);']),
        (LONG, [LONG[:88], f"    {LONG[89:]}"]),
        (f'say("{"a, " * 50}");', [f'say("{"a, " * 50}");']),
        (f"const int64_t x = {'a' * 90};", ["const int64_t x =", f"    {'a' * 90};"]),
    ],
)
def test_statements_take_as_many_lines_as_they_need(line: str, wanted: list[str]) -> None:
    assert list(laid_out([line])) == wanted


def test_what_has_several_lines_stays_as_it_is() -> None:
    text = f"if (a) b;\n{'x' * 200}"
    assert list(laid_out([text])) == [text]


def test_comments_are_broken_between_words() -> None:
    lines = list(laid_out([f"/* {'word ' * 40}*/"]))
    assert len(lines) == 3
    assert max(map(len, lines)) <= WIDTH
    assert " ".join(map(str.strip, lines)) == f"/* {'word ' * 40}*/"
