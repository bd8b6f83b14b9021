"""The house: which way imports go, that the links resolve, and who knows TorchScript."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

MAY_IMPORT = {
    "models": {"models"},
    "script": {"script"},
    "serve": {"serve", "script"},
    "cpp_runner": {"cpp_runner", "script"},
}


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).glob("*.py"))


def imported(source: str) -> set[str]:
    """Every dotted name that a module imports."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_go_from_leaf_to_root(room: str) -> None:
    assert modules(room)
    for file in modules(room):
        for name in imported(file.read_text()):
            parts = name.split(".")
            if parts[0] == "torchship":
                assert parts[1] in MAY_IMPORT[room], f"{file.name} imports {name}"


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_the_links_of_the_namespace_resolve(room: str) -> None:
    link = ROOT / "src" / "torchship" / room
    assert link.is_symlink()
    assert link.resolve() == ROOT / room


def test_one_module_knows_how_to_make_and_load_torchscript() -> None:
    calls = re.compile(r"torch\.jit\.(script|trace\w*|load|save|freeze)\b|torch\._C\b")
    knowing = {
        file.relative_to(ROOT).as_posix()
        for folder in (*MAY_IMPORT, "src/torchship")
        for file in (ROOT / folder).glob("*.py")
        if calls.search(re.sub(r"(?s)\"\"\".*?\"\"\"|#[^\n]*|`[^`]*`", "", file.read_text()))
    }
    assert knowing == {"script/runtime/torchscript.py"}
