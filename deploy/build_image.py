"""Runs the steps of a Dockerfile where there is no Docker, in roots that debootstrap has made.

    python deploy/build_image.py FOLDER [--target STAGE]... [--wheel WHEEL] [--arg NAME=VALUE]...

The Dockerfile is read and done instruction by instruction, so what is tried is what Docker would
do. FOLDER gets a root for each stage, and `STAGE.json` for each target: its user, environment and
command, and how many bytes each of its layers adds. With `--wheel`, the stage that compiles the
package is left out, and that wheel is taken for its result.

It knows the instructions that our Dockerfiles have, and refuses others.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from debian_root import Container, RootError, debian
from dockerfile_parse.parser import DockerfileParser

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEBIAN = re.compile(r"debian:(\d+)-slim")
SUITES = {"12": "bookworm", "13": "trixie"}
ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = ROOT / "deploy" / "Dockerfile"


@dataclass
class Image:
    """What an image says of itself, by Docker's names for it, and where its root is."""

    root: str = ""
    User: str = "0:0"
    WorkingDir: str = "/"
    Env: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    Labels: dict[str, str] = field(default_factory=dict)
    Entrypoint: list[str] = field(default_factory=list)
    Cmd: list[str] = field(default_factory=list)
    Healthcheck: list[str] = field(default_factory=list)
    StopSignal: str = "SIGTERM"
    ExposedPorts: list[str] = field(default_factory=list)
    layers: dict[str, int] = field(default_factory=dict)
    """The bytes that each instruction has added."""


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile."""

    name: str
    value: str

    def __str__(self) -> str:
        return f"{self.name} {self.value}"


@dataclass
class Stage:
    """The instructions from one FROM to the next."""

    name: str
    base: str
    instructions: list[Instruction]

    def sources(self) -> set[str]:
        """Return the names of the stages that this one needs."""
        copied = (re.match(r"--from=(\S+)", i.value) for i in self.instructions if i.name == "COPY")
        return {self.base, *(match[1] for match in copied if match)}


def stages(dockerfile: Path, arguments: dict[str, str]) -> list[Stage]:
    """Return the stages of a Dockerfile, in order; what lies before the first may be ARG only."""
    with tempfile.TemporaryDirectory() as scratch:  # the parser writes where it reads
        parser = DockerfileParser(scratch, env_replace=False)  # type: ignore[no-untyped-call]
        parser.content = dockerfile.read_text()
        read = [Instruction(i["instruction"], i["value"]) for i in parser.structure]
    found: list[Stage] = []
    before = dict(arguments)
    for instruction in read:
        if instruction.name == "COMMENT":
            continue
        if instruction.name == "FROM":
            base, _, name = Template(instruction.value).substitute(before).partition(" AS ")
            found.append(Stage(name or "image", base, []))
        elif found:
            found[-1].instructions.append(instruction)
        elif instruction.name == "ARG":
            key, _, default = instruction.value.partition("=")
            before.setdefault(key, default)
        else:
            raise RootError(f"{dockerfile}: {instruction} comes before FROM")
    return found


class Builder:
    """Builds the stages of a Dockerfile below a folder."""

    def __init__(
        self, dockerfile: Path, folder: Path, arguments: dict[str, str], mounts: dict[Path, str]
    ) -> None:
        self.context = ROOT
        self.folder = folder
        self.arguments = arguments
        self.mounts = mounts
        self.stages = {stage.name: stage for stage in stages(dockerfile, arguments)}
        self.built: dict[str, Image] = {}

    def build(self, name: str) -> Image:
        """Build a stage and those that it needs."""
        if name not in self.built:
            stage = self.stages[name]
            for source in sorted(stage.sources() & self.stages.keys()):
                self.build(source)
            self.built[name] = self._build(stage)
        return self.built[name]

    def give(self, name: str, wheel: Path) -> None:
        """Take a wheel for what a stage would make, so that it need not be built."""
        root = self.folder / name
        shutil.rmtree(root, ignore_errors=True)
        (root / "wheels").mkdir(parents=True)
        shutil.copy(wheel, root / "wheels")
        self.built[name] = Image(root=str(root))

    def _build(self, stage: Stage) -> Image:
        root = self.folder / stage.name
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(root, ignore_errors=True)
        if stage.base in self.built:
            below = self.built[stage.base]
            image = Image(**{**vars(below), "Env": dict(below.Env), "layers": dict(below.layers)})
            _copy_root(Path(below.root), root)
        else:
            image = Image()
            _copy_root(_base(stage.base), root)
            image.layers[f"FROM {stage.base}"] = size(root)
        image.root = str(root)
        values: dict[str, str] = {}
        for instruction in stage.instructions:
            before = size(root)
            self._do(instruction, image, values)
            added = size(root) - before
            if added:
                # Docker's own base has not got what is removed from the one of debootstrap.
                layer = str(instruction) if added > 0 else next(iter(image.layers))
                image.layers[layer] = image.layers.get(layer, 0) + added
        return image

    def _do(self, instruction: Instruction, image: Image, values: dict[str, str]) -> None:
        text = instruction.value
        filled = Template(text).safe_substitute({**image.Env, **values})
        match instruction.name:
            case "ARG":
                key, _, default = text.partition("=")
                values[key] = self.arguments.get(key, default)
            case "RUN":
                container = Container(
                    Path(image.root),
                    folder=image.WorkingDir,
                    environment={"HOME": "/root", **values, **image.Env},
                    mounts=self.mounts,
                )
                container.run("/bin/sh", "-c", text)
            case "COPY":
                self._copy(filled, image)
            case "ENV":
                image.Env.update(_pairs(filled))
            case "LABEL":
                image.Labels = {**image.Labels, **dict(_pairs(filled))}
            case "WORKDIR":
                image.WorkingDir = filled
                (Path(image.root) / filled.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "USER":
                image.User = filled
            case "EXPOSE":
                image.ExposedPorts = filled.split()
            case "STOPSIGNAL":
                image.StopSignal = filled
            case "HEALTHCHECK":
                command = filled.partition("CMD ")[2]
                image.Healthcheck = json.loads(command) if command else []
            case "ENTRYPOINT":
                image.Entrypoint, image.Cmd = json.loads(text), []
            case "CMD":
                image.Cmd = json.loads(text)
            case _:
                raise RootError(f"{instruction}: this script does not know that instruction")

    def _copy(self, text: str, image: Image) -> None:
        origin = self.context
        *sources, target = text.split()
        if sources[0].startswith("--from="):
            origin = Path(self.built[sources.pop(0).removeprefix("--from=")].root)
        there = Path(image.root) / target.lstrip("/")
        for source in sources:
            here = origin / source.lstrip("/")
            if source == ".":
                for name in copied_by(self.context):
                    (there / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(origin / name, there / name, follow_symlinks=False)
            elif here.is_dir():
                shutil.copytree(here, there, symlinks=True, dirs_exist_ok=True)
            else:
                there.mkdir(parents=True, exist_ok=True)
                shutil.copy2(here, there)


def _base(name: str) -> Path:
    match = DEBIAN.fullmatch(name)
    if not match:
        raise RootError(f"FROM {name}: expected debian:12-slim or debian:13-slim")
    suite = SUITES[match[1]]
    return debian(suite, ROOT / "build" / f"bare-{suite}")


def _copy_root(source: Path, target: Path) -> None:
    # Not with shutil, which would read the devices in it.
    subprocess.run(["cp", "-a", "--reflink=auto", str(source), str(target)], check=True)


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for key, quoted, plain in re.findall(r'([\w.]+)=(?:"([^"]*)"|(\S*))', text):
        yield key, quoted or plain


def copied_by(context: Path) -> list[str]:
    """Return the files that `COPY .` copies: those that .dockerignore does not name."""
    ignored = [
        re.compile(re.escape(line).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*") + "(/.*)?")
        for line in (context / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    found = []
    for folder, folders, files in os.walk(context):
        here = Path(folder).relative_to(context)
        kept = [
            name
            for name in (*folders, *files)
            if not any(pattern.fullmatch(str(here / name)) for pattern in ignored)
        ]
        found += [str(here / n) for n in kept if n in files or (context / here / n).is_symlink()]
        folders[:] = [name for name in folders if name in kept]
    return found


def size(root: Path) -> int:
    """Return the bytes of all files below a folder, each once."""
    total, seen = 0, set()
    for folder, _, files in os.walk(root):
        for name in files:
            status = os.lstat(os.path.join(folder, name))
            if status.st_nlink == 1 or status.st_ino not in seen:
                seen.add(status.st_ino)
                total += status.st_size
    return total


def main() -> None:
    """Build the targets; write and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--file", type=Path, default=DOCKERFILE)
    parser.add_argument(
        "--target", action="append", default=[], help="stages; the last one if none"
    )
    parser.add_argument("--wheel", type=Path, help="what the stage `build` would make")
    parser.add_argument("--wheels", type=Path, help="a folder of packages, as /wheelhouse")
    parser.add_argument("--arg", action="append", default=[], help="NAME=VALUE of a build argument")
    given = parser.parse_args()
    arguments = dict(argument.split("=", 1) for argument in given.arg)
    mounts = {given.wheels.resolve(): "/wheelhouse"} if given.wheels else {}
    folder = given.folder.resolve()
    try:
        builder = Builder(given.file, folder, arguments, mounts)
        if given.wheel:
            builder.give("build", given.wheel)
        for target in given.target or list(builder.stages)[-1:]:
            image = builder.build(target)
            (folder / f"{target}.json").write_text(json.dumps(vars(image), indent=1))
            print(f"{target}:")
            for layer, added in image.layers.items():
                print(f"{added / 1e6:8.1f} MB  {layer}")
            print(f"{sum(image.layers.values()) / 1e6:8.1f} MB  in all")
    except RootError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")


if __name__ == "__main__":
    main()
