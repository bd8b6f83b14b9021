"""One loaded archive on a thread of its own: it proves itself there before it answers there."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import reduce

from torchship.script.archive import Archive
from torchship.script.errors import InputError, ModelError
from torchship.script.golden import Case
from torchship.script.parity import check_case, worse
from torchship.script.program import Program
from torchship.script.torchscript import configure
from torchship.script.tree import Flat
from torchship.serve.errors import DisagreementError, NotReadyError, RequestError
from torchship.serve.signature import Signature


class Engine:
    """A model and its one thread; calls may come from any task of one event loop.

    One thread, because TorchScript's profiling executor specialises a graph as it runs, and what
    was checked shall be what answers.
    """

    def __init__(self, archive: Archive, threads: int = 1) -> None:
        self.manifest = archive.vouched
        self.signatures = {name: Signature(m) for name, m in self.manifest.methods.items()}
        self._archive = archive
        self._program: Program | None = None
        self._stopping = threading.Event()
        self._thread = ThreadPoolExecutor(
            1, f"engine-{self.manifest.name}", initializer=configure, initargs=(threads,)
        )

    async def start(self) -> None:
        """Load the archive and run its golden cases, on the engine's thread.

        Raises:
            ArchiveError: it cannot be loaded; `DisagreementError` when an output differs from
                its golden value: the message names case, step, output and the difference.
        """
        await asyncio.get_running_loop().run_in_executor(self._thread, self._prove)

    def _prove(self) -> None:
        archive = self._archive
        if not archive.golden:
            raise DisagreementError("it has no golden cases: nothing shows that it is right")
        program = archive.program()
        for number, case in enumerate(archive.golden):
            if self._stopping.is_set():
                raise NotReadyError("the server is shutting down")
            self._prove_case(program, number, case)
        self._program = program

    def _prove_case(self, program: Program, number: int, case: Case) -> None:
        where = f"golden case {number} ('{case.name}')"
        if case.method not in self.manifest.methods:
            raise DisagreementError(f"{where} is of a method '{case.method}' that is not there")
        try:
            differences = check_case(self.manifest, number, case, program.call)
        except (InputError, ModelError) as error:
            raise DisagreementError(f"{where}: {error}") from None
        wrong = [difference for difference in differences if not difference.agreed]
        if wrong:
            # Later steps follow from the first that is wrong.
            first = min(difference.step for difference in wrong)
            worst = reduce(worse, (difference for difference in wrong if difference.step == first))
            raise DisagreementError(
                f"{where}, method '{case.method}', step {worst.step}, "
                f"output '{worst.output}': {worst.reason}"
            )

    def signature(self, method: str) -> Signature:
        """Return a method's signature.

        Raises:
            RequestError: there is no such method.
        """
        if method not in self.signatures:
            names = ", ".join(f"'{name}'" for name in self.signatures)
            raise RequestError(
                f"model '{self.manifest.name}' has no method '{method}': expected {names}"
            )
        return self.signatures[method]

    async def call(self, method: str, inputs: Flat) -> Flat:
        """Run a method on the engine's thread.

        Raises:
            InputError, ModelError: as `Program.call`.
            NotReadyError: the engine has not proved itself.
        """
        if self._program is None:
            raise NotReadyError(f"model '{self.manifest.name}' is not ready")
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, _call, self._program, method, inputs
        )

    def close(self) -> None:
        """Take no more calls; what runs now runs to its end, a check to the end of its case."""
        self._stopping.set()
        self._thread.shutdown(wait=False, cancel_futures=True)


def _call(program: Program, method: str, inputs: Flat) -> Flat:
    """Call the model; the outputs are copies, since it might write into its own again."""
    return {name: output.clone() for name, output in program.call(method, inputs).items()}
