"""Scores the rows of tables: a part of a table in, a part of the result out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from torchship.score.calls import run_groups
from torchship.score.columns import Source, check_types, find_sources
from torchship.score.errors import RunError, TableError
from torchship.score.methods import ScoredMethod
from torchship.score.model import Model
from torchship.score.outputs import Collected
from torchship.score.parts import part_bytes
from torchship.score.rows import Rows
from torchship.score.tables import BadRow, Chunk, Table, first_line

PART_CALLS = 64
PART_BYTES = 64 << 20
"""Limits of a part, in calls and bytes: what a killed run has to score again at most."""
CALL_BYTES = 64 << 20
"""Of inputs and outputs of one call, which has fewer rows than asked for if they are large."""
METADATA = b"torchship"


@dataclass(frozen=True)
class Columns:
    """What a run reads and writes."""

    mapped: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Of inputs that are not columns of their own name; see `columns.parse_map`."""
    keep: tuple[str, ...] = ()
    """Columns of the table that are copied to the result."""
    keep_all: bool = False
    row_column: str = "row"
    """The name of the column with the number of each row in its file; "" for none."""
    batch_rows: int = 256


class TablePlan:
    """How one table is read, and what columns its result has."""

    def __init__(self, method: ScoredMethod, table: Table, columns: Columns) -> None:
        """Find the columns of the inputs, and check their types.

        Raises:
            TableError: the table does not fit the method.
            RunError: two columns of the result would have the same name.
        """
        names: list[str] = table.schema.names
        self.sources: list[Source] = find_sources(method, columns.mapped, names)
        check_types(self.sources, table.schema)
        self.kept = list(names if columns.keep_all else columns.keep)
        for name in self.kept:
            if names.count(name) != 1:
                there = f"stands {names.count(name)} times" if name in names else "is not there"
                raise TableError(f"the column '{name}', which is to be kept, {there}")
        inputs = [column for source in self.sources for column in source.columns]
        self.read = list(dict.fromkeys([*inputs, *self.kept]))
        row_bytes = method.row_bytes()
        self.size = max(1, min(columns.batch_rows, CALL_BYTES // row_bytes))
        self.calls = max(1, min(PART_CALLS, PART_BYTES // (self.size * row_bytes)))
        self.row_column = columns.row_column
        own = [columns.row_column] if columns.row_column else []
        written = [*own, *(output.name for output in method.outputs), *self.kept]
        twice = next((name for name in written if written.count(name) > 1), None)
        if twice is not None:
            raise RunError(
                f"the result would have two columns '{twice}': keep other columns by name with "
                "--keep, or name the column of row numbers with --row-column"
            )

    @property
    def part_rows(self) -> int:
        """The number of rows in a part."""
        return self.size * self.calls


class Scorer:
    """Scores parts of tables with one model."""

    def __init__(self, model: Model, columns: Columns, note: Callable[[str], None]) -> None:
        """Take a model; `note` is told what takes time, and why rows run one by one."""
        self._model = model
        self._columns = columns
        self._note = note
        self._batched: dict[frozenset[str], bool] = {}
        manifest = model.archive.require_manifest()
        self._about = {
            "model": manifest.name,
            "version": manifest.version,
            "archive": model.archive.digest,
            "method": model.method.name,
            "runtime": model.runtime,
        }

    def plan(self, table: Table) -> TablePlan:
        """Return how a table is scored.

        Raises:
            TableError: it does not fit.
        """
        return TablePlan(self._model.method, table, self._columns)

    def parts(self, table: Table, first: int = 0) -> Iterator[bytes]:
        """Yield the parts of a table's result, from the part number `first` on.

        Raises:
            TableError: the table is damaged.
        """
        try:
            yield from self._parts(table, first)
        except pa.ArrowException as error:
            raise TableError(f"a column cannot be copied: {first_line(error)}") from None

    def _parts(self, table: Table, first: int) -> Iterator[bytes]:
        plan = self.plan(table)
        schema: pa.Schema | None = None
        batches: list[pa.RecordBatch] = []
        bad: list[BadRow] = []
        count = 0
        for chunk in table.chunks(plan.read, plan.size, first * plan.calls):
            scored, wrong = self._score(plan, chunk)
            schema = scored.schema
            batches.append(scored)
            bad += wrong
            count += 1
            if count == plan.calls:
                yield part_bytes(schema, batches, bad)
                batches, bad, count = [], [], 0
        if count and schema is not None:
            yield part_bytes(schema, batches, bad)
        elif first == 0 and schema is None:
            # A table without rows has a result without rows.
            yield part_bytes(self._nothing(plan, table).schema, [], [])

    def _nothing(self, plan: TablePlan, table: Table) -> pa.RecordBatch:
        kinds = [table.schema.field(name).type for name in plan.read]
        arrays = [
            pa.nulls(0, kind.value_type if pa.types.is_dictionary(kind) else kind) for kind in kinds
        ]
        chunk = Chunk(pa.RecordBatch.from_arrays(arrays, names=plan.read), np.arange(0))
        return self._score(plan, chunk)[0]

    def _score(self, plan: TablePlan, chunk: Chunk) -> tuple[pa.RecordBatch, list[BadRow]]:
        """Score a chunk; return the columns of its good rows, and its bad rows."""
        rows = Rows(plan.sources, chunk)
        collected = [Collected(output) for output in self._model.method.outputs]
        if len(rows.good):
            for group, outputs in run_groups(rows, self._batches(plan), self._model.run):
                for one in collected:
                    one.add(group, outputs)
        bad = [row.row for row in rows.bad]
        places = rows.good[~np.isin(chunk.numbers[rows.good], bad)]
        columns: dict[str, pa.Array] = {}
        if plan.row_column:
            columns[plan.row_column] = pa.array(chunk.numbers[places], pa.int64())
        for one in collected:
            columns[one.output.name] = one.column(places)
        for name in plan.kept:
            column = chunk.rows.column(name)
            every = len(places) == len(column)
            columns[name] = column if every else column.take(pa.array(places))
        about = {METADATA: json.dumps(self._about).encode()}
        fields = [(name, column.type) for name, column in columns.items()]
        schema = pa.schema(fields, metadata=about)
        return pa.RecordBatch.from_arrays(list(columns.values()), schema=schema), rows.bad

    def _batches(self, plan: TablePlan) -> bool:
        """Return whether rows share calls; it is tested once for each set of inputs."""
        if plan.size == 1:
            return False
        names = frozenset(source.input.name for source in plan.sources)
        if names not in self._batched:
            why = self._model.why_alone(names, plan.size, self._note)
            if why:
                self._note(f"rows run one by one: {why}")
            self._batched[names] = not why
        return self._batched[names]
