"""The WebAssembly of an archive in the user's cache, compiled there once.

`main` is for a process of its own: compiling takes seconds and memory, and loads the archive.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from torchship.native.building.cache import folder
from torchship.native.building.wasm import FLAGS, compiler
from torchship.native.compiler import compile_archive
from torchship.native.running.compiled import check_size, key_of, locked
from torchship.native.running.wasm import write_module
from torchship.script.errors import ArchiveError, TorchShipError, UsageError
from torchship.script.runtime import operators, printing
from torchship.script.runtime.archive import Archive, open_archive

NAME = "model"
"""The module is `model.wasm`, and what loads it `model.mjs`."""

CHANGED = "archive_changed"


def compiled_wasm(archive: Archive) -> Path:
    """Compile an archive into the cache, unless it was before; return the folder of its files.

    They are those of `torchship compile --target wasm -o model.wasm`, golden cases included. Of
    several processes that ask at the same time, one compiles.

    Raises:
        UnsupportedError: an operator has no C, or the archive is too large.
        CompilerMissingError: there is no compiler for WebAssembly.
        NativeError: the compiler fails.
        UsageError: the cache cannot be used.
    """
    check_size(archive, "wasm")
    place = folder()
    target = place / f"wasm-{key_of(archive, compiler(), FLAGS)}"
    try:
        with locked(place):
            if not target.exists():
                code = compile_archive(archive, golden=True)
                with tempfile.TemporaryDirectory(dir=place) as scratch:
                    made = Path(scratch) / NAME
                    made.mkdir()
                    write_module(code, made, NAME)
                    made.replace(target)
    except OSError as error:
        raise UsageError(f"cannot use the cache '{place}': {error.strerror}") from None
    return target


def main() -> None:
    """Compile `PATH`, whose bytes must have the SHA-256 `DIGEST`; arguments: PATH DIGEST [FOLDER…].

    The further arguments are folders of operators. The one line on standard output is JSON: the
    `folder`, or the `code` and the text of an `error`.
    """
    printing.install()
    path, digest, *folders = sys.argv[1:]
    operators.allow([Path(name) for name in folders])
    try:
        archive = open_archive(Path(path))
    except ArchiveError:  # it was read before
        archive = None
    if archive is None or archive.digest != digest:
        print(json.dumps({"code": CHANGED, "error": "the file has changed"}))
        return
    try:
        print(json.dumps({"folder": str(compiled_wasm(archive))}))
    except TorchShipError as error:
        print(json.dumps({"code": error.code, "error": str(error)}))
