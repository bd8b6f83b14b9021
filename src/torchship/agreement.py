"""`torchship verify`: runs an archive's golden cases in every runtime, and compares."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Protocol

import typer
from rich.console import Console

from torchship.agreement_lines import Lines
from torchship.agreement_report import Report, print_report
from torchship.cpp_runner.runtime import CppRuntime
from torchship.native.errors import CompilerMissingError, UnsupportedError
from torchship.native.running.runtime import NativeRuntime
from torchship.native.running.trace import trace as trace_archive
from torchship.native.running.wasm import WasmRuntime
from torchship.script.cli import OperatorFolders, TrustedKeys
from torchship.script.errors import OutOfMemoryError, TorchShipError, UsageError
from torchship.script.exporting.localise import first_difference
from torchship.script.exporting.runtimes import EagerRuntime, Result, Runtime, ScriptRuntime
from torchship.script.exporting.target import make_module
from torchship.script.format.signing import read_trusted_keys
from torchship.script.runtime import operators, printing, process_defaults, torchscript
from torchship.script.runtime.archive import Archive, open_archive
from torchship.script.runtime.blas import foreign_blas_note
from torchship.serve.client.grpc_runtime import GrpcRuntime
from torchship.serve.client.http_runtime import HttpRuntime, RunningServer
from torchship.serve.client.local_server import LocalServer
from torchship.serve.service.verification import KEY_VARIABLE

app = typer.Typer()

MISMATCH = 1
RUNTIMES = ("eager", "script", "cpp", "http", "grpc", "native", "wasm")
ALIKE = (
    "the archive's module and the eager one agree in this process: what differs is the runtime, "
    "or the golden case"
)


def all_runtimes(
    trusted_keys: Path | None = None,
    consent: str | None = None,
    server: LocalServer | None = None,
    running: RunningServer | None = None,
    skip_foreign: bool = False,
) -> dict[str, Runtime]:
    """Return the runtimes by names of `--runtime`; `consent` and `skip_foreign` are for eager.

    Those of HTTP and gRPC share `server`; without one each starts its own. HTTP is that of
    `running`, if it is given.
    """
    return {
        "eager": EagerRuntime(consent, skip_foreign),
        "script": ScriptRuntime(),
        "cpp": CppRuntime(trusted_keys),
        "http": HttpRuntime(trusted_keys, running, server),
        "grpc": GrpcRuntime(trusted_keys, server=server),
        "native": NativeRuntime(),
        "wasm": WasmRuntime(),
    }


def verify_archive(
    archive: Archive,
    runtimes: Sequence[Runtime],
    consent: str | None = None,
    required: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Run an archive's golden cases in each runtime; one that cannot run does not agree.

    Native code is skipped if there is no C compiler, or no C for an operator, unless `required`.
    `progress` is told of each runtime.
    """
    torchscript.configure()
    results: list[Result] = []
    for runtime in runtimes:
        if progress is not None:
            progress.began(runtime)
        try:
            with process_defaults.torch_defaults():  # what the eager module changes ends with it
                results.append(runtime.check(archive))
        except OutOfMemoryError as error:
            raise OutOfMemoryError(f"{runtime.name}: {error}") from None
        except (UnsupportedError, CompilerMissingError) as error:
            results.append(Result(runtime.name, error=str(error), skipped=not required))
        except TorchShipError as error:
            results.append(Result(runtime.name, error=str(error)))
        if progress is not None:
            progress.ended(results[-1])
    agreed = all(result.agreed or result.skipped for result in results)
    # A runtime that did not run has reported its error; there is nothing to locate.
    differ = any(not difference.agreed for r in results for difference in r.differences)
    located = "" if agreed else _locate(archive, consent, ALIKE if differ else "")
    return Report(archive, results, located, foreign_blas_note())


class Progress(Protocol):
    """What is told of runtimes while an archive is verified."""

    def began(self, runtime: Runtime) -> None:
        """Take note that a runtime begins."""
        ...

    def ended(self, result: Result) -> None:
        """Take note of what a runtime gave."""
        ...


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
    json_lines: Annotated[
        bool,
        typer.Option(
            "--json-lines",
            help="Print a JSON object on a line for each runtime as it begins and as it ends, and "
            "then the verdict.",
        ),
    ] = False,
    trusted_keys: TrustedKeys = None,
    source: Annotated[
        str | None,
        typer.Option(
            help="module:factory of the eager module, if the archive names one that is neither "
            "ours, nor in the current folder, nor vouched for by a signature."
        ),
    ] = None,
    skip_foreign: Annotated[
        bool,
        typer.Option(
            "--skip-foreign",
            help="Leave eager out if its module is neither ours nor vouched for, wherever it is.",
        ),
    ] = False,
    operator_folders: OperatorFolders = None,
    trace: Annotated[
        bool,
        typer.Option(
            "--trace",
            help="Compare compiled C with TorchScript at every tensor that the model's source "
            "names, too, and show the first that differs.",
        ),
    ] = False,
    sha256: Annotated[
        str | None, typer.Option(help="Refuse the file unless this is its SHA-256.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            help="A server that has this archive live: prove HTTP there. Its API key is read from "
            f"{KEY_VARIABLE}."
        ),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(help="PEM file of the certificate that the server at --url must show."),
    ] = None,
) -> None:
    """Run the golden cases in eager, script, C++, over HTTP and gRPC, as compiled C, and compare.

    Exit code 0 if every runtime agrees, 1 if one does not or could not run, 3 for a bad archive,
    5 if there was no memory for it.

    Examples:

        torchship verify fizzbuzz.pt

        torchship verify fizzbuzz.pt --runtime script --runtime cpp --json

        torchship verify fizzbuzz.pt --runtime native --trace
    """
    lines = Lines(lambda line: typer.echo(line))
    try:
        if trace and "native" not in (runtime or RUNTIMES):
            raise UsageError("--trace looks into compiled C: add --runtime native")
        unknown = [name for name in runtime or [] if name not in RUNTIMES]
        if unknown:
            raise UsageError(f"--runtime '{unknown[0]}': expected one of {', '.join(RUNTIMES)}")
        if certificate is not None and url is None:
            raise UsageError("--certificate is that of a server: expected --url with it")
        opened = _open(archive, sha256, trusted_keys)
        operators.allow(operator_folders or [])
        operators.check_libraries(opened.require_manifest().custom_ops)
        if trusted_keys is None:
            typer.echo("signatures are not checked: no --trusted-keys were given", err=True)
        consent = opened.require_manifest().source.factory if trusted_keys else source
        running = url and RunningServer(url, os.environ.get(KEY_VARIABLE), certificate)
        with LocalServer(trusted_keys) as server:
            known = all_runtimes(trusted_keys, consent, server, running or None, skip_foreign)
            chosen = [known[name] for name in dict.fromkeys(runtime or RUNTIMES)]
            if json_lines:
                lines.begin(opened.require_manifest(), chosen)
            progress = lines if json_lines else None
            report = verify_archive(opened, chosen, consent, bool(runtime), progress)
        if trace:
            report = replace(report, trace=trace_archive(opened))
    except TorchShipError as error:
        if json_lines:
            lines.error(error)
        raise
    if json_lines:
        lines.verdict(report)
    elif json_output:
        typer.echo(json.dumps(report.to_json(), indent=1))
    else:
        print_report(report, Console())
    if not report.agreed:
        raise typer.Exit(MISMATCH)


def _open(path: Path, sha256: str | None, trusted_keys: Path | None) -> Archive:
    """Open an archive that has golden cases.

    Raises:
        ArchiveError: as for `open_archive`.
        UsageError: it has no golden case, or is not the file that was meant.
    """
    opened = open_archive(path, read_trusted_keys(trusted_keys) if trusted_keys else ())
    if sha256 is not None and opened.digest != sha256:
        raise UsageError(f"'{path.name}' has the SHA-256 {opened.digest}: expected {sha256}")
    if opened.require_manifest().golden == ():
        raise UsageError(f"'{path}' has no golden case: nothing to verify")
    return opened
