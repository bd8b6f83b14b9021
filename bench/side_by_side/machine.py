"""Describes the machine and the versions that a run's figures belong to."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from torchship.native.building.toolchain import FLAGS, compiler

CPU_FLAGS = ("sse2", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512vl", "asimd", "sve")
PACKAGES = ("torchship", "torch", "numpy", "onnx", "onnxscript", "onnxruntime", "openvino")


def describe() -> dict[str, str]:
    """Return the processor, the system and the compiler, as texts."""
    info = _processor()
    known = set((info.get("flags") or info.get("Features") or "").split())
    return {
        "processor": info.get("model name") or platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "instruction sets": " ".join(flag for flag in CPU_FLAGS if flag in known),
        "system": f"{_system()}, kernel {platform.release()}, {platform.machine()}",
        "compiler": f"{_first_line(compiler())}; {' '.join(FLAGS)}",
    }


def versions() -> dict[str, str]:
    """Return the versions of every runtime, `not installed` where there is none."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found | {"node": _first_line("node"), "clang": _first_line("clang")}


def load_average() -> float:
    """Return how many processes wanted to run in the last minute: a quiet machine has under 1."""
    return round(os.getloadavg()[0], 2)


def file_name(description: dict[str, str]) -> str:
    """Return a name for the results of this kind of machine."""
    text = f"{description['processor']} {description['cores']} cores"
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _processor() -> dict[str, str]:
    place = Path("/proc/cpuinfo")
    if not place.exists():
        return {}
    lines = place.read_text().split("\n\n")[0].splitlines()
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _first_line(command: str) -> str:
    if shutil.which(command) is None:
        return "not installed"
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[0] if done.stdout else "unknown"
