"""From an archive to C."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torchship.native.emitting import source
from torchship.native.emitting.unit import CompiledMethod, Unit
from torchship.native.errors import UnsupportedError
from torchship.native.importing.method import import_method
from torchship.native.ir.weights import Weights
from torchship.native.passes import fusion, hoisting, memory, simplify
from torchship.script.runtime.archive import Archive


@dataclass(frozen=True)
class Code:
    """The generated C of one archive."""

    prefix: str
    header: str
    source: str
    unit: Unit


def compile_archive(archive: Archive, golden: bool = True) -> Code:
    """Return an archive's methods as C, with or without its golden cases.

    Raises:
        UnsupportedError: an operator has no C yet; the message names it and its source line.
    """
    manifest = archive.require_manifest()
    module = archive.load()
    weights = Weights()
    methods = []
    for name, signature in manifest.methods.items():
        if not (name.isidentifier() and name.isascii()):
            raise UnsupportedError(f"method '{name}': its name is no identifier of C")
        program, interface = import_method(module, name, signature, weights)
        simplify.simplify(program, weights)
        hoisting.hoist(program)
        fusion.fuse(program)
        plan = memory.plan(program)
        piece = source.piece_rows(plan) if interface.batched else 0
        methods.append(CompiledMethod(program, interface, plan, piece))
    prefix = re.sub(r"\W+", "_", manifest.name, flags=re.ASCII).lower()
    prefix = prefix if not prefix[0].isdigit() else f"m{prefix}"
    title = f"{manifest.name} {manifest.version}" + (
        f": {manifest.description}" if manifest.description else ""
    )
    unit = Unit(
        prefix,
        title,
        archive.digest,
        methods,
        manifest.methods,
        archive.golden if golden else (),
    )
    return Code(prefix, source.header(unit), source.source(unit), unit)
