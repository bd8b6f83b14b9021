"""Finds the custom operators of a scripted module, which torch itself does not have."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache

from torchship.script.exporting.saved_code import code_files, parse

# Namespaces of operators that LibTorch registers, in builds for the CPU or for a GPU.
BUILT_IN = {
    "_c10d_functional", "_c10d_functional_autograd", "_dtensor", "_native", "_quantized",
    "_test", "aten", "c10d", "coor", "cuda", "cudnn", "inductor", "inductor_prims", "miopen", "mkl",
    "mkldnn", "mkldnn_prepacked", "mps", "onednn", "onnx", "prepacked", "prim", "prims",
    "profiler", "quantization", "quantized", "rngprims", "sparse", "static_runtime", "symm_mem",
    "vulkan", "xnnpack", "xpu",
}  # fmt: skip

_ASK_TORCH = """
import sys, torch
namespace, name = sys.argv[1].split("::")
sys.exit(0 if hasattr(getattr(torch.ops, namespace), name) else 3)
"""


def used_by(script: bytes | str) -> list[str]:
    """Return the names of the operators in a TorchScript zip's code that torch lacks.

    This reads the code that LibTorch compiles when it loads the zip: every module's methods, and
    every function and class that they use. Namespaces of newer torch versions are not known here:
    see `torch_has`.
    """
    found = set()
    for _, code in code_files(script):
        for node in ast.walk(parse(code)):
            match node:  # ops.<namespace>.<name>
                case ast.Attribute(ast.Attribute(ast.Name("ops"), namespace), operator):
                    if namespace not in BUILT_IN:
                        found.add(f"{namespace}::{operator}")
    return sorted(found)


@cache
def torch_has(name: str) -> bool:
    """Return whether torch alone registers the operator, checked in a new process.

    In this process a library may have registered it.
    """
    done = subprocess.run(
        [sys.executable, "-c", _ASK_TORCH, name],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return done.returncode == 0
