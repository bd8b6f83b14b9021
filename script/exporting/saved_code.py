"""Parses the code in a TorchScript zip, whose syntax is Python's."""

from __future__ import annotations

import ast
import keyword
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from torchship.script.runtime.torchscript import attributes
from torchship.script.runtime.torchscript_file import visit_records


def unreadable_names(module: torch.jit.ScriptModule, script: bytes | str) -> list[str]:
    """Return the names in a module's saved code that LibTorch cannot read again.

    Its lexer accepts only ASCII and no Python keywords. An attribute name that is not ASCII is
    written as a string with zero bytes in it.
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
    """Yield the name and content of each code record; `script` is as for `visit_records`."""
    found: dict[str, bytes] = {}
    visit_records(
        script,
        lambda name, view: found.update({name: bytes(view)}),
        wanted=lambda name: name.startswith("code/") and name.endswith(".py"),
    )
    yield from found.items()


def parse(code: bytes) -> ast.Module:
    """Return the syntax tree of one code file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of LibTorch's string escapes are invalid in Python
        return ast.parse(code)
