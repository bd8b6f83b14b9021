"""A run over files: what is left to do, in this process or elsewhere, and what came of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torchship.score.errors import BadRowsError, TableError
from torchship.score.opening import open_table
from torchship.score.parts import open_part
from torchship.score.results import WRITERS
from torchship.score.scorer import Scorer
from torchship.score.state import FileState
from torchship.score.tables import named


@dataclass
class Report:
    """What came of a run."""

    done: list[dict[str, object]] = field(default_factory=list)
    """Of each complete file: its names and its numbers of rows."""
    failed: dict[str, str] = field(default_factory=dict)
    """Of each file that could not be read to its end: why."""
    scored: int = 0
    bad: int = 0

    @property
    def clean(self) -> bool:
        """Whether every row of every file was scored."""
        return not self.failed and not self.bad

    def to_json(self) -> dict[str, object]:
        """Return the report as a JSON object."""
        return {
            "scored": self.scored,
            "bad": self.bad,
            "files": self.done,
            "failed": [{"input": name, "error": why} for name, why in self.failed.items()],
        }


class Run:
    """The files of a run, which a local loop or a cluster works on."""

    def __init__(
        self,
        files: Sequence[FileState],
        ending: str,
        max_bad: int | None,
        progress: Callable[[float, int], None],
    ) -> None:
        """Take the files.

        Args:
            files: in order.
            ending: of outputs, which says their format.
            max_bad: the run stops after more bad rows; None for any number.
            progress: told the number of files, with fractions, and of rows that are done.
        """
        self.report = Report()
        self._parts: dict[int, dict[int, tuple[int, int]]] = {}
        self._ending = ending
        self._max_bad = max_bad
        self._progress = progress
        self.left: list[FileState] = []
        """The files that are not complete."""
        for state in files:
            try:
                state.begin()
            except TableError as error:  # it went since it was found
                self.fail(state, error)
                continue
            known = state.done()
            if known is None:
                self.left.append(state)
            else:
                self._count(known)
        for state in self.left:
            self._parts[id(state)] = {}
            for number in state.parts():
                self._add(state, number)
        self._check()

    def parts(self, state: FileState) -> set[int]:
        """Return the numbers of the parts of a file that are there."""
        return set(self._parts[id(state)])

    def take(self, state: FileState, number: int, data: bytes, of: int | None = None) -> None:
        """Keep a part of a file's result; `of` is the number of the file's rows, if it is known.

        Raises:
            UsageError: it cannot be written.
            BadRowsError: there are more bad rows than allowed.
        """
        state.write_part(number, data)
        self._add(state, number)
        self._tell(state, of)
        self._check()

    def complete(self, state: FileState) -> None:
        """Write a file's output, all of whose parts are there.

        Raises:
            RunError: the file has changed meanwhile, or the output cannot be written.
        """
        state.begin()
        numbers = sorted(self._parts[id(state)])
        paths = [state.part(number) for number in numbers]
        scored = sum(rows for rows, _ in self._parts[id(state)].values())
        bad = self.write_bad(state)
        with state.written(state.target) as temporary:
            WRITERS[self._ending](temporary, paths)
        result = {
            "input": os.fsdecode(state.file.path),
            "output": os.fsdecode(state.target),
            "scored": scored,
            "bad": bad,
        }
        state.finish(result)
        self.report.done.append(result)
        self._tell(state, None)

    def write_bad(self, state: FileState) -> int:
        """Write the side file of a file's bad rows, and return how many there are."""
        count = sum(bad for _, bad in self._parts[id(state)].values())
        if not count:
            state.bad_file.unlink(missing_ok=True)
            return 0
        with state.written(state.bad_file) as temporary, temporary.open("w") as file:
            for number in sorted(self._parts[id(state)]):
                with open_part(state.part(number)) as part:
                    for row in part.bad:
                        entry = {"file": os.fsdecode(state.file.path), **row.to_json()}
                        file.write(json.dumps(entry) + "\n")
        return count

    def fail(self, state: FileState, error: TableError) -> None:
        """Note that a file cannot be read; the others go on."""
        text, name = str(error), named(state.file.path)
        text = text if name in text else f"{name}: {text}"
        self.report.failed[os.fsdecode(state.file.path)] = text
        self._tell(state, None)

    def _add(self, state: FileState, number: int) -> None:
        with open_part(state.part(number)) as part:
            rows, bad = part.rows, len(part.bad)
        self._parts[id(state)][number] = (rows, bad)
        self.report.scored += rows
        self.report.bad += bad

    def _count(self, known: dict[str, object]) -> None:
        self.report.done.append({key: known[key] for key in ("input", "output", "scored", "bad")})
        self.report.scored += int(str(known["scored"]))
        self.report.bad += int(str(known["bad"]))

    def _tell(self, state: FileState, of: int | None) -> None:
        files = float(len(self.report.done) + len(self.report.failed))
        if of:
            files += min(1.0, sum(map(sum, self._parts[id(state)].values())) / of)
        self._progress(files, self.report.scored + self.report.bad)

    def _check(self) -> None:
        if self._max_bad is not None and self.report.bad > self._max_bad:
            for state in self.left:
                if self._parts[id(state)]:
                    self.write_bad(state)
            raise BadRowsError(
                f"{self.report.bad} rows are bad, and --max-bad allows {self._max_bad}: see the "
                "side files, mend the table and start over with --restart, or allow more"
            )


def run_here(run: Run, scorer: Scorer) -> None:
    """Score in this process what is left of a run.

    Raises:
        TorchShipError: what ends the run, and is no fault of a file.
    """
    for state in run.left:
        try:
            table = open_table(state.file.path)
            there = run.parts(state)
            first = next(n for n in range(len(there) + 1) if n not in there)
            for number, data in enumerate(scorer.parts(table, first), first):
                if number not in there:
                    run.take(state, number, data, table.rows)
            run.complete(state)
        except TableError as error:
            run.fail(state, error)
