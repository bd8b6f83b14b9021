"""Loads libraries of operators in a separate process, to test whether they can be loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

_LOAD = """
import json, os, sys
sys.path[:], needed, registered = json.loads(sys.argv[1])
os.set_inheritable(registered, False)
import torch
for name, path in needed:
    if not torch._C._jit_get_schemas_for_operator(name):
        torch.ops.load_library(path)
        if not torch._C._jit_get_schemas_for_operator(name):
            sys.exit(3)
    os.write(registered, b".")
"""


def load_apart(needed: Sequence[tuple[str, Path]]) -> tuple[int, str] | None:
    """Load, in a new process, the library of each operator that is not registered there yet.

    In this process another library may have registered the operators already.

    Returns:
        None if all operators are registered then. Otherwise the index of the first one whose
        library does not register it (with an empty text) or cannot be loaded (with the reason).
    """
    # The process reports through a separate file, because the library may print anything.
    with tempfile.TemporaryFile() as registered:
        descriptor = registered.fileno()
        argument = json.dumps([sys.path, [(name, str(path)) for name, path in needed], descriptor])
        done = subprocess.run(
            [sys.executable, "-I", "-c", _LOAD, argument],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[descriptor],
            text=True,
            errors="replace",
            check=False,
        )
        index = registered.seek(0, os.SEEK_END)
    if done.returncode == 0:
        return None
    if done.returncode == 3:
        return index, ""
    lines = done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"]
    # The message of an uncaught C++ exception, or the last line of Python's traceback.
    reason = next((line for line in lines if line.strip().startswith("what():")), lines[-1])
    return index, reason.strip().removeprefix("what():").removeprefix("OSError:").strip()
