"""From an archive to C."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torchship.native.emitting import source
from torchship.native.emitting import weights as weights_file
from torchship.native.emitting.unit import CompiledMethod, Unit
from torchship.native.errors import UnsupportedError
from torchship.native.importing.method import import_method
from torchship.native.ir.weights import Weights
from torchship.native.passes import fusion, hoisting, memory, pieces, simplify
from torchship.script.runtime.archive import Archive


@dataclass(frozen=True)
class Code:
    """The generated C of one archive."""

    prefix: str
    header: str
    source: str
    unit: Unit

    @property
    def weights_file(self) -> bytes:
        """The file of weights for code that was compiled with `weights_apart`."""
        return weights_file.file_contents(self.unit)


def compile_archive(
    archive: Archive, golden: bool = True, weights_apart: bool = False, trace: bool = False
) -> Code:
    """Return an archive's methods as C, with or without its golden cases.

    With `weights_apart` the code has no weights: callers give it the file of `Code.weights_file`.

    With `trace`, the tensors that the model's source gives names to are outputs too, and the golden
    cases, which do not have them, are left out.

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
        program, interface = import_method(module, name, signature, weights, trace)
        cut = interface.batched and pieces.may_be_cut(program)
        simplify.simplify(program, weights)
        hoisting.hoist(program)
        fusion.fuse(program)
        plan = memory.plan(program)
        piece = source.piece_rows(plan) if cut else 0
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
        archive.golden if golden and not trace else (),
        weights_apart,
    )
    return Code(prefix, source.header(unit), source.source(unit), unit)
