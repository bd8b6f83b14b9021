"""Loading libraries of operators in a process of their own, to see whether they can be loaded."""

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
    """Load the library of each operator that is not registered yet, in a process of its own.

    In this process the operators may be there already, whoever has registered them.

    Returns:
        Nothing when all operators are registered then; otherwise the index of the first whose
        library does not register it, with an empty text, or cannot be loaded, with the reason.
    """
    # A file of its own for what it tells us: the library may print what it likes.
    with tempfile.TemporaryFile() as registered:
        descriptor = registered.fileno()
        told = json.dumps([sys.path, [(name, str(path)) for name, path in needed], descriptor])
        done = subprocess.run(
            [sys.executable, "-I", "-c", _LOAD, told],
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
    # What an exception says that ends a process in C++, or the last line of Python's traceback.
    reason = next((line for line in lines if line.strip().startswith("what():")), lines[-1])
    return index, reason.strip().removeprefix("what():").removeprefix("OSError:").strip()
