"""Calls the machine's C compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from torchship.native.errors import CompilerMissingError, NativeError

FLAGS = ("-std=c11", "-O3", "-ffp-contract=off", "-fno-math-errno")


def compiler() -> str:
    """Return the C compiler: that of the environment's CC, or cc, gcc or clang.

    Raises:
        CompilerMissingError: there is none.
    """
    wanted = os.environ.get("CC")
    for name in [wanted] if wanted else ["cc", "gcc", "clang"]:
        found = shutil.which(name)
        if found:
            return found
    missing = f"'{wanted}', which CC names" if wanted else "cc, gcc or clang"
    raise CompilerMissingError(
        f"there is no C compiler ({missing}): install one, such as Debian's package gcc"
    )


def build_library(source: Path, target: Path, options: Sequence[str] = ()) -> None:
    """Compile a generated file to a shared library.

    Raises:
        CompilerMissingError: there is no compiler.
        NativeError: the compiler refuses; with its first error.
    """
    shared = ("-DTORCHSHIP_LIBRARY", "-shared", "-fPIC", "-fvisibility=default", "-Wl,-s")
    run([compiler(), *FLAGS, *options, *shared, str(source), "-o", str(target), "-lm"])


def run(command: Sequence[str]) -> None:
    """Run a compiler.

    Raises:
        NativeError: it fails; with its first error.
    """
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        lines = done.stderr.splitlines()
        first = next(
            (line for line in lines if "error" in line), lines[0] if lines else "no message"
        )
        raise NativeError(f"{Path(command[0]).name} failed: {first.strip()}")
