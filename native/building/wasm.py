"""Compiles generated C to WebAssembly, with clang and the C library of WASI."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from torchship.native.building.toolchain import run
from torchship.native.compiler import Code
from torchship.native.errors import CompilerMissingError

MISSING = (
    "there is no clang that compiles to WebAssembly: install it, with Debian's packages "
    "clang, lld and wasi-libc"
)
FLAGS = (
    *("--target=wasm32-wasi", "-std=c11", "-O3", "-msimd128", "-mbulk-memory"),
    *("-ffp-contract=off", "-fno-math-errno", "-nostartfiles", "-Wl,--no-entry", "-Wl,--strip-all"),
)


def compiler() -> str:
    """Return the clang that compiles to WebAssembly: that of WASM_CC, or clang.

    Raises:
        CompilerMissingError: there is none, or no linker or C library for it.
    """
    found = shutil.which(os.environ.get("WASM_CC", "clang"))
    if found is None or shutil.which("wasm-ld") is None:
        raise CompilerMissingError(MISSING)
    return found


def build_wasm(code: Code, source: Path, target: Path) -> None:
    """Compile a generated file to a module without imports.

    Raises:
        CompilerMissingError: there is no compiler for WebAssembly.
        NativeError: the compiler refuses; with its first error.
    """
    names = [f"{code.prefix}_info", "__heap_base"]
    if code.unit.cases:
        names += [f"{code.prefix}_selftest", f"{code.prefix}_selftest_workspace_size"]
    for method in code.unit.methods:
        name = f"{code.prefix}_{method.program.name}"
        names += [name, f"{name}_shape", f"{name}_workspace_size"]
    exports = [f"-Wl,--export={name}" for name in names]
    run([compiler(), *FLAGS, *exports, str(source), "-o", str(target)])
