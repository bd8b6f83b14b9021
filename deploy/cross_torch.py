"""Archives of one torch, checked in the environment of another; `make test-newest` calls it.

python deploy/cross_torch.py make FOLDER     every model of ours, scripted into FOLDER
python deploy/cross_torch.py check FOLDER    each in script and in C++: bit-identical, or it fails
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from torchship.agreement import all_runtimes, verify_archive
from torchship.models import registry
from torchship.script.exporting.export import export
from torchship.script.exporting.target import find_target
from torchship.script.runtime.archive import open_archive


def make(folder: Path) -> None:
    """Script every model of ours into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in registry.names():
        export(find_target(name, None, {}), folder / f"{name}.pt")


def check(folder: Path) -> None:
    """Run the golden cases of every archive in a folder; exits with one line if a bit differs."""
    paths = sorted(folder.glob("*.pt"))
    wrong = [f"there is no archive in {folder}"] if not paths else []
    runtimes = [all_runtimes()[name] for name in ("script", "cpp")]
    makers = set()
    for path in paths:
        archive = open_archive(path)
        makers.add(archive.require_manifest().torch)
        for result in verify_archive(archive, runtimes).results:
            differing = {d.output for d in result.differences if not d.bit_identical}
            if result.error or differing:
                wrong.append(f"{path.name}, {result.runtime}: {result.error or differing}")
    if wrong:
        sys.exit(f"with torch {torch.__version__}: {'; '.join(wrong)}")
    print(
        f"{len(paths)} archives of torch {', '.join(makers)} are bit-identical in script and C++ "
        f"with torch {torch.__version__}"
    )


if __name__ == "__main__":
    {"make": make, "check": check}[sys.argv[1]](Path(sys.argv[2]))
