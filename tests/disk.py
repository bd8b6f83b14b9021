"""Simulates a disk that refuses writes or does not answer.

An audit hook (PEP 578) sees every opening and every listing before it is made, in the process that
it is installed in. What it is to do with a path is said by a file of the test's: its size is the
number of the error, and a FIFO is a disk that does not answer.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

HOOK = Path(__file__).parent / "faulty_disk"


class Disk:
    """What is wrong with the disk, for this process and for those with `environment`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stalled: set[Path] = set()
        os.mkfifo(folder / "told")
        self._told = os.open(folder / "told", os.O_RDWR | os.O_NONBLOCK)
        self.environment = {"FAULTY_DISK": str(folder), "PYTHONPATH": str(HOOK)}

    def _said(self, path: Path) -> Path:
        return self._folder / str(path).replace("/", "%")

    def refuse(self, path: Path, error: int) -> None:
        """Have the path fail with an error number from now on."""
        self._said(path).write_bytes(bytes(error))

    def stall(self, path: Path) -> None:
        """Have whoever opens the path wait."""
        os.mkfifo(self._said(path))
        self._stalled.add(path)

    def mend(self, path: Path) -> None:
        """Have the path be as it is; whoever waits for it goes on."""
        said = self._said(path)
        if path in self._stalled:
            self._stalled.discard(path)
            freed = os.open(said, os.O_RDWR)  # whoever waits finds it open
            said.unlink()
            os.close(freed)
        else:
            said.unlink()

    def told(self) -> int:
        """Return how often something was refused or stalled since this was asked last."""
        try:
            return len(os.read(self._told, 1 << 16))
        except BlockingIOError:
            return 0

    def wait(self) -> None:
        """Wait until something is refused or stalls."""
        assert select.select([self._told], [], [], 60)[0]
        os.read(self._told, 1)

    def close(self) -> None:
        """Let everything go on."""
        for path in list(self._stalled):
            self.mend(path)
        os.close(self._told)


@contextmanager
def faulty(folder: Path) -> Iterator[Disk]:
    """Give a disk whose faults are seen in this process too."""
    import_module("faulty_disk.sitecustomize")
    disk = Disk(folder)
    os.environ["FAULTY_DISK"] = str(folder)
    try:
        yield disk
    finally:
        del os.environ["FAULTY_DISK"]
        disk.close()
