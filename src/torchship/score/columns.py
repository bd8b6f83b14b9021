"""Which columns of a table are which inputs of a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from torchship.score.cells import check_type, is_text, plain_type
from torchship.score.errors import RunError, TableError
from torchship.score.methods import Input, ScoredMethod


@dataclass(frozen=True)
class Source:
    """The column of an input, or the columns of numbers that are its elements in order."""

    input: Input
    columns: tuple[str, ...]

    @property
    def stacked(self) -> bool:
        """Whether several columns make one tensor."""
        return len(self.columns) > 1


def parse_map(entries: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the columns of each input that `--map INPUT=COLUMN[,COLUMN…]` names.

    An input that is named again gets further columns, so that a name with a comma can be written
    as `--map x=one --map x=another`; a single name is taken whole.

    Raises:
        RunError: an entry without `=`, or with nothing before or after it.
    """
    found: dict[str, tuple[str, ...]] = {}
    for entry in entries:
        name, _, columns = entry.partition("=")
        if not name or not columns:
            raise RunError(f"--map '{entry}': expected INPUT=COLUMN, or INPUT=COLUMN,COLUMN,…")
        found[name] = (*found.get(name, ()), columns)
    return found


def find_sources(
    method: ScoredMethod, mapped: Mapping[str, Sequence[str]], columns: Sequence[str]
) -> list[Source]:
    """Find the columns of every input in a table.

    An input is the column of its flat name, or the columns `NAME.0`, `NAME.1`, … of numbers, unless
    `mapped` says otherwise.

    Raises:
        TableError: a column is missing, or stands twice.
        RunError: `mapped` names an input that the method does not have.
    """
    known = set(columns)
    found = []
    for name, given in mapped.items():
        taken = method.input(name)
        if taken is None:
            raise RunError(
                f"--map '{name}': method '{method.name}' has no such input: it has "
                f"{', '.join(repr(one.name) for one in method.inputs)}"
            )
        names: list[str] = []
        for one in given:
            parts = [one] if one in known else one.split(",")
            names += parts
        missing = [column for column in names if column not in known]
        if missing:
            raise TableError(
                f"there is no column '{missing[0]}', which --map names for input '{name}': "
                f"{_list(columns)}"
            )
        found.append(_source(taken, names))
    for leaf in method.inputs:
        for wanted in leaf.in_columns(columns):
            if wanted.name in mapped:
                continue
            if wanted.name in known:
                found.append(Source(wanted, (wanted.name,)))
            elif elements := _elements(wanted, known):
                found.append(_source(wanted, elements))
            elif wanted.required:
                raise TableError(
                    f"there is no column '{wanted.name}' for the input {wanted}: {_list(columns)}; "
                    f"name another with --map {wanted.name}=COLUMN"
                )
    for source in found:
        for column in source.columns:
            if columns.count(column) > 1:
                raise TableError(f"the column '{column}' stands {columns.count(column)} times")
    if not found:
        raise TableError(f"no column is an input of method '{method.name}': {_list(columns)}")
    return found


def check_types(sources: Sequence[Source], schema: pa.Schema) -> None:
    """Refuse columns whose types cannot hold their inputs.

    Raises:
        TableError: a column cannot; the message names it and says what was expected.
    """
    for source in sources:
        for column in source.columns:
            kind = schema.field(column).type
            if source.input.is_text:
                if not is_text(plain_type(kind)):
                    raise TableError(f"column '{column}' has the type {kind}: expected text")
                continue
            shape = () if source.stacked else source.input.row_shape
            try:
                check_type(kind, source.input.dtype, shape)
            except TableError as error:
                raise TableError(f"column '{column}' {error}") from None


def _elements(taken: Input, known: set[str]) -> list[str]:
    """Return the columns `NAME.0`, `NAME.1`, … of a tensor's elements, if there are some."""
    if not taken.row_shape:
        return []
    names: list[str] = []
    while (name := f"{taken.name}.{len(names)}") in known:
        names.append(name)
    return names


def _source(taken: Input, columns: Sequence[str]) -> Source:
    source = Source(taken, tuple(columns))
    if not source.stacked:
        return source
    total = 1
    for size in taken.row_shape:
        total *= size if isinstance(size, int) else 0
    free = len(taken.row_shape) == 1 and not isinstance(taken.row_shape[0], int)
    if taken.is_text or not taken.row_shape or not (free or total == len(columns)):
        raise TableError(
            f"the columns '{columns[0]}' to '{columns[-1]}' are {len(columns)} numbers for the "
            f"input {taken}"
        )
    return source


def _list(columns: Sequence[str]) -> str:
    if not columns:
        return "the table has no columns"
    shown = ", ".join(f"'{column}'" for column in columns[:20])
    return f"the columns are {shown}" + (", …" if len(columns) > 20 else "")
