"""Makes what is measured: archives, and what `torchship compile` makes of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from rich.progress import Progress

from side_by_side import talk
from torchship.models import registry
from torchship.native.building.cache import cached_library
from torchship.native.building.toolchain import build_library
from torchship.native.cli import write_project
from torchship.native.compiler import compile_archive
from torchship.native.running.wasm import write_module
from torchship.script.exporting.export import export
from torchship.script.exporting.target import Target, find_target
from torchship.script.runtime import torchscript
from torchship.script.runtime.archive import Archive, open_archive

SSE2 = "-DTS_ONLY_SSE2"


@dataclass(frozen=True)
class Subject:
    """A model's archive; `library` is its compiled code, if that is measured."""

    name: str
    archive: Archive
    library: Path | None
    error: str = ""  # why there is no library

    @property
    def eager(self) -> torch.nn.Module:
        """The eager module, made anew."""
        found = target_of(self.name).factory()
        assert isinstance(found, torch.nn.Module)
        return found


def target_of(name: str) -> Target:
    """Return what the exporter needs of one of our models, or of a cell of the talk's sizes."""
    return talk.target(name[5:]) if name.startswith("talk-") else find_target(name, None, {})


def prepare(compiled: Mapping[str, bool], folder: Path) -> dict[str, Subject]:
    """Export models into a folder, and compile those that say so; two at a time on two cores."""
    torchscript.configure()
    subjects = {}
    context = get_context("spawn")
    with (
        ProcessPoolExecutor(min(4, os.cpu_count() or 1), mp_context=context) as pool,
        Progress(transient=True) as progress,
    ):
        task = progress.add_task("exporting and compiling", total=len(compiled))
        made = {
            name: pool.submit(_prepare, name, folder, native) for name, native in compiled.items()
        }
        for name, future in made.items():
            path, library, error = future.result()
            subjects[name] = Subject(name, open_archive(path), library, error)
            progress.advance(task)
    return subjects


def _prepare(name: str, folder: Path, native: bool) -> tuple[Path, Path | None, str]:
    torchscript.configure()
    path = folder / f"{name}.pt"
    archive = export(target_of(name), path)
    if not native:
        return path, None, ""
    try:
        return path, cached_library(compile_archive(archive, golden=False)), ""
    except Exception as error:  # reported as what could not be measured
        return path, None, f"{type(error).__name__}: {error}"


def sse2_library(subject: Subject, folder: Path) -> Path:
    """Compile an archive for SSE2 alone, whose vectors are as wide as WebAssembly's."""
    project = write_project(compile_archive(subject.archive, golden=False), folder / "sse2")
    [source] = (path for path in project.glob("*.c") if path.name != "example.c")
    build_library(source, project / "library.so", [SSE2])
    return project / "library.so"


def web_module(subject: Subject, folder: Path) -> Path:
    """Compile an archive to WebAssembly; return the .mjs file."""
    code = compile_archive(subject.archive, golden=False)
    return write_module(code, folder, subject.name)[1]


def models_of_ours() -> Sequence[str]:
    """Return the names of all models of the zoo."""
    return registry.names()
