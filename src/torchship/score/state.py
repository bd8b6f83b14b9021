"""The state of a run in its output folder, from which a run that was ended goes on.

`OUTPUT/.torchship/` has the lock, the settings of the run, and a folder for each input file with
its identity, its parts so far, and at last what came of it. Everything is written to a temporary
file and renamed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from torchship.score.errors import RunError
from torchship.score.inputs import InputFile
from torchship.score.tables import first_line, named
from torchship.script.format.atomic_write import write_atomic

FOLDER = ".torchship"
RUN, FILE, DONE = "run.json", "file.json", "done.json"
NOTED = {"input": str, "output": str}
RESULT = {"input": str, "output": str, "scored": int, "bad": int, "bytes": int}
BAD_ROWS = "_bad"
"""Below the output folder; readers of whole folders of tables pass over names with `_`."""


class FileState:
    """What has been done of one input file."""

    def __init__(self, output: Path, file: InputFile) -> None:
        """Take the output folder; nothing is read or written yet."""
        self.file = file
        self.target = output / file.output
        self.bad_file = output / BAD_ROWS / file.output.with_suffix(".jsonl")
        key = hashlib.sha256(os.fsencode(file.output)).hexdigest()[:24]
        self._folder = output / FOLDER / key

    def begin(self) -> None:
        """Note the file's identity, or check it against what was noted before.

        Raises:
            RunError: the file has changed, or there is an output that no run wrote.
        """
        noted = self.noted()
        identity = {**self.file.identity(), "output": os.fsdecode(self.file.output)}
        if noted is None:
            if os.path.lexists(self.target) and not self._folder.is_dir():
                raise RunError(
                    f"{named(self.target)} is there already, and not of this run: choose another "
                    "folder, or move it away"
                )
            self._folder.mkdir(parents=True, exist_ok=True)
            write_json(self._folder / FILE, identity)
        elif noted != identity:
            raise RunError(
                f"{named(self.file.path)} is another file than when it was begun: start over with "
                "--restart, or choose another output folder"
            )

    def noted(self) -> dict[str, Any] | None:
        """Return the identity that was noted; None for a file that was not begun."""
        return read_json(self._folder / FILE, NOTED)

    def done(self) -> dict[str, Any] | None:
        """Return what came of the file; None if it is not complete, or its output is gone."""
        known = read_json(self._folder / DONE, RESULT)
        if known is None:
            return None
        try:
            there = self.target.stat().st_size == known["bytes"]
        except OSError:
            there = False
        if there and (known["bad"] == 0 or self.bad_file.exists()):
            return known
        (self._folder / DONE).unlink()
        return None

    def parts(self) -> list[int]:
        """Return the numbers of the parts that are there, in order."""
        return sorted(int(path.stem) for path in self._folder.glob("*.arrow"))

    def part(self, number: int) -> Path:
        """Return the path of a part."""
        return self._folder / f"{number:08d}.arrow"

    def write_part(self, number: int, data: bytes) -> None:
        """Write a part.

        Raises:
            UsageError: it cannot be written.
        """
        write_atomic(self.part(number), data)

    @contextmanager
    def written(self, target: Path) -> Iterator[Path]:
        """Give a temporary file that becomes `target` after the block.

        Raises:
            RunError: it cannot be written.
        """
        temporary = self._folder / "output.tmp"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except (OSError, pa.ArrowException) as error:
            raise RunError(f"cannot write {named(target)}: {first_line(error)}") from None
        finally:
            with suppress(OSError):
                temporary.unlink()

    def finish(self, result: Mapping[str, object]) -> None:
        """Note that the file's output is complete, and remove its parts."""
        known = {**result, "bytes": self.target.stat().st_size}
        write_json(self._folder / DONE, known)
        for path in self._folder.iterdir():
            if path.name not in (FILE, DONE):
                path.unlink()


@contextmanager
def run_state(
    output: Path, settings: Mapping[str, object], restart: bool
) -> Iterator[Callable[[InputFile], FileState]]:
    """Hold the output folder for one run, and give the state of each file.

    Raises:
        RunError: another run holds it, or it has a run with other settings and `restart` is False.
        UsageError: it cannot be written.
    """
    folder = output / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise RunError(f"cannot write to {named(output)}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"another run writes to {named(output)}: wait for it, or choose another folder"
            ) from None
        if restart:
            _forget(output)
        wanted = json.loads(json.dumps(settings))
        known = read_json(folder / RUN, {})
        if known is None:
            write_json(folder / RUN, wanted)
        elif known != wanted:
            changed = sorted(key for key in {*known, *wanted} if known.get(key) != wanted.get(key))
            raise RunError(
                f"{named(output)} has a run with another {changed[0].replace('_', ' ')}: start "
                "over with --restart, or choose another output folder"
            )
        yield lambda file: FileState(output, file)
    finally:
        os.close(lock)


def _forget(output: Path) -> None:
    """Remove what earlier runs have written to an output folder, and nothing else.

    The folder of each file's state stays, which says that its output was a run's.
    """
    folder = output / FOLDER
    for inner in [path for path in folder.iterdir() if path.is_dir()]:
        with suppress(RunError):  # a damaged note names nothing
            noted = read_json(inner / FILE, NOTED)
            if noted is not None and _is_below(name := Path(noted["output"])):
                (output / name).unlink(missing_ok=True)
                (output / BAD_ROWS / name.with_suffix(".jsonl")).unlink(missing_ok=True)
        for path in inner.iterdir():
            path.unlink()
    (folder / RUN).unlink(missing_ok=True)


def _is_below(name: Path) -> bool:
    return not name.is_absolute() and ".." not in name.parts


def read_json(path: Path, fields: Mapping[str, type]) -> dict[str, Any] | None:
    """Return a JSON object that a run wrote; None if there is no file.

    Raises:
        RunError: it is damaged, or lacks one of the fields.
    """
    try:
        found = json.loads(path.read_bytes())
        if isinstance(found, dict) and all(
            isinstance(found.get(name), kind) for name, kind in fields.items()
        ):
            return found
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        pass
    raise RunError(f"{named(path)} is damaged: start over with --restart")


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write a JSON object.

    Raises:
        UsageError: it cannot be written.
    """
    write_atomic(path, json.dumps(value, indent=1).encode() + b"\n")
