"""The C++ runtime: golden cases through the real binary, compared here and by the binary itself."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch

from torchship.cpp_runner.child import answer_of, ask
from torchship.script.errors import UsageError
from torchship.script.exporting.runtimes import Result
from torchship.script.format.tree import Flat
from torchship.script.runtime.agreement import Difference, check_outputs, worse
from torchship.script.runtime.archive import Archive


class CppRuntime:
    """`torchship-runner verify`, in a process without Python."""

    name = "C++"

    def __init__(self, trusted_keys: Path | None = None) -> None:
        self._keys = ["--trusted-keys", str(trusted_keys)] if trusted_keys else []

    def check(self, archive: Archive) -> Result:
        """Run the golden cases in the binary, and compare its outputs on this side as well.

        Raises:
            UsageError: the binary is not there, or refuses the archive; with its message.
        """
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "outputs.safetensors"
            verdict = self._ask("verify", archive, "--json", "--outputs", str(file))
            tensors = safetensors.torch.load_file(file)
        differences = _differences(archive, tensors)
        return Result(self.name, _both(differences, verdict["results"]), self._p50_us(archive))

    def _p50_us(self, archive: Archive) -> float | None:
        """Return the latency, or None where it cannot be measured: that is no disagreement."""
        method = archive.require_manifest().golden[0].method
        try:
            answer = self._ask("bench", archive, "--method", method, "--batch", "1", "--json")
        except UsageError:
            return None
        p50: float = answer["results"][0]["p50_us"]
        return p50

    def _ask(self, command: str, archive: Archive, *arguments: str) -> dict[str, Any]:
        return answer_of(command, ask(command, str(archive.path), *arguments, *self._keys))


def _differences(archive: Archive, tensors: dict[str, Any]) -> list[Difference]:
    """Compare the outputs that the binary wrote, `<case>/<step>/out/<output>`."""
    found = []
    for number, case in enumerate(archive.golden):
        results: list[Flat] = [{} for _ in case.steps]
        for key, tensor in tensors.items():
            of_case, step, _, name = key.split("/", 3)
            if int(of_case) == number:
                results[int(step)][name] = tensor
        found += check_outputs(archive.require_manifest(), number, case, results)
    return found


def _both(ours: list[Difference], theirs: list[dict[str, Any]]) -> list[Difference]:
    """Join this side's verdict with the binary's, the worse one counting.

    The binary repeats each case and keeps the worst, so it may see more than its outputs show.
    """
    said = {(entry["case"], entry["step"], entry["output"]): entry for entry in theirs}
    joined = []
    for difference in ours:
        entry = said.get((difference.case, difference.step, difference.output))
        if entry is None:
            reason = difference.reason or "the binary's own check left this output out"
            joined.append(replace(difference, agreed=False, reason=reason))
            continue
        other = replace(
            difference,
            agreed=entry["agreed"],
            max_abs=entry["max_abs"],
            max_rel=entry["max_rel"],
            max_ulp=entry["max_ulp"],
            bit_identical=entry["bit_identical"],
            reason=entry["reason"] and f"{entry['reason']} (by the binary's own check)",
        )
        joined.append(worse(difference, other))
    return joined
