"""Builds a wheel for other machines: `make wheel` calls it.

    python deploy/build_wheel.py FOLDER

Inside are the shared libraries that a bare system may lack (libzip, libpng, OpenSSL and what they
need), with the terms of their licences. LibTorch is not: it is that of the package torch, so the
wheel asks for the minor version of torch that it was built with.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
OF_TORCH = ("libtorch_cpu.so", "libc10.so")


def main(folder: Path) -> None:
    """Build, vendor, and say what came of it."""
    with tempfile.TemporaryDirectory() as scratch:
        here = Path(scratch)
        _run("pip", "wheel", "-q", ROOT, "--no-deps", "--no-build-isolation", "--no-index",
             "--wheel-dir", here / "built")  # fmt: skip
        [built] = (here / "built").iterdir()
        excluded = [argument for name in OF_TORCH for argument in ("--exclude", name)]
        _run("auditwheel", "repair", *excluded, "--wheel-dir", here / "repaired", built)
        [repaired] = (here / "repaired").iterdir()
        _run("wheel", "unpack", "-d", here / "unpacked", repaired)
        [content] = (here / "unpacked").iterdir()
        _pin_torch(content)
        _add_licences(content)
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("torchship-*.whl"):
            old.unlink()
        _run("wheel", "pack", "-d", folder, content)
    [wheel] = folder.glob("torchship-*.whl")
    print(f"{wheel}: for torch {_minor()}, {wheel.stat().st_size / 2**20:.1f} MiB")


def _run(module: str, *arguments: object) -> None:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        sys.stderr.write(done.stdout)
        sys.exit(f"make wheel: {module} {arguments[0]} failed: its own message is above")


def _minor() -> str:
    return ".".join(torch.__version__.split(".")[:2])


def _pin_torch(content: Path) -> None:
    """Let the wheel ask for the torch whose C++ ABI it has."""
    [metadata] = content.glob("*.dist-info/METADATA")
    text, count = re.subn(
        r"(?m)^Requires-Dist: torch\b.*$",
        f"Requires-Dist: torch=={_minor()}.*",
        metadata.read_text(),
    )
    if count != 1:
        sys.exit(f"make wheel: expected one requirement of torch, found {count}")
    metadata.write_text(text)


def _add_licences(content: Path) -> None:
    """Add the terms of every library that was copied in, as the system's packages have them.

    A copy has its name, `-`, a digest, and its version: `libzip-1a2b3c4d.so.5.5`.
    """
    [info] = content.glob("*.dist-info")
    for copy in sorted((content / "torchship.libs").iterdir()):
        stem, _, version = re.sub(r"-[0-9a-f]{8}(?=\.so)", "", copy.name).partition(".so")
        licence = _licence(f"{stem}.so{version}")
        target = info / "licenses" / stem / "copyright"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(licence, target)


def _licence(library: str) -> Path:
    for line in _output("ldconfig", "-p").splitlines():
        name, _, path = line.strip().partition(" (")
        if name and library.startswith(name):
            # By the name alone: Debian's packages say /lib where the system has /usr/lib.
            owner = _output("dpkg", "-S", f"*/{Path(path.rpartition('=> ')[2]).resolve().name}")
            package = owner.partition(":")[0]
            return Path("/usr/share/doc", package, "copyright")
    sys.exit(f"make wheel: no package of this system has {library}: whose licence does it need?")


def _output(*command: object) -> str:
    return subprocess.run(
        [str(part) for part in command], stdout=subprocess.PIPE, text=True, check=True
    ).stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]))
