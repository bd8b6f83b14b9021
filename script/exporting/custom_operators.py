"""The operators that a scripted module uses and torch itself does not have."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache

from torchship.script.exporting.saved_code import code_files, parse

# Namespaces of operators that LibTorch itself registers, in a build for the CPU or for a GPU.
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
    """Return the operators, by name, that the code in a TorchScript zip uses and torch lacks.

    What is read is the code that LibTorch will compile when it loads the zip: of every module's
    methods, and of every function and class that they use. A namespace that a newer torch has
    brought is not known here: see `torch_has`.
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
    """Whether torch alone registers the operator, asked in a process that has loaded nothing else.

    In this process the operator may be a library's.
    """
    done = subprocess.run(
        [sys.executable, "-c", _ASK_TORCH, name],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return done.returncode == 0
