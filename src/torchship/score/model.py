"""Loads an archive to score with, and proves it first."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Literal

import torch

from torchship.native.running.compiled import compile_library
from torchship.native.running.program import NativeProgram
from torchship.score.errors import DisagreementError
from torchship.score.methods import ScoredMethod, is_batched
from torchship.script.errors import InputError, ModelError
from torchship.script.exporting.independence import DependenceError, independent_rows
from torchship.script.format.tree import Flat
from torchship.script.runtime import agreement, error_bound, torchscript
from torchship.script.runtime.archive import Archive
from torchship.script.runtime.batch import BATCH
from torchship.script.runtime.program import Program

Runtime = Literal["script", "native"]
RUNTIMES = ("script", "native")


class Model:
    """An archive that has reproduced its golden cases in this process, and one of its methods."""

    def __init__(self, archive: Archive, method: str, runtime: Runtime) -> None:
        """Load the archive and run its golden cases.

        Raises:
            TorchShipError: the runtime cannot run the archive, or there is no such method.
            DisagreementError: a golden case differs, or there is none.
        """
        torchscript.configure()
        self.archive = archive
        self.runtime = runtime
        self.method = ScoredMethod(archive.require_manifest(), method)
        self._program: Program | NativeProgram = (
            archive.program() if runtime == "script" else NativeProgram(compile_library(archive))
        )
        _prove(archive, self._program, runtime)

    def run(self, inputs: Flat) -> Flat:
        """Run the method; the outputs are the caller's.

        Raises:
            InputError: the inputs do not fit the signature.
            ModelError: the model raised.
            OutOfMemoryError: there was not enough memory.
        """
        return self._program.call(self.method.name, inputs)

    def why_alone(self, given: Collection[str], rows: int, note: Callable[[str], None]) -> str:
        """Return why rows run one by one; "" if `rows` of them give each its own outputs.

        That is tested here with golden rows and variations of them, whatever the archive says, as a
        server tests it.

        Args:
            given: the names of the inputs that the table has.
            rows: of the largest call.
            note: told what takes time.
        """
        method, name = self.method.signature, self.method.name
        if not is_batched(method):
            return f"method '{name}' has no batch in all of its outputs"
        starts = {state.input for state in method.state if state.start == "zeros"}
        cases = [case for case in self.archive.golden if case.method == name]
        calls = [
            {key: value for key, value in step.inputs.items() if key in given}
            for case in cases
            for step in case.steps[:1]
            if set(step.inputs) - starts == set(given) - starts and set(given) <= set(step.inputs)
        ]
        if not calls:
            return "no golden case has the same inputs, so nothing shows that rows are independent"
        note(f"testing that {rows} rows in one call give what each gives alone")
        try:
            found = independent_rows(self._call, name, method, BATCH, calls, lambda size: rows)
        except DependenceError as error:
            return str(error)
        return "" if found else "no golden case has a row"

    def _call(self, method: str, inputs: Mapping[str, torch.Tensor]) -> Flat:
        return self._program.call(method, inputs)


def _prove(archive: Archive, program: Program | NativeProgram, runtime: Runtime) -> None:
    """Run every golden case.

    Raises:
        DisagreementError: there is none, or one differs; the message says where.
    """
    manifest = archive.require_manifest()
    where = f"'{archive.path.name}' is not used: "
    if not archive.golden:
        raise DisagreementError(f"{where}it has no golden case, so nothing vouches for it")
    check = (
        agreement.check_case
        if runtime == "script"
        else partial(error_bound.check_case, float64_outputs=archive.float64_outputs)
    )
    for number, case in enumerate(archive.golden):
        try:
            differences = check(manifest, number, case, program.call)
        except (InputError, ModelError) as error:
            raise DisagreementError(
                f"{where}golden case {number} ('{case.name}'): {error}"
            ) from None
        wrong = next((one for one in differences if not one.agreed), None)
        if wrong is not None:
            raise DisagreementError(
                f"{where}golden case {number} ('{case.name}'), method '{case.method}', step "
                f"{wrong.step}, output '{wrong.output}', in {runtime}: {wrong.reason}"
            )


def one_thread() -> None:
    """Let LibTorch use one thread, where other processes use the other cores."""
    torch.set_num_threads(1)
