"""From a chunk of a table to calls: which rows are good, and which may share a call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from torchship.score.casts import Numbers, to_tensor
from torchship.score.cells import Cells, read_cells, read_text, stacked
from torchship.score.columns import Source
from torchship.score.methods import Input
from torchship.score.tables import BadRow, Chunk
from torchship.script.format.tree import Flat, string_to_tensor

BAD_INPUT = "bad_input"


@dataclass(frozen=True)
class Group:
    """Rows that one call can take, by their places in the chunk."""

    places: Numbers
    batched: bool
    """Whether the call has a batch; if not, the group is one row."""


class Rows:
    """The good rows of a chunk, as values of a method's inputs."""

    def __init__(self, sources: Sequence[Source], chunk: Chunk) -> None:
        """Cast every cell that is an input.

        `bad` has the rows that cannot be scored, those of the chunk among them.
        """
        self._numbers = chunk.numbers
        self._cells: list[tuple[Input, Cells]] = []
        self._texts: list[tuple[Input, list[str | None]]] = []
        self.bad: list[BadRow] = list(chunk.bad)
        good = np.ones(len(chunk.numbers), dtype=bool)
        for source in sources:
            for place, (column, why) in self._read(source, chunk).items():
                if good[place]:
                    good[place] = False
                    number = int(chunk.numbers[place])
                    self.bad.append(BadRow(number, column, BAD_INPUT, why))
        self.good: Numbers = np.flatnonzero(good)
        """The places of the good rows in the chunk, in order."""

    def _read(self, source: Source, chunk: Chunk) -> dict[int, tuple[str, str]]:
        """Read the cells of an input; return the places that are bad, with column and reason."""
        taken, first = source.input, source.columns[0]
        columns = {name: chunk.rows.column(name) for name in source.columns}
        if taken.is_text:
            texts, bad = read_text(columns[first])
            self._texts.append((taken, texts))
            return {place: (first, why) for place, why in bad.items()}
        if not source.stacked:
            cells = read_cells(columns[first], taken.dtype, taken.row_shape)
            self._cells.append((taken, cells))
            return {place: (first, why) for place, why in cells.bad.items()}
        parts = {name: read_cells(column, taken.dtype, ()) for name, column in columns.items()}
        cells, where = stacked(parts, taken.row_shape)
        self._cells.append((taken, cells))
        return {place: (where[place], why) for place, why in cells.bad.items()}

    def groups(self, batched: bool) -> Iterator[Group]:
        """Yield the good rows in groups: rows of equal sizes, numbers and texts.

        A method without a batch takes one row at a time, and so does a tensor without one.
        """
        alone = any(one.axis is None and one.row_shape for one, _ in self._cells)
        if not batched or alone:
            for place in self.good:
                yield Group(np.array([place]), batched=False)
            return
        ragged = [
            cells.shapes
            for one, cells in self._cells
            if not all(isinstance(size, int) for size in one.row_shape)
        ]
        numbers = [cells.values for one, cells in self._cells if one.axis is None]
        texts = [values for _, values in self._texts]
        if not ragged and not numbers and not texts:
            if len(self.good):
                yield Group(self.good, batched=True)
            return
        groups: dict[object, list[int]] = {}
        for place in self.good:
            key = (
                tuple(shapes[place].tobytes() for shapes in ragged),
                tuple(values[place].tobytes() for values in numbers),
                tuple(values[place] for values in texts),
            )
            groups.setdefault(key, []).append(int(place))
        for places in groups.values():
            yield Group(np.array(places), batched=True)

    def inputs(self, group: Group) -> Flat:
        """Return the inputs of a call of a group; they are the call's own."""
        first = group.places[:1]
        flat: Flat = {}
        for one, cells in self._cells:
            if one.axis is None:
                flat[one.name] = to_tensor(cells.rows(first)[0], one.dtype)
            else:
                values = np.moveaxis(cells.rows(group.places), 0, one.axis)
                flat[one.name] = to_tensor(values, one.dtype)
        for one, texts in self._texts:
            flat[one.name] = string_to_tensor(texts[int(first[0])] or "")
        return flat

    def number(self, place: int) -> int:
        """Return the number that a row has in the file."""
        return int(self._numbers[place])
