"""What `torchship score` does, from its options to the report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from torchship.score.columns import parse_map
from torchship.score.errors import ClusterError, RunError
from torchship.score.inputs import find_inputs
from torchship.score.methods import ScoredMethod
from torchship.score.model import Model, Runtime
from torchship.score.results import WRITERS
from torchship.score.runs import Report, Run, run_here
from torchship.score.scorer import Columns, Scorer
from torchship.score.state import run_state
from torchship.script.format.manifest import Manifest
from torchship.script.runtime.archive import Archive


@dataclass(frozen=True)
class Cluster:
    """The cluster that a run is scored on."""

    address: str | None = None
    workers: int | None = None
    operator_folders: Sequence[Path] = ()


@dataclass(frozen=True)
class Options:
    """The options of a run."""

    inputs: Sequence[str]
    output: Path
    method: str | None = None
    runtime: Runtime = "script"
    mapped: Sequence[str] = ()
    keep: Sequence[str] = ()
    keep_all: bool = False
    row_column: str = "row"
    format: str = "parquet"
    batch_rows: int = 256
    max_bad: int | None = None
    restart: bool = False
    cluster: Cluster | None = None
    note: Callable[[str], None] = field(default=lambda text: None)


def score_archive(archive: Archive, options: Options) -> Report:
    """Score tables with an archive, and write a table of results for each.

    Raises:
        TorchShipError: the options, the archive or the output folder cannot be used. Files and rows
            that cannot be scored are in the report instead.
    """
    if options.format not in WRITERS:
        raise RunError(f"--format '{options.format}': expected one of {', '.join(WRITERS)}")
    manifest = archive.require_manifest()
    method = ScoredMethod(manifest, _method(manifest, options.method))
    _check_format(method, options.format)
    mapped = parse_map(options.mapped)
    columns = Columns(
        mapped, tuple(options.keep), options.keep_all, options.row_column, options.batch_rows
    )
    files = find_inputs(options.inputs, options.output, options.format)
    settings = {
        "archive": archive.digest,
        "method": method.name,
        "runtime": options.runtime,
        "map": {name: list(names) for name, names in mapped.items()},
        "keep": [*options.keep],
        "keep_all": options.keep_all,
        "row_column": options.row_column,
        "format": options.format,
        "batch_rows": options.batch_rows,
        "version_of_torchship": version("torchship"),
        "version_of_torch": torch.__version__,
    }
    with (
        run_state(options.output, settings, options.restart) as state_of,
        _progress(len(files)) as progress,
    ):
        run = Run([state_of(file) for file in files], options.format, options.max_bad, progress)
        if not run.left:
            return run.report
        model = Model(archive, method.name, options.runtime)
        scorer = Scorer(model, columns, options.note)
        if options.cluster is None:
            run_here(run, scorer)
        else:
            _run_on_cluster(run, scorer, model, columns, options.cluster)
        return run.report


def _method(manifest: Manifest, asked: str | None) -> str:
    if asked is not None:
        return asked
    if "forward" in manifest.methods or len(manifest.methods) == 1:
        return "forward" if "forward" in manifest.methods else next(iter(manifest.methods))
    raise RunError(
        f"model '{manifest.name}' has the methods {', '.join(manifest.methods)}: choose one with "
        "--method"
    )


def _check_format(method: ScoredMethod, ending: str) -> None:
    free = next((output for output in method.outputs if not output.fixed), None)
    if ending == "npz" and free is not None:
        raise RunError(
            f"--format npz: the rows of output '{free.name}' have no fixed shape, so they are no "
            "array: write parquet or csv"
        )


def _run_on_cluster(
    run: Run, scorer: Scorer, model: Model, columns: Columns, cluster: Cluster
) -> None:
    try:
        from torchship.score.cluster import run_on_cluster
    except ModuleNotFoundError as missing:
        raise ClusterError(
            f"--ray needs the package {missing.name}, which is not installed: "
            "pip install 'torchship[ray]'"
        ) from None
    run_on_cluster(
        *(run, scorer, model, columns),
        *(cluster.operator_folders, cluster.address, cluster.workers),
    )


@contextmanager
def _progress(files: int) -> Iterator[Callable[[float, int], None]]:
    """Show a bar on standard error, if that is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, rows: None
        return
    shown = (
        *(BarColumn(), TextColumn("{task.completed:.1f} of {task.total} files")),
        *(TextColumn("{task.fields[rows]:,} rows"), TimeElapsedColumn(), TimeRemainingColumn()),
    )
    with Progress(*shown, console=console, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task("", total=files, rows=0)
        yield lambda done, rows: bar.update(task, completed=done, rows=rows)


def tell(text: str) -> None:
    """Print a note to standard error."""
    print(f"torchship: {text}", file=sys.stderr)
