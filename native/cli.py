"""`torchship compile`: an archive as C, or as a library."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from torchship.native.building.toolchain import build_library
from torchship.native.compiler import Code, compile_archive
from torchship.native.emitting import kernel_sources, project
from torchship.native.running.wasm import write_module
from torchship.script.cli import OperatorFolders, TrustedKeys
from torchship.script.errors import UsageError
from torchship.script.format.atomic_write import write_atomic
from torchship.script.format.signing import read_trusted_keys
from torchship.script.runtime import operators
from torchship.script.runtime.archive import open_archive

app = typer.Typer()

TARGETS = ("c", "lib", "wasm")
WEIGHTS = ("code", "file")


@app.command(name="compile")
def compile_(
    archive: Annotated[Path, typer.Argument(help="The archive to compile.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="A folder for C, a file for a library [default: NAME/ or NAME.so].",
        ),
    ] = None,
    target: Annotated[str, typer.Option(help="c, lib, or wasm.")] = "c",
    weights: Annotated[
        str,
        typer.Option(help="code: in the C file, or file: in NAME.bin beside it, for the target c."),
    ] = "code",
    strip: Annotated[bool, typer.Option("--strip", help="Leave the golden cases out.")] = False,
    trace: Annotated[
        bool,
        typer.Option(
            "--trace",
            help="Let every tensor that the model's source names be an output too; without golden "
            "cases. `torchship verify --runtime native --trace` compares them.",
        ),
    ] = False,
    trusted_keys: TrustedKeys = None,
    operator_folders: OperatorFolders = None,
) -> None:
    """Write an archive as C without dependencies, or compile that to a library or WebAssembly.

    Examples:

        torchship compile moba.pt -o moba/

        torchship compile moba.pt --weights file -o moba/

        torchship compile moba.pt --target lib -o moba.so

        torchship compile moba.pt --target wasm -o moba.wasm
    """
    if target not in TARGETS:
        raise UsageError(f"--target '{target}': expected one of {', '.join(TARGETS)}")
    if weights not in WEIGHTS:
        raise UsageError(f"--weights '{weights}': expected one of {', '.join(WEIGHTS)}")
    if weights == "file" and target != "c":
        raise UsageError(
            f"--weights file goes with --target c: a {target} is one file, with its weights inside"
        )
    opened = open_archive(archive, read_trusted_keys(trusted_keys) if trusted_keys else ())
    operators.allow(operator_folders or [])
    golden = target != "lib" and not strip
    code = compile_archive(opened, golden, weights_apart=weights == "file", trace=trace)
    if target == "c":
        written = write_project(code, output or Path(code.prefix))
        names = sorted(path.name for path in written.iterdir() if not path.name.startswith("."))
        typer.echo(f"{written}: {', '.join(names)}")
        return
    if target == "wasm":
        module = output or Path(f"{code.prefix}.wasm")
        for path in write_module(code, module.parent, module.name.removesuffix(".wasm")):
            typer.echo(f"{path}: {path.stat().st_size:,} bytes")
        return
    place = output or Path(f"{code.prefix}.so")
    make_library(code, place)
    typer.echo(f"{place}: {place.stat().st_size:,} bytes")


def write_project(code: Code, folder: Path) -> Path:
    """Write the C files, a CMake project and an example into a folder."""
    texts = {
        f"{code.prefix}.h": code.header,
        f"{code.prefix}.c": code.source,
        "CMakeLists.txt": project.cmake(code.unit),
        "example.c": project.example(code.unit),
        ".clang-format": kernel_sources.style(),
    }
    files = {name: text.encode() for name, text in texts.items()}
    if code.unit.weights_apart:
        files[f"{code.prefix}.bin"] = code.weights_file
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder '{folder}': {error.strerror}") from None
    for name, data in files.items():
        write_atomic(folder / name, data)
    return folder


def make_library(code: Code, place: Path) -> None:
    """Compile the C to a shared library."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / f"{code.prefix}.h").write_text(code.header)
        (folder / f"{code.prefix}.c").write_text(code.source)
        build_library(folder / f"{code.prefix}.c", folder / "library.so")
        write_atomic(place, (folder / "library.so").read_bytes())
