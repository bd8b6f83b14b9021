"""Modules compiled in a folder, and compared with what LibTorch says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torchship.native.building.toolchain import build_library
from torchship.native.compiler import compile_archive
from torchship.native.running.library import Library
from torchship.script.exporting.export import export
from torchship.script.exporting.target import find_target
from torchship.script.runtime.archive import Archive, open_archive

STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")


def quick_options() -> tuple[str, ...]:
    """Return options that compile fast: for the best instruction set of this machine alone."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    best = next((name for name in ("avx512bw", "avx2") if name in flags.split()), "")
    only = {"avx512bw": "-DTS_ONLY_AVX512", "avx2": "-DTS_ONLY_AVX2"}.get(best, "")
    return ("-O1", only) if only else ("-O1",)


def exported(folder: Path, factory: str, examples: str, **options: object) -> Archive:
    """Return the archive of a factory `module:name`, made in a folder."""
    path = folder / f"{factory.partition(':')[2]}.pt"
    export(find_target(factory, examples, {}), path)
    return open_archive(path)


def library_of(archive: Archive, folder: Path, options: Sequence[str] = ()) -> Library:
    """Return an archive as a loaded library, compiled with all warnings as errors."""
    code = compile_archive(archive, golden=False)
    (folder / f"{code.prefix}.h").write_text(code.header)
    source = folder / f"{code.prefix}.c"
    source.write_text(code.source)
    number = len(list(folder.glob("*.so")))  # a process loads a file of one name only once
    target = folder / f"{code.prefix}-{number}.so"
    build_library(source, target, [*STRICT, *options])
    return Library(target, archive.require_manifest(), archive.digest)
