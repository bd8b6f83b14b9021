"""What agreed with the golden cases when a site was written."""

from __future__ import annotations

import math
import shutil
from datetime import datetime, timezone
from pathlib import Path

from torchship.native.errors import NativeError
from torchship.native.running.wasm import NodeProcess
from torchship.script.runtime import agreement, error_bound
from torchship.script.runtime.agreement import Difference
from torchship.script.runtime.archive import Archive

WHERE = "on the machine that wrote this site"


def prove(archive: Archive, module: Path) -> dict[str, object]:
    """Run the golden cases in TorchScript, and in the module if there is node; say what came of it.

    Returns the time and, for each runtime, its largest absolute difference and how many cases and
    outputs it had. What a visitor's browser computes, the page finds out there.

    Raises:
        NativeError: an output differs; the message names it.
    """
    manifest, in_float64 = archive.require_manifest(), archive.float64_outputs
    program = archive.program()
    found = {
        f"script, {WHERE}": [
            difference
            for number, case in enumerate(archive.golden)
            for difference in agreement.check_case(manifest, number, case, program.call)
        ]
    }
    if shutil.which("node") or shutil.which("nodejs"):
        with NodeProcess(module, manifest) as node:
            found[f"wasm in node, {WHERE}"] = [
                difference
                for number, case in enumerate(archive.golden)
                for difference in error_bound.check_case(
                    manifest, number, case, node.call, in_float64
                )
            ]
    return {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "runtimes": [
            _summary(archive.path.name, name, differences) for name, differences in found.items()
        ],
    }


def _summary(file: str, runtime: str, differences: list[Difference]) -> dict[str, object]:
    for difference in differences:
        if not difference.agreed:
            raise NativeError(
                f"'{file}': {runtime}: golden case {difference.case}, step {difference.step}, "
                f"output '{difference.output}': {difference.reason}"
            )
    sizes = [difference.max_abs or 0.0 for difference in differences]
    return {
        "runtime": runtime,
        "worst": max((size for size in sizes if math.isfinite(size)), default=0.0),
        "cases": len({difference.case for difference in differences}),
        "outputs": len(differences),
    }
