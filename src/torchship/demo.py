"""`torchship demo`: exports and verifies each of our models, in one table."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from torchship.agreement import all_runtimes, verify_archive
from torchship.agreement_report import Report, number
from torchship.cpp_runner.child import answer_of, ask
from torchship.models import registry
from torchship.models.data import mnist
from torchship.models.errors import DataMissingError
from torchship.models.fizzbuzz import encode
from torchship.models.names import decode
from torchship.native.errors import NativeError
from torchship.native.site.writer import write_site
from torchship.script.errors import UsageError
from torchship.script.exporting.export import export
from torchship.script.exporting.runtimes import Result
from torchship.script.exporting.target import find_target, make_module
from torchship.script.runtime.archive import Archive, open_archive
from torchship.script.runtime.program import Program
from torchship.serve.client.client import Client
from torchship.serve.client.grpc_runtime import GrpcRuntime
from torchship.serve.client.http_runtime import HttpRuntime, RunningServer
from torchship.serve.client.local_server import GRPC, running_server, running_servers

app = typer.Typer()

WIDTH = 112  # columns of the table
HTTP_BATCH = 1000  # rows of MNIST in one request
SITE = ("snake", "snake-lstm", "bobnet", "charlstm", "moba", "fizzbuzz")
"""The models of the page: those that can be played, drawn for and read, and two more."""


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where to put the archives.")] = Path("archives"),
    site: Annotated[Path, typer.Option(help="Where to put a web page with some of them.")] = Path(
        "site"
    ),
) -> None:
    """Script our models, check them in six runtimes, use three of them, and write a web page.

    Example:

        torchship demo
    """
    console = Console(width=max(WIDTH, Console().width))
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.pt" for name in registry.names()]
    for path in paths:
        with console.status(f"{path.stem}: script"):
            export(find_target(path.stem, None, {}), path)
    reports = []
    server = running_servers(paths, options=GRPC)
    with console.status("start the server") as status, server as addresses:
        runtimes = {
            **all_runtimes(),
            "http": HttpRuntime(running=RunningServer(addresses.http)),
            "grpc": GrpcRuntime(address=addresses.grpc),
        }
        del runtimes["wasm"]  # node is not everywhere; `torchship verify` has it
        for path in paths:
            status.update(f"{path.stem}: verify in eager, script, C++, HTTP, gRPC and native")
            reports.append(verify_archive(open_archive(path), list(runtimes.values())))
    console.print(_table(reports))
    for report in reports:
        for result in report.results:
            if result.error and not result.skipped:
                console.print(
                    f"{report.archive.path.name}: {result.runtime}: {result.error}", markup=False
                )
    console.print("\nfizzbuzz 1..20, by the C++ binary:")
    console.print(" ".join(fizzbuzz_words(folder / "fizzbuzz.pt", 20)), highlight=False)
    console.print("\nnames from seed 1, by the C++ binary:")
    console.print(" ".join(names_of(folder / "charlstm.pt", 10, 1)), highlight=False)
    digits_agree = _digits(folder / "bobnet.pt", console)
    write_page([folder / f"{name}.pt" for name in SITE], site, console)
    if not digits_agree or not all(report.agreed for report in reports):
        raise typer.Exit(1)


def write_page(paths: list[Path], site: Path, console: Console) -> None:
    """Write the page, or say why there is none: the demonstration goes on without it."""
    try:
        with console.status("compile models to WebAssembly, for a web page"):
            write_site([open_archive(path) for path in paths], site)
    except (UsageError, NativeError) as error:
        console.print(f"\nno web page: {error}", soft_wrap=True, markup=False)
        return
    console.print(
        f"\nThe models in your browser, without a server: {site}\n"
        f"  python3 -m http.server -d {shlex.quote(str(site))}",
        soft_wrap=True, markup=False, highlight=False,
    )  # fmt: skip


def _table(reports: list[Report]) -> Table:
    runtimes = [result.runtime for result in reports[0].results]
    table = Table(
        title="Largest difference to golden (0 = bit-identical); p50 at batch 1 in µs",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("model", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    for name in runtimes:
        table.add_column(f"diff\n{name}", justify="right", no_wrap=True)
    for name in runtimes:
        table.add_column(f"p50\n{name}", justify="right", no_wrap=True)
    for report in reports:
        manifest = report.archive.require_manifest()
        table.add_row(
            manifest.name,
            f"{manifest.parameters:,}",
            *(largest_difference(result) for result in report.results),
            *("-" if r.p50_us is None else f"{r.p50_us:.0f}" for r in report.results),
            style=None if report.agreed else "red",
        )
    return table


def largest_difference(result: Result) -> str:
    """Return the largest absolute difference of a runtime; `0` only if bit-identical."""
    if result.error:
        return "-" if result.skipped else "failed"
    if not result.agreed:
        return "differs"
    if all(difference.bit_identical for difference in result.differences):
        return "0"
    largest = max(d.max_abs or 0.0 for d in result.differences)
    return number(largest) if largest else "±0"


def fizzbuzz_words(archive: Path, count: int) -> list[str]:
    """Return fizzbuzz from 1 to `count`, with the class labels of the C++ binary."""
    numbers = range(1, count + 1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "numbers.npz"
        np.savez(file, x=encode(numbers).numpy())
        labels = ask(
            "run", str(archive), "--input", str(file), "--labels",
            "--output", str(Path(folder) / "scores.npz"),
        ).decode().split()  # fmt: skip
    return [
        str(n) if label == "number" else label for n, label in zip(numbers, labels, strict=True)
    ]


def names_of(archive: Path, count: int, seed: int) -> list[str]:
    """Return names that the C++ binary samples in the model's own loop."""
    arguments = json.dumps({"count": count, "seed": seed, "max_length": 20})
    command = ("run", str(archive), "--method", "generate", "--input", "-")
    answer = answer_of("run", ask(*command, stdin=arguments.encode()))
    return decode(torch.tensor(answer["names"]))


def _digits(path: Path, console: Console) -> bool:
    """Print the accuracy on MNIST's test images in each runtime; return whether they agree."""
    try:
        test = mnist("test")
    except DataMissingError as error:
        console.print(f"\nMNIST: left out, {error}", soft_wrap=True, markup=False)
        return True
    archive = open_archive(path)
    predicted = {
        name: classify(test.images).argmax(1) for name, classify in _classifiers(archive).items()
    }
    console.print(f"\nMNIST, {len(test.labels):,} test images:")
    for name, digits in predicted.items():
        correct = int((digits == test.labels).sum())
        console.print(f"  {name:7} {100 * correct / len(test.labels):.2f} %", highlight=False)
    eager = predicted["eager"]
    return all(torch.equal(eager, digits) for digits in predicted.values())


def _classifiers(archive: Archive) -> Mapping[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Return bobnet in each runtime: images uint8[count,784] -> log-probabilities [count,10]."""
    manifest = archive.require_manifest()

    def in_process(program: Program) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda images: program.call("forward", {"x": images})["log_probs"]

    def cpp(images: torch.Tensor) -> torch.Tensor:
        with tempfile.TemporaryDirectory() as folder:
            images_file, output = Path(folder) / "images.npz", Path(folder) / "out.npz"
            np.savez(images_file, x=images.numpy())
            ask("run", str(archive.path), "--input", str(images_file), "--output", str(output))
            with np.load(output) as arrays:
                return torch.from_numpy(arrays["log_probs"])

    def http(images: torch.Tensor) -> torch.Tensor:
        with running_server([archive.path]) as url, Client(url) as client:
            signature = manifest.methods["forward"]
            return torch.cat(
                [
                    client.infer(manifest.name, signature, {"x": part})["log_probs"]
                    for part in torch.split(images, HTTP_BATCH)
                ]
            )

    return {
        "eager": in_process(Program(manifest, make_module(manifest.source))),
        "script": in_process(archive.program()),
        "C++": cpp,
        "HTTP": http,
    }
