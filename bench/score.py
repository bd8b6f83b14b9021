"""Rows per second of `torchship score` beside a plain loop: `bench/score.py`.

The plain loop is what one would write: batches of a Parquet file with pyarrow, `torch.jit.load`, a
Parquet file of the outputs. It checks nothing, forgets what it did when it is killed, and stops at
the first bad row. Both run in this process, on the same table, in turn.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import typer
from rich.console import Console
from rich.table import Table

from torchship.score.command import Options, score_archive
from torchship.score.model import Runtime
from torchship.script.exporting.export import export
from torchship.script.exporting.target import find_target
from torchship.script.format.dtypes import BY_NAME
from torchship.script.format.nodes import TensorNode, leaves
from torchship.script.runtime.archive import Archive, open_archive

BATCH = 256


def write_table(path: Path, archive: Archive, rows: int) -> None:
    """Write rows for `forward`, whose inputs have a batch and fixed sizes, apart from its state."""
    method = archive.require_manifest().methods["forward"]
    state = {entry.input for entry in method.state}
    random = np.random.default_rng(0)
    columns = {}
    for argument in method.inputs:
        for leaf in leaves(argument.value):
            if leaf.name in state:
                continue
            assert isinstance(leaf, TensorNode)
            shape = tuple(size for size in leaf.shape[1:] if isinstance(size, int))
            values = random.integers(0, 2, (rows, *shape)).astype(
                torch.zeros(0, dtype=BY_NAME[leaf.dtype].torch).numpy().dtype
            )
            columns[leaf.name] = pa.FixedShapeTensorArray.from_numpy_ndarray(values)
    pq.write_table(pa.table(columns), path)


def plain(archive: Path, table: Path, output: Path) -> None:
    """Score as one would without torchship."""
    module = torch.jit.load(str(archive))  # type: ignore[no-untyped-call]
    writer = None
    with torch.inference_mode():
        for batch in pq.ParquetFile(table).iter_batches(BATCH):
            inputs = {
                name: torch.from_numpy(column.to_numpy_ndarray().copy())
                for name, column in zip(batch.schema.names, batch.columns, strict=True)
            }
            found = module(**inputs)
            outputs = found if isinstance(found, tuple) else (found,)
            columns = {
                str(number): pa.FixedShapeTensorArray.from_numpy_ndarray(value.numpy())
                for number, value in enumerate(outputs)
            }
            made = pa.table(columns)
            writer = writer or pq.ParquetWriter(output, made.schema)
            writer.write_table(made)
    if writer is not None:
        writer.close()


def scored(archive: Path, table: Path, output: Path, runtime: str, rows: int) -> None:
    """Score as `torchship score` does, loading and proving the archive included."""
    chosen: Runtime = "native" if runtime == "native" else "script"
    options = Options(inputs=[str(table)], output=output, runtime=chosen)
    assert score_archive(open_archive(archive), options).scored == rows


def main(
    model: Annotated[list[str] | None, typer.Option(help="[default: fizzbuzz, bobnet]")] = None,
    rows: Annotated[int, typer.Option(help="Rows of the table.")] = 200_000,
    rounds: Annotated[int, typer.Option(help="Of which the fastest counts.")] = 3,
) -> None:
    """Print a table of rows per second."""
    torch.set_num_threads(1)
    shown = Table("model", "rows", "plain loop", "score, script", "score, native", title="rows/s")
    for name in model or ["fizzbuzz", "bobnet"]:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            path, table = folder / "model.pt", folder / "in.parquet"
            archive = export(find_target(name, None, {}), path)
            write_table(table, archive, rows)
            ways = ("plain", "script", "native")
            best: dict[str, float] = dict.fromkeys(ways, 0.0)
            for number in range(rounds):
                for way in ways:
                    began = time.perf_counter()
                    if way == "plain":
                        plain(path, table, folder / "plain.parquet")
                    else:
                        scored(path, table, folder / f"{way}{number}", way, rows)
                    best[way] = max(best[way], rows / (time.perf_counter() - began))
            shown.add_row(name, f"{rows:,}", *(f"{rate:,.0f}" for rate in best.values()))
    Console().print(shown)


if __name__ == "__main__":
    typer.run(main)
