"""Errors of the compiled code beside LibTorch's own, for every model: `python bench/agreement.py`.

It prints the table of docs/agreement.md. All errors are distances from the golden cases' float64
outputs. Nothing is timed, so the figures are the same whatever else the machine does; LibTorch's
depend on the instruction set, since its own sums do.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torchship.models import registry
from torchship.native.compiler import compile_archive
from torchship.native.running.compiled import compile_library
from torchship.native.running.wasm import NodeProcess, write_module
from torchship.script.exporting.export import export
from torchship.script.exporting.target import find_target
from torchship.script.format.float64_outputs import of_lower_precision
from torchship.script.format.golden import Call, run_case
from torchship.script.runtime import torchscript
from torchship.script.runtime.archive import Archive
from torchship.script.runtime.error_bound import FACTOR, ULPS, allowed_share, largest_error


@dataclass(frozen=True)
class Share:
    """How much of the allowed error an output of a case uses."""

    share: float
    output: str
    error: float
    own: float
    """LibTorch's own largest error."""


def main() -> None:
    """Print a line for each model: the output that comes closest to its bound."""
    torchscript.configure()
    print("| model | output | LibTorch's own error | native | its share | wasm | its share |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in registry.names():
            print(line(export(find_target(name, None, {}), Path(folder) / f"{name}.pt")))
    print(f"\nAllowed: {FACTOR} times LibTorch's own largest error, plus {ULPS} ULP.")


def line(archive: Archive) -> str:
    """Return the line of one model."""
    manifest = archive.require_manifest()
    native = worst(archive, compile_library(archive).call)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_module(compile_archive(archive, golden=False), Path(folder), "model")
        with NodeProcess(paths[1], manifest) as node:
            wasm = worst(archive, node.call)
    if native is None or wasm is None:
        return f"| {manifest.name} | integers only | | equal | | equal | |"
    return (
        f"| {manifest.name} | `{native.output}` | {native.own:.2g} | {native.error:.2g} | "
        f"{native.share:.0%} | {wasm.error:.2g} | {wasm.share:.0%} |"
    )


def worst(archive: Archive, call: Call) -> Share | None:
    """Return the output that uses most of its allowed error; None if none is of floats."""
    return max(shares(archive, call), key=lambda one: one.share, default=None)


def shares(archive: Archive, call: Call) -> Iterator[Share]:
    """Yield how much of its allowed error each output of each golden case uses."""
    methods = archive.require_manifest().methods
    for number, case in enumerate(archive.golden):
        if number not in archive.float64_outputs:
            continue
        results = run_case(call, methods[case.method], case)
        for step, outputs, in_float64 in zip(
            case.steps, results, archive.float64_outputs[number], strict=True
        ):
            for name, golden in of_lower_precision(step).items():
                exact, own = in_float64.outputs[name], in_float64.errors[name]
                error = largest_error(outputs[name], golden, exact)
                yield Share(allowed_share(outputs[name], golden, exact, own), name, error, own)


if __name__ == "__main__":
    main()
