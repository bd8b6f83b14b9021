"""Fetches what a wheel needs into a folder, for a system without a network of its own.

    python deploy/wheelhouse.py FOLDER WHEEL EXTRAS PYTHON [ARGUMENTS OF PIP...]

EXTRAS are those of pyproject.toml, with commas; PYTHON is that system's, such as 3.11. The build of
torch is the one that is installed here, or else another of its release. Nothing is fetched again
for the same wheel's requirements.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from zipfile import ZipFile

# pip reads the markers of requirements with the Python that runs it: what redis needs of a Python
# before 3.11.3, which Debian 12 has, is not seen by a newer one.
OF_OTHERS = ("async-timeout",)


def fetch(folder: Path, wheel: Path, extras: str, python: str, *arguments: str) -> None:
    """Fetch the packages; exits with pip's own message if there is one that it cannot get."""
    torch = version("torch")
    with ZipFile(wheel) as file:
        [name] = [name for name in file.namelist() if name.endswith(".dist-info/METADATA")]
        needs = re.findall(rb"(?m)^Requires-Dist: .*$", file.read(name))
    wanted = hashlib.sha256(b"\n".join([*needs, f"{torch} {extras} {python}".encode()])).hexdigest()
    stamp = folder / wanted
    if stamp.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for release in (torch, torch.partition("+")[0]):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "-q", *arguments),
                *("--only-binary", ":all:", "--python-version", python, "--dest", str(folder)),
                *(f"{wheel}[{extras}]" if extras else str(wheel), f"torch=={release}"),
                *OF_OTHERS,
            ],
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            stamp.touch()
            return
    sys.exit("\n".join(line for line in done.stderr.splitlines() if "ERROR" in line))


if __name__ == "__main__":
    fetch(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
