"""Modules with many methods, compiled to C at once and compared with eager torch.

A signature is written as text, such as `x: float32[batch, 3], k: int`; names in brackets are
symbols, whose sizes a test chooses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from compiled import library_of
from torchship.native.running.library import Library
from torchship.script.format.manifest import Argument, Manifest, Method, Source, Tolerance
from torchship.script.format.nodes import Node, ScalarNode, TensorNode, TupleNode, leaves
from torchship.script.runtime import torchscript, torchscript_file, torchscript_graph
from torchship.script.runtime.archive import Archive, open_archive, pack

ARGUMENT = re.compile(r"(\w+): (\w+)(\[[^\]]*\])?")


@dataclass
class Compiled:
    """The methods of a module in C, and in eager torch."""

    eager: torch.nn.Module
    library: Library
    kinds: set[str]
    """The kinds of nodes in the graphs."""

    def inputs(self, method: str) -> list[Node]:
        """Return the inputs of a method."""
        return [argument.value for argument in self.library.manifest.methods[method].inputs]


def parse(text: str) -> list[Argument]:
    """Return the inputs that a text lists."""
    made = []
    for name, kind, shape in ARGUMENT.findall(text):
        node: Node
        if not shape and kind in ("int", "float", "bool"):
            node = ScalarNode(kind=kind, name=name)
        else:
            parts = [part.strip() for part in shape[1:-1].split(",") if part.strip()]
            axes = tuple(int(part) if part.isdigit() else part for part in parts)
            node = TensorNode(name=name, dtype=kind, shape=axes)
        made.append(Argument(name=name, required=True, value=node))
    return made


def flat(value: object) -> list[torch.Tensor]:
    """Return the tensors of nested tuples."""
    if isinstance(value, torch.Tensor):
        return [value]
    assert isinstance(value, tuple | list), value
    return [tensor for item in value for tensor in flat(item)]


def symbols(inputs: list[Argument]) -> list[str]:
    """Return the symbols of inputs."""
    found: dict[str, None] = {}
    for argument in inputs:
        if isinstance(argument.value, TensorNode):
            found.update({size: None for size in argument.value.shape if isinstance(size, str)})
    return list(found)


def _sample(inputs: list[Argument], sizes: Mapping[str, int]) -> list[Any]:
    made: list[Any] = []
    for argument in inputs:
        node = argument.value
        if isinstance(node, TensorNode):
            shape = [sizes[n] if isinstance(n, str) else int(n or 0) for n in node.shape]
            made.append(torch.ones(shape, dtype=getattr(torch, node.dtype)))
        else:
            made.append({"int": 1, "float": 1.0, "bool": True}[node.kind])
    return made


def _outputs(call: Any, inputs: list[Argument]) -> Node:
    """Infer the outputs from two calls with different sizes."""
    names = symbols(inputs)
    assignments = [{n: start + 3 * i for i, n in enumerate(names)} for start in (4, 5)]
    results = [flat(call(*_sample(inputs, sizes))) for sizes in assignments]
    items = []
    for number, pair in enumerate(zip(*results, strict=True)):
        shape: list[Any] = []
        for n, m in zip(pair[0].shape, pair[1].shape, strict=True):
            same = [s for s in names if (assignments[0][s], assignments[1][s]) == (n, m)]
            shape.append(n if n == m else same[0] if same else None)
        dtype = str(pair[0].dtype).removeprefix("torch.")
        items.append(TensorNode(name=f"y{number}", dtype=dtype, shape=tuple(shape)))
    return items[0] if len(items) == 1 else TupleNode(items=tuple(items))


def _kinds(block: Any) -> set[str]:
    found = set()
    for node in block.nodes():
        found.add(node.kind())
        for inner in node.blocks():
            found |= _kinds(inner)
    return found


def archive_of(
    module: torch.nn.Module, signatures: Mapping[str, str], folder: Path
) -> tuple[Archive, set[str]]:
    """Return a module as an archive without golden cases, and the kinds of its nodes."""
    torchscript.configure()
    module.eval()
    scripted = torchscript.compile_module(module, "script", {name: {} for name in signatures})
    methods = {}
    for name, text in signatures.items():
        inputs = parse(text)
        with torch.no_grad():
            outputs = _outputs(getattr(module, name), inputs)
        tolerances = {leaf.name: Tolerance(atol=0, rtol=0) for leaf in leaves(outputs)}
        methods[name] = Method(inputs=tuple(inputs), outputs=outputs, tolerances=tolerances)
    manifest = Manifest(
        name=type(module).__name__.lower(),
        version="1",
        source=Source(factory="tests:module"),
        torch=torch.__version__,
        mode="script",
        parameters=0,
        methods=methods,
        golden=(),
    )
    path = folder / f"{manifest.name}.pt"
    path.write_bytes(pack(torchscript_file.save(scripted), manifest, []))
    archive = open_archive(path)
    loaded = archive.load()
    kinds: set[str] = set()
    for name in signatures:
        kinds |= _kinds(torchscript_graph.inlined_graph(loaded, name))
    return archive, kinds


def compile_methods(
    module: torch.nn.Module,
    signatures: Mapping[str, str],
    folder: Path,
    options: tuple[str, ...] = ("-O1", "-DTS_ONLY_AVX2"),
) -> Compiled:
    """Compile the methods that `signatures` name."""
    archive, kinds = archive_of(module, signatures, folder)
    return Compiled(module, library_of(archive, folder, options), kinds)


def _number(value: bool | int | float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)


def call_compiled(compiled: Compiled, method: str, values: list[Any]) -> list[torch.Tensor]:
    """Return the outputs of the C."""
    nodes = [leaf for node in compiled.inputs(method) for leaf in leaves(node)]
    named = {
        node.name: value.clone() if isinstance(value, torch.Tensor) else _number(value)
        for node, value in zip(nodes, values, strict=True)
    }
    return list(compiled.library.call(method, named).values())


def call_both(
    compiled: Compiled, method: str, values: list[Any]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return the outputs of the C, and those of eager torch.

    Each gets tensors of its own, because a method may write to them.
    """
    made = call_compiled(compiled, method, values)
    with torch.no_grad():
        wanted = flat(getattr(compiled.eager, method)(*values))
    return made, wanted
