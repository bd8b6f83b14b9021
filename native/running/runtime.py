"""The native runtime of `verify`: golden cases through the compiled library."""

from __future__ import annotations

from torchship.native.running.compiled import compile_library
from torchship.script.exporting.runtimes import Result, median_us
from torchship.script.runtime.archive import Archive
from torchship.script.runtime.batch import batch_inputs
from torchship.script.runtime.error_bound import check_case


class NativeRuntime:
    """The archive compiled to C, as a library in this process."""

    name = "native"

    def check(self, archive: Archive) -> Result:
        """Compile the archive, run the golden cases in the library, and compare.

        Raises:
            UnsupportedError: an operator has no C.
            CompilerMissingError: there is no C compiler.
        """
        manifest = archive.require_manifest()
        library = compile_library(archive)
        in_float64 = archive.float64_outputs
        differences = [
            difference
            for number, case in enumerate(archive.golden)
            for difference in check_case(manifest, number, case, library.call, in_float64)
        ]
        method, inputs = batch_inputs(manifest, archive.golden, 1)
        return Result(self.name, differences, median_us(lambda: library.call(method, inputs)))
