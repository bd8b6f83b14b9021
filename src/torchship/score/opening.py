"""Opens a table by the ending of its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torchship.score.csv_table import CsvTable
from torchship.score.errors import TableError
from torchship.score.npz_table import NpzTable
from torchship.score.parquet_table import ParquetTable
from torchship.score.tables import Table, check_regular, named

KINDS: dict[str, Callable[[Path], Table]] = {
    ".parquet": ParquetTable,
    ".pq": ParquetTable,
    ".csv": CsvTable,
    ".tsv": CsvTable,
    ".npz": NpzTable,
}


def open_table(path: Path) -> Table:
    """Open a table.

    Raises:
        TableError: it cannot be read, or its ending is unknown.
    """
    make = KINDS.get(path.suffix.lower())
    if make is None:
        raise TableError(f"{named(path)}: expected a file that ends in {', '.join(KINDS)}")
    check_regular(path)
    return make(path)
