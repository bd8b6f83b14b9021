"""Installs torch into the Python that runs this: `make` calls it before it builds.

    python deploy/install_torch.py {auto,cpu,cuda} VERSION [ARGUMENTS OF PIP...]

Most indexes give `pip install torch` the build with CUDA, of some gigabytes. The build for the CPU
has a name of its own, VERSION+cpu, and is there for those whose pip knows an index, a folder or a
file that offers it.
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

SMALL = "about 0.2 GB to download, 0.7 GB on disk"
LARGE = "about 3 GB to download, 6 GB on disk"
# Elsewhere the index's plain wheel is the one for the CPU.
CUDA_IS_PLAIN = sys.platform == "linux" and platform.machine() == "x86_64"
# What pip says without and with a file of constraints.
NOT_OFFERED = r"No matching distribution found for torch\b|Cannot install torch\b"
REMEDY = (
    "PyTorch's page 'Start locally' names the index of the wheels for the CPU; give it to make: "
    "PIP_ARGS='--extra-index-url ADDRESS'"
)


def main(choice: str, wanted: str, *pip_arguments: str) -> None:
    """Install what was chosen; exits with one line if that cannot be had."""
    if choice not in ("auto", "cpu", "cuda"):
        sys.exit(f"make: TORCH: expected auto, cpu or cuda, got '{choice}'")
    if not re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", wanted):
        sys.exit(f"make: TORCH_VERSION: expected a release such as 2.13.0, got '{wanted}'")
    there = _installed()
    if choice == "auto" and there and there.partition("+")[0] == wanted:
        print(f"torch {there} is installed already")
        return
    if choice != "cuda" and CUDA_IS_PLAIN:
        print(f"installing torch {wanted} for the CPU, if pip is offered it ({SMALL})", flush=True)
        if _pip(f"torch=={wanted}+cpu", pip_arguments):
            return
        if choice == "cpu":
            sys.exit(f"make: TORCH=cpu: pip is offered no torch {wanted}+cpu. {REMEDY}")
        print(f"pip is offered none. {REMEDY}", flush=True)
    print(
        f"installing torch {wanted}{f' with CUDA ({LARGE})' if CUDA_IS_PLAIN else ''}", flush=True
    )
    if not _pip(f"torch=={wanted},!={wanted}+cpu", pip_arguments):
        sys.exit(f"make: TORCH={choice}: pip is offered no torch {wanted} for this Python")


def _installed() -> str:
    try:
        return version("torch")
    except PackageNotFoundError:
        return ""


def _pip(requirement: str, arguments: tuple[str, ...]) -> bool:
    """Install a requirement; False if there is no such release. Exits on any other failure."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", *arguments, requirement],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return True
    if re.search(NOT_OFFERED, done.stderr):
        return False
    sys.stderr.write(done.stderr)
    sys.exit(f"make: pip could not install {requirement}: its own message is above")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
