"""`torchship verify`: runs an archive's golden cases in every runtime, and compares."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from torchship.cpp_runner.runtime import CppRuntime
from torchship.native.errors import CompilerMissingError, UnsupportedError
from torchship.native.running.runtime import NativeRuntime
from torchship.native.running.trace import Intermediate
from torchship.native.running.trace import trace as trace_archive
from torchship.native.running.wasm import WasmRuntime
from torchship.script.cli import OperatorFolders, TrustedKeys
from torchship.script.errors import OutOfMemoryError, TorchShipError, UsageError
from torchship.script.exporting.localise import first_difference
from torchship.script.exporting.runtimes import EagerRuntime, Result, Runtime, ScriptRuntime
from torchship.script.exporting.target import make_module
from torchship.script.format.signing import read_trusted_keys
from torchship.script.runtime import operators, printing, process_defaults, torchscript
from torchship.script.runtime.agreement import Difference, worse
from torchship.script.runtime.archive import Archive, open_archive
from torchship.script.runtime.blas import foreign_blas_note
from torchship.serve.client.grpc_runtime import GrpcRuntime
from torchship.serve.client.http_runtime import HttpRuntime
from torchship.serve.client.local_server import LocalServer

app = typer.Typer()

MISMATCH = 1
RUNTIMES = ("eager", "script", "cpp", "http", "grpc", "native", "wasm")
ALIKE = (
    "the archive's module and the eager one agree in this process: what differs is the runtime, "
    "or the golden case"
)


@dataclass(frozen=True)
class Report:
    """The results of all runtimes for one archive."""

    archive: Archive
    results: list[Result]
    first_difference: str = ""
    note: str = ""
    """A note about this process that may explain a difference, or ""."""
    trace: Sequence[Intermediate] | None = None
    """The tensors on the way to the outputs in compiled C, if they were asked for."""

    @property
    def agreed(self) -> bool:
        """Whether every runtime ran and agreed, apart from those that were skipped."""
        return all(result.agreed or result.skipped for result in self.results)

    def to_json(self) -> dict[str, object]:
        """Return the report as a JSON object, with the largest difference of each output."""
        manifest = self.archive.require_manifest()
        return {
            "archive": self.archive.path.name,
            "name": manifest.name,
            "version": manifest.version,
            "agreed": self.agreed,
            "golden_cases": len(manifest.golden),
            "first_difference": self.first_difference,
            "note": self.note,
            **({} if self.trace is None else {"trace": [_finite(asdict(i)) for i in self.trace]}),
            "runtimes": [
                {
                    "runtime": result.runtime,
                    "agreed": result.agreed,
                    "error": result.error,
                    "skipped": result.skipped,
                    "p50_us": result.p50_us,
                    "outputs": [_finite(d.to_json()) for d in worst_by_output(result)],
                }
                for result in self.results
            ],
        }


def _finite(entry: dict[str, object]) -> dict[str, object]:
    """Replace infinite differences, which JSON cannot carry, by null."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in entry.items()
    }


def worst_by_output(result: Result) -> list[Difference]:
    """Return the largest difference of each method's output, over all cases and steps."""
    worst: dict[tuple[str, str], Difference] = {}
    for difference in result.differences:
        key = (difference.method, difference.output)
        worst[key] = worse(worst[key], difference) if key in worst else difference
    return list(worst.values())


def all_runtimes(
    trusted_keys: Path | None = None,
    consent: str | None = None,
    server: LocalServer | None = None,
) -> dict[str, Runtime]:
    """Return the runtimes by the names of `--runtime`; `consent` is as for `make_module`.

    Those of HTTP and gRPC share `server`; without one each starts its own.
    """
    return {
        "eager": EagerRuntime(consent),
        "script": ScriptRuntime(),
        "cpp": CppRuntime(trusted_keys),
        "http": HttpRuntime(trusted_keys, server=server),
        "grpc": GrpcRuntime(trusted_keys, server=server),
        "native": NativeRuntime(),
        "wasm": WasmRuntime(),
    }


def verify_archive(
    archive: Archive,
    runtimes: Sequence[Runtime],
    consent: str | None = None,
    required: bool = False,
) -> Report:
    """Run an archive's golden cases in each runtime; one that cannot run does not agree.

    Native code is skipped if there is no C compiler, or no C for an operator, unless `required`.
    """
    torchscript.configure()
    results = []
    for runtime in runtimes:
        try:
            with process_defaults.torch_defaults():  # what the eager module changes ends with it
                results.append(runtime.check(archive))
        except OutOfMemoryError as error:
            raise OutOfMemoryError(f"{runtime.name}: {error}") from None
        except (UnsupportedError, CompilerMissingError) as error:
            results.append(Result(runtime.name, error=str(error), skipped=not required))
        except TorchShipError as error:
            results.append(Result(runtime.name, error=str(error)))
    agreed = all(result.agreed or result.skipped for result in results)
    # A runtime that did not run has reported its error; there is nothing to locate.
    differ = any(not difference.agreed for r in results for difference in r.differences)
    located = "" if agreed else _locate(archive, consent, ALIKE if differ else "")
    return Report(archive, results, located, foreign_blas_note())


def _locate(archive: Archive, consent: str | None, alike: str) -> str:
    """Return a text with the first submodule that differs; `alike` if none does."""
    try:
        program = archive.program()
        eager = make_module(archive.require_manifest().source, consent).eval()
        with printing.by(archive.require_manifest().name), process_defaults.torch_defaults():
            found = [first_difference(eager, program, case) for case in archive.golden]
    except TorchShipError:
        return ""
    differing = sorted(filter(None, found), key=lambda text: not text.startswith("first"))
    return differing[0] if differing else alike


@app.command()
def verify(
    archive: Annotated[Path, typer.Argument(help="The archive to check.")],
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            help="eager, script, cpp, http, grpc, native or wasm; may be repeated [default: all]."
        ),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    trusted_keys: TrustedKeys = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="module:factory of the eager module, if the archive names one that is neither "
            "ours, nor in the current folder, nor vouched for by a signature."
        ),
    ] = None,
    operator_folders: OperatorFolders = None,
    trace: Annotated[
        bool,
        typer.Option(
            "--trace",
            help="Compare compiled C with TorchScript at every tensor that the model's source "
            "names, too, and show the first that differs.",
        ),
    ] = False,
) -> None:
    """Run the golden cases in eager, script, C++, over HTTP and gRPC, as compiled C, and compare.

    Exit code 0 if every runtime agrees, 1 if one does not or could not run, 3 for a bad archive,
    5 if there was no memory for it.

    Examples:

        torchship verify fizzbuzz.pt

        torchship verify fizzbuzz.pt --runtime script --runtime cpp --json

        torchship verify fizzbuzz.pt --runtime native --trace
    """
    if trace and "native" not in (runtime or RUNTIMES):
        raise UsageError("--trace looks into compiled C: add --runtime native")
    unknown = [name for name in runtime or [] if name not in RUNTIMES]
    if unknown:
        raise UsageError(f"--runtime '{unknown[0]}': expected one of {', '.join(RUNTIMES)}")
    opened = open_archive(archive, read_trusted_keys(trusted_keys) if trusted_keys else ())
    operators.allow(operator_folders or [])
    operators.check_libraries(opened.require_manifest().custom_ops)
    if opened.require_manifest().golden == ():
        raise UsageError(f"'{archive}' has no golden case: nothing to verify")
    if trusted_keys is None:
        typer.echo("signatures are not checked: no --trusted-keys were given", err=True)
    consent = opened.require_manifest().source.factory if trusted_keys else source
    with LocalServer(trusted_keys) as server:
        known = all_runtimes(trusted_keys, consent, server)
        chosen = [known[name] for name in dict.fromkeys(runtime or RUNTIMES)]
        report = verify_archive(opened, chosen, consent, required=bool(runtime))
    if trace:
        report = replace(report, trace=trace_archive(opened))
    if json_output:
        typer.echo(json.dumps(report.to_json(), indent=1))
    else:
        _print(report, Console())
    if not report.agreed:
        raise typer.Exit(MISMATCH)


def _print(report: Report, console: Console) -> None:
    manifest = report.archive.require_manifest()
    table = Table(
        *("runtime", "method", "output", "max abs", "max rel", "max ULP", "identical", "p50 µs"),
        title=f"{manifest.name} {manifest.version}: {len(manifest.golden)} golden cases",
        title_justify="left",
    )
    for result in report.results:
        for index, entry in enumerate(worst_by_output(result)):
            latency = "" if index or result.p50_us is None else f"{result.p50_us:.0f}"
            table.add_row(
                *(result.runtime if index == 0 else "", entry.method, escape(entry.output)),
                *(number(entry.max_abs), number(entry.max_rel), number(entry.max_ulp)),
                *("yes" if entry.bit_identical else "no", latency),
                style=None if entry.agreed else "red",
            )
        if result.error:
            skipped = result.skipped
            table.add_row(
                result.runtime,
                "",
                "skipped" if skipped else "did not run",
                style=None if skipped else "red",
            )
    console.print(table)
    for result in report.results:
        if result.skipped:
            console.print(escape(f"{result.runtime} was skipped: {result.error}"), soft_wrap=True)
    for line in _complaints(report):
        console.print(escape(line), style="red", soft_wrap=True)
    if report.trace is not None:
        _print_trace(report.trace, console)
    console.print("agreed" if report.agreed else "NOT AGREED")


def _print_trace(found: Sequence[Intermediate], console: Console) -> None:
    """Print the tensors on the way, in the order in which they are computed."""
    table = Table(
        *("method", "line", "name", "operator", "shape", "max abs", "of"),
        title="native against TorchScript, tensor by tensor",
        title_justify="left",
    )
    for entry in found:
        table.add_row(
            *(entry.method, escape(entry.where), escape(entry.name), entry.operator),
            *(escape(str(list(entry.shape))), number(entry.difference), number(entry.largest)),
            style=None if entry.agreed else "red",
        )
    console.print(table)
    first = next((entry for entry in found if not entry.agreed), None)
    if first is None:
        console.print("every tensor of the trace agrees")
        return
    text = (
        f"first tensor that differs: {first.name} = {first.operator} in {first.where}, method "
        f"{first.method}, {first.case}: by {number(first.difference)}"
    )
    console.print(escape(text), style="red", soft_wrap=True)


def _complaints(report: Report) -> list[str]:
    lines = []
    for result in report.results:
        if result.error and not result.skipped:
            lines.append(f"{result.runtime}: {result.error}")
        lines += [
            f"{result.runtime}: {d.case_name}, step {d.step}, output '{d.output}': {d.reason}"
            for d in worst_by_output(result)
            if not d.agreed
        ]
    if report.first_difference:
        lines.append(report.first_difference)
    if report.note:
        lines.append(f"note: {report.note}")
    return lines


def number(value: float | None) -> str:
    """Return a difference for a table; `-` if nothing could be compared."""
    if value is None:
        return "-"
    return "0" if value == 0 else f"{value:.3g}"
