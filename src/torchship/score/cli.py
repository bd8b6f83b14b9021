"""`torchship score`: a method of an archive over the rows of tables."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from torchship.script.cli import OperatorFolders, TrustedKeys
from torchship.script.errors import UsageError
from torchship.script.format.signing import read_trusted_keys
from torchship.script.runtime import operators
from torchship.script.runtime.archive import open_archive

app = typer.Typer()

NOT_ALL = 4
INTERRUPTED = 130
MOST_FAILED = 20  # files that are named on standard error


@app.command()
def score(
    archive: Annotated[Path, typer.Argument(help="The archive.")],
    input_: Annotated[
        list[str],
        typer.Option(
            "--input",
            help="A table (.parquet, .csv, .tsv, .npz), a folder of them, or a pattern in quotes, "
            "such as 'data/*.parquet'; may be repeated.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", help="The folder of the results, one file for each input.")
    ],
    method: Annotated[str | None, typer.Option(help="The method [default: forward].")] = None,
    runtime: Annotated[
        str,
        typer.Option(help="script: as eager, bit for bit; or native: compiled, needs a compiler."),
    ] = "script",
    map_: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            help="INPUT=COLUMN for an input that is no column of its own name, or "
            "INPUT=COLUMN,COLUMN,… for a vector of columns; may be repeated.",
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(help="A column to copy to the results; may be repeated."),
    ] = None,
    keep_all: Annotated[bool, typer.Option("--keep-all", help="Copy all columns.")] = False,
    row_column: Annotated[
        str,
        typer.Option(help="The column with each row's number in its file; '' for none."),
    ] = "row",
    format_: Annotated[
        str, typer.Option("--format", help="Of the results: parquet, csv or npz.")
    ] = "parquet",
    batch_rows: Annotated[int, typer.Option(min=1, help="The rows of one call at most.")] = 256,
    max_bad: Annotated[
        int | None, typer.Option(min=0, help="Stop if more rows than this are bad.")
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Forget what earlier runs did in the output folder.")
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    ray: Annotated[
        bool,
        typer.Option("--ray", help="Score on a Ray cluster, whose nodes see the same files."),
    ] = False,
    ray_address: Annotated[
        str | None,
        typer.Option(help="The cluster's address [default: RAY_ADDRESS, or this machine]."),
    ] = None,
    ray_workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes [default: one a core].")
    ] = None,
    trusted_keys: TrustedKeys = None,
    operator_folders: OperatorFolders = None,
) -> None:
    """Run a method over tables: a row in, its outputs out.

    The archive reproduces its golden cases first. A run that was ended goes on if the same command
    is given again. Bad rows are left out, and listed in OUTPUT/_bad.

    Exit code 0 if every row was scored, 4 if not, 1 if the archive does not agree with its golden
    cases.

    Examples:

        torchship score fizzbuzz.pt --input 'data/*.parquet' --output scored/

        torchship score iris.pt --input iris.csv --output scored/ --map x=length,width --keep id
    """
    if runtime not in ("script", "native"):
        raise UsageError(f"--runtime '{runtime}': expected script or native")
    try:
        from torchship.score.command import Cluster, Options, score_archive, tell
        from torchship.score.tables import printable
    except ModuleNotFoundError as missing:
        raise UsageError(
            f"score needs the package {missing.name}, which is not installed: "
            "pip install 'torchship[score]'"
        ) from None
    began = time.monotonic()
    opened = open_archive(archive, read_trusted_keys(trusted_keys) if trusted_keys else ())
    operators.allow(operator_folders or [])
    on_ray = ray or ray_address is not None or ray_workers is not None
    options = Options(
        inputs=input_,
        output=output,
        method=method,
        runtime="native" if runtime == "native" else "script",
        mapped=map_ or (),
        keep=keep or (),
        keep_all=keep_all,
        row_column=row_column,
        format=format_,
        batch_rows=batch_rows,
        max_bad=max_bad,
        restart=restart,
        cluster=Cluster(ray_address, ray_workers, operator_folders or ()) if on_ray else None,
        note=tell,
    )
    try:
        report = score_archive(opened, options)
    except KeyboardInterrupt:
        tell("interrupted: the same command goes on from here")
        raise typer.Exit(INTERRUPTED) from None
    manifest = opened.require_manifest()
    seconds = time.monotonic() - began
    if json_output:
        about = {"model": manifest.name, "version": manifest.version, "archive": opened.digest}
        typer.echo(json.dumps({**about, **report.to_json(), "seconds": seconds}, indent=1))
    else:
        for text in list(report.failed.values())[:MOST_FAILED]:
            tell(f"not scored: {text}")
        failed = f", {len(report.failed)} files not scored" if report.failed else ""
        bad = f", {report.bad:,} bad rows in {printable(output / '_bad')}" if report.bad else ""
        typer.echo(
            f"{printable(output)}: {report.scored:,} rows of {len(report.done)} files scored by "
            f"{manifest.name} {manifest.version} in {seconds:.1f} s{bad}{failed}"
        )
    if not report.clean:
        raise typer.Exit(NOT_ALL)
