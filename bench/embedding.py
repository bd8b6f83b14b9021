"""What a step costs a C program beside its time: calls of the heap, and stack.

python bench/embedding.py
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from torchship.cpp_runner.binary import cmake_prefix
from torchship.script.exporting.export import export
from torchship.script.exporting.target import find_target

SOURCE = Path(__file__).with_name("host_program.c")
# Input, dtype as the C ABI numbers them, shape.
MODELS = {
    "xor": ("x", "11", "1,2"),
    "fizzbuzz": ("x", "11", "1,10"),
    "bobnet": ("x", "1", "1,784"),
    "moba": ("obs", "1", "1,510"),
}


def main() -> None:
    lib = cmake_prefix() / "lib"
    table = Table("model", "calls of the heap in a step", "stack")
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "host_program")
        linked = [f"-I{cmake_prefix() / 'include'}", f"-L{lib}", f"-Wl,-rpath,{lib}"]
        command = ["gcc", "-O1", "-pthread", str(SOURCE), *linked, "-ltorchship_c", "-o", program]
        subprocess.run(command, check=True)
        for name, given in MODELS.items():
            archive = Path(folder) / f"{name}.pt"
            export(find_target(name, None, {}), archive)
            said = [
                subprocess.run(
                    [program, mode, str(archive), *given],
                    check=True, capture_output=True, text=True,
                ).stdout.strip()
                for mode in ("heap", "stack")
            ]  # fmt: skip
            table.add_row(name, said[0].split()[0], said[1])
    Console().print(table)


if __name__ == "__main__":
    main()
