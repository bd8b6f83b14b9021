"""Compiled libraries in the user's cache: made once for an archive, a compiler and this version."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

from pooch.utils import os_cache

from torchship.native.building.toolchain import FLAGS, build_library, compiler
from torchship.native.compiler import Code
from torchship.script.errors import UsageError


def folder() -> Path:
    """Return the folder of libraries: TORCHSHIP_NATIVE_CACHE, or `native` in the user's cache."""
    chosen = os.environ.get("TORCHSHIP_NATIVE_CACHE")
    return Path(chosen) if chosen else Path(os_cache("torchship")) / "native"


def cached_library(code: Code) -> Path:
    """Return the library of generated code, compiled now if the cache does not have it.

    Raises:
        CompilerMissingError: there is no C compiler.
        NativeError: the compiler fails.
        UsageError: the cache's folder cannot be written.
    """
    command = compiler()
    version = subprocess.run(
        [command, "--version"], capture_output=True, text=True, check=False
    ).stdout
    parts = (code.header, code.source, version, *FLAGS)
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    target = folder() / f"{code.prefix}-{key}.so"
    if target.exists():
        return target
    try:
        folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder()) as name:
            place = Path(name)
            (place / f"{code.prefix}.h").write_text(code.header)
            (place / f"{code.prefix}.c").write_text(code.source)
            build_library(place / f"{code.prefix}.c", place / "library.so")
            (place / "library.so").replace(target)
    except OSError as error:
        raise UsageError(f"cannot write to the cache '{folder()}': {error.strerror}") from None
    return target
