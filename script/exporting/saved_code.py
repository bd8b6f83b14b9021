"""The code in a TorchScript zip, read as what it is: Python's syntax."""

from __future__ import annotations

import ast
import keyword
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from torchship.script.runtime.torchscript import attributes, visit_records


def unreadable_names(module: torch.jit.ScriptModule, script: bytes | str) -> list[str]:
    """Return the names in a module's saved code that LibTorch does not read again.

    Its lexer takes ASCII only, and no words of Python's own; where a name that is not ASCII stands
    for an attribute, LibTorch writes it as a string with zeros in it.
    """
    held = _attribute_names(module)
    found: set[str] = set()
    for record, code in code_files(script):
        found |= set(Path(record).with_suffix("").parts)  # modules of Python
        try:
            tree = parse(code)
        except SyntaxError:
            return sorted(name for name in held if keyword.iskeyword(name))
        for node in ast.walk(tree):
            match node:
                case ast.Call(ast.Name("getattr"), [_, ast.Constant(str(text))]) if "\0" in text:
                    found |= held
            for kind in ("id", "attr", "arg", "name"):
                name = getattr(node, kind, None)
                if isinstance(name, str):
                    found.add(name)
    return sorted(name for name in found if not name.isascii())


def _attribute_names(module: torch.jit.ScriptModule) -> set[str]:
    named = [
        *module.named_parameters(),
        *module.named_buffers(),
        *module.named_modules(),
        *(
            item
            for part in module.modules()
            if isinstance(part, torch.jit.ScriptModule)
            for item in attributes(part).items()
        ),
    ]
    return {step for path, _ in named for step in path.split(".")}


def code_files(script: bytes | str) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of each record that is code; `script` as `visit_records`."""
    found: dict[str, bytes] = {}
    visit_records(
        script,
        lambda name, view: found.update({name: bytes(view)}),
        wanted=lambda name: name.startswith("code/") and name.endswith(".py"),
    )
    yield from found.items()


def parse(code: bytes) -> ast.Module:
    """Return the syntax of one file of code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LibTorch's escapes in strings are not all Python's
        return ast.parse(code)
