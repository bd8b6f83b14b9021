"""The structure of the code: direction of imports, symbolic links, the only user of TorchScript."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# The Python files of each package: `src/torchship/` links to these folders.
FOLDERS = {
    "models": ROOT / "models",
    "script": ROOT / "script",
    "native": ROOT / "native",
    "serve": ROOT / "serve",
    "cpp_runner": ROOT / "cpp_runner" / "python",
    "score": ROOT / "src" / "torchship" / "score",
}

MAY_IMPORT = {
    "models": {"models"},
    "script": {"script"},
    "native": {"native", "script", "ui"},
    "serve": {"serve", "native", "script", "ui"},
    "cpp_runner": {"cpp_runner", "script"},
    "score": {"score", "native", "script"},
}

# From leaf to root: a layer may import itself and those before it. A layer is a folder, or a module
# that lies beside the folders.
LAYERS = {
    "models": ["errors", "training", "*", "snake", "registry", "cli"],
    "script": ["errors", "format", "runtime", "exporting", "cli"],
    "native": [
        *("errors", "ir", "importing", "passes", "emitting", "compiler"),
        *("building", "running", "site", "cli"),
    ],
    "serve": [
        *("errors", "system", "stores", "settings", "protocol", "telemetry", "engine"),
        *("repository", "sequences", "service", "http", "transport", "grpc", "client"),
        *("options", "process", "ray", "cli"),
    ],
}


# Layers beside each other: neither imports the other.
APART = {"native": {("passes", "importing")}}

# The folders of the C++ library, from leaf to root.
CPP = ROOT / "cpp_runner"
CPP_LAYERS = [
    *("base", "io", "runtime", "manifest", "call"),
    *("archive", "session", "native", "verify", "c_api"),
]
# Public headers that no source has the name of: one of several formats, and one without a source.
CPP_HEADERS = {"tensor_io": "io", "error": "base"}


def modules(package: str) -> dict[str, Path]:
    """Every module of a package by its dotted name, however deep it lies."""
    found = {}
    for file in sorted(FOLDERS[package].rglob("*.py")):
        parts = file.relative_to(FOLDERS[package]).with_suffix("").parts
        found[".".join((package, *parts)).removesuffix(".__init__")] = file
    return found


def imported(source: str) -> set[str]:
    """Every dotted name that a module imports, for type checking too."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imports_within(package: str) -> dict[str, set[str]]:
    """The modules of the same package that each module imports."""
    known = modules(package)
    found: dict[str, set[str]] = {}
    for module, file in known.items():
        names = {name.removeprefix("torchship.") for name in imported(file.read_text())}
        targets = {name if name in known else name.rpartition(".")[0] for name in names}
        found[module] = {name for name in targets if name in known} - {module}
    return found


def circles(graph: Mapping[str, Iterable[str]]) -> set[str]:
    """The nodes that lie on a circle, or between two."""
    left = {node: set(to) for node, to in graph.items()}
    while ends := {node for node, to in left.items() if not to & left.keys()}:
        left = {node: to for node, to in left.items() if node not in ends}
    while left:
        reached = set().union(*left.values())
        starts = left.keys() - reached
        if not starts:
            break
        left = {node: to for node, to in left.items() if node not in starts}
    return set(left)


def layer(package: str, module: str) -> str:
    """The layer of a module; that of a package itself is ""."""
    name = module.split(".")[1] if "." in module else ""
    return name if not name or name in LAYERS[package] else "*"


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_go_from_leaf_to_root(room: str) -> None:
    assert len(modules(room)) > 5
    for module, file in modules(room).items():
        for name in imported(file.read_text()):
            parts = name.split(".")
            if parts[0] == "torchship":
                assert parts[1] in MAY_IMPORT[room], f"{module} imports {name}"


@pytest.mark.parametrize("package", LAYERS)
def test_layers_import_only_those_before_them(package: str) -> None:
    order = LAYERS[package]
    for module, targets in imports_within(package).items():
        if layer(package, module):  # `script` itself names what users import
            for target in targets:
                place = order.index(layer(package, target))
                assert place <= order.index(layer(package, module)), f"{module} imports {target}"
                pair = (layer(package, module), layer(package, target))
                assert pair not in APART.get(package, ()), f"{module} imports {target}"


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_no_module_is_on_a_circle_of_imports(package: str) -> None:
    assert circles(imports_within(package)) == set()


def test_a_circle_is_seen() -> None:
    graph = {"a": ["b"], "b": ["c"], "c": ["b", "d"], "d": [], "e": ["a"]}
    assert circles(graph) == {"b", "c"}
    assert circles({"a": ["b", "c"], "b": ["c"], "c": []}) == set()


@pytest.mark.parametrize("package", ["script", "native", "serve", "score"])
def test_every_module_has_a_line_on_the_map(package: str) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    for module, file in modules(package).items():
        if file.name != "__init__.py":
            name = module.rpartition(".")[2]
            assert f"`{name}`" in page, f"docs/architecture.md: no `{name}` of {module}"


@pytest.mark.parametrize("room", sorted(MAY_IMPORT.keys() - {"score"}))
def test_the_links_of_the_namespace_resolve(room: str) -> None:
    link = ROOT / "src" / "torchship" / room
    assert link.is_symlink()
    assert link.resolve() == FOLDERS[room]


def test_three_modules_know_how_to_make_and_load_torchscript() -> None:
    calls = re.compile(r"torch\.jit\.(script|trace\w*|load|save|freeze)\b|torch\._C\b")
    files = [file for room in MAY_IMPORT for file in modules(room).values()]
    knowing = {
        file.relative_to(ROOT).as_posix()
        for file in (*files, *(ROOT / "src/torchship").glob("*.py"))
        if calls.search(re.sub(r"(?s)\"\"\".*?\"\"\"|#[^\n]*|`[^`]*`", "", file.read_text()))
    }
    names = ("torchscript", "torchscript_file", "torchscript_graph")
    assert knowing == {f"script/runtime/{name}.py" for name in names}


def cpp_folders() -> dict[str, str]:
    """The folder that implements each public header, by the header's name."""
    public = {file.stem for file in (CPP / "include" / "torchship").glob("*.h")}
    sources = {file.stem: file.parent.name for file in (CPP / "src").glob("*/*.cpp")}
    return CPP_HEADERS | {name: sources[name] for name in public & sources.keys()}


def test_folders_of_the_cpp_library_include_only_those_before_them() -> None:
    folders = cpp_folders()
    assert {folder.name for folder in (CPP / "src").iterdir()} == set(CPP_LAYERS)
    files = [*(CPP / "src").glob("*/*.h"), *(CPP / "src").glob("*/*.cpp")]
    assert len(files) > 50
    for file in files:
        text = file.read_text()
        included = re.findall(r'#include "(\w+)/\w+\.h"', text)
        assert len(included) == text.count('#include "')
        included += [folders[name] for name in re.findall(r"#include <torchship/(\w+)\.h>", text)]
        own = CPP_LAYERS.index(file.parent.name)
        for folder in included:
            assert CPP_LAYERS.index(folder) <= own, f"{file.relative_to(CPP)} includes {folder}"


def test_every_source_of_the_cpp_library_has_a_header_of_its_name() -> None:
    formats = {"npy", "safetensors", "json_tensors", "tensor_files"}  # tensor_io.h
    for file in (CPP / "src").glob("*/*.cpp"):
        public = CPP / "include" / "torchship" / f"{file.stem}.h"
        assert file.with_suffix(".h").exists() or public.exists() or file.stem in formats, file


def test_the_cpp_library_knows_nothing_of_its_applications() -> None:
    for file in (CPP / "src").glob("*/*.*"):
        assert not re.search(r'#include "(app|snake)/', file.read_text()), file
    for file in (CPP / "app").glob("*.*"):
        if file.name not in ("main.cpp", "CMakeLists.txt"):
            assert "snake/" not in file.read_text(), f"{file.name} knows the game"
