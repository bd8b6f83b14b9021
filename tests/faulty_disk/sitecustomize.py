"""The hook of `faults/disk.py`: Python imports a module of this name when it starts."""

import os
import stat
import sys
from contextlib import suppress
from typing import Any


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse to open or list a path, or wait, as a file of the test's says."""
    folder = os.environ.get("FAULTY_DISK")
    if not folder or event not in ("open", "os.listdir", "os.scandir"):
        return
    path = arguments[0]
    if not isinstance(path, str | os.PathLike):
        return
    said = os.path.join(folder, str(path).replace("/", "%"))
    try:
        found = os.stat(said)
    except OSError:
        return
    told = os.open(os.path.join(folder, "told"), os.O_WRONLY | os.O_NONBLOCK)
    os.write(told, b".")
    os.close(told)
    if stat.S_ISFIFO(found.st_mode):
        with suppress(FileNotFoundError):  # it was mended since
            os.close(os.open(said, os.O_RDONLY))  # until somebody opens it for writing
    else:
        raise OSError(found.st_size, os.strerror(found.st_size), str(path))


sys.addaudithook(refuse)
