"""`torchship cmake-prefix`: where a CMake project finds the C++ library."""

from __future__ import annotations

import typer

from torchship.cpp_runner import binary
from torchship.script.errors import UsageError

app = typer.Typer()


@app.command(
    "cmake-prefix",
    epilog='Example: cmake -S . -B build -DCMAKE_PREFIX_PATH="$(torchship cmake-prefix)"',
)
def cmake_prefix() -> None:
    """Print the folder that CMAKE_PREFIX_PATH needs for find_package(torchship)."""
    try:
        print(binary.cmake_prefix())
    except FileNotFoundError as error:
        raise UsageError(str(error)) from None
