"""`torchship compile`: an archive as C, as a library, or archives as a web page."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from torchship.native.building.toolchain import build_library
from torchship.native.compiler import Code, compile_archive
from torchship.native.emitting import kernel_sources, project
from torchship.native.running.wasm import write_module
from torchship.native.site.writer import write_site
from torchship.script.cli import OperatorFolders, TrustedKeys
from torchship.script.errors import UsageError
from torchship.script.format.atomic_write import write_atomic
from torchship.script.format.signing import read_trusted_keys
from torchship.script.runtime import operators
from torchship.script.runtime.archive import open_archive

app = typer.Typer()

TARGETS = ("c", "lib", "wasm", "web")
WEIGHTS = ("code", "file")


@app.command(name="compile")
def compile_(
    archives: Annotated[
        list[Path],
        typer.Argument(
            metavar="ARCHIVE...", help="The archive to compile; for the target web, one or more."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="A folder for C or a site, a file for a library "
            "[default: NAME/, site/ or NAME.so].",
        ),
    ] = None,
    target: Annotated[str, typer.Option(help="c, lib, wasm, or web.")] = "c",
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

        torchship compile snake.pt moba.pt bobnet.pt --target web -o site/
    """
    if target not in TARGETS:
        raise UsageError(f"--target '{target}': expected one of {', '.join(TARGETS)}")
    if weights not in WEIGHTS:
        raise UsageError(f"--weights '{weights}': expected one of {', '.join(WEIGHTS)}")
    if weights == "file" and target != "c":
        raise UsageError(
            f"--weights file goes with --target c: a {target} is one file, with its weights inside"
        )
    if target == "web":
        for option, given in (("--strip", strip), ("--trace", trace)):
            if given:
                raise UsageError(
                    f"{option} does not go with --target web: a page shows golden cases"
                )
    elif len(archives) > 1:
        raise UsageError(
            f"--target {target} takes one archive, got {len(archives)}: only --target web takes "
            "several"
        )
    keys = read_trusted_keys(trusted_keys) if trusted_keys else ()
    operators.allow(operator_folders or [])
    if target == "web":
        site = write_site([open_archive(path, keys) for path in archives], output or Path("site"))
        typer.echo(describe_site(site))
        return
    opened = open_archive(archives[0], keys)
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


def describe_site(site: Path) -> str:
    """Return what a site weighs, and a command that shows it."""
    files = [path for path in site.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    models = ", ".join(sorted(path.name for path in (site / "models").iterdir()))
    return (
        f"{site}: {models}; {len(files)} files, {size:,} bytes\n"
        f"Any web server of files shows it: python3 -m http.server -d {shlex.quote(str(site))}"
    )


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
