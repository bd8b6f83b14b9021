"""CMake projects outside the source tree, built against the C++ library where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "release"
CMAKE = shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
PYTHON = f"-DPython_EXECUTABLE={sys.executable}"
OPTIONS_OF_THE_CALLER = {
    "CMAKE_PREFIX_PATH",
    "CMAKE_GENERATOR",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "Torch_DIR",
    "Torch_ROOT",
}


def run(*command: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command without what the caller's environment would tell CMake and Python."""
    environment = {k: v for k, v in os.environ.items() if k not in OPTIONS_OF_THE_CALLER}
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        env=environment | variables,
    )


def done(*command: object) -> str:
    """Return what a command that must succeed prints."""
    result = run(*command)
    assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
    return result.stdout


def built(name: str, folder: Path, prefix: Path, *options: str) -> Path:
    """Build a copy of an example, unoptimised; return its program."""
    shutil.copytree(ROOT / "cpp_runner" / "examples" / name, folder / name)
    build = folder / "build"
    done(CMAKE, "-S", folder / name, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}", *options)
    done(CMAKE, "--build", build)
    return build / name
