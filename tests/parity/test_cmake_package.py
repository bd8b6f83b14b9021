"""The installed C++ library: projects outside the source tree find it, link it and run.

Each example is copied into a folder of its own and built there, against an install prefix or
against what `torchship cmake-prefix` prints.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cmake_projects import BUILD, CMAKE, PYTHON, ROOT, built, done, run
from torchship.__main__ import application
from torchship.cpp_runner import binary
from torchship.models.moba import CHANNELS, CLASSES, OBS, SIDE
from torchship.script.errors import UsageError
from torchship.script.runtime.archive import open_archive

MINOR = ".".join(torch.__version__.split(".")[:2])
NO_PYTHON = "-DPython_EXECUTABLE=/no/python"
STRICT_C = (
    "-DCMAKE_C_FLAGS=-Wall -Wextra -Werror -pedantic",
    "-DCMAKE_C_STANDARD=11",
    "-DCMAKE_C_EXTENSIONS=OFF",
)


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prefix")
    done(CMAKE, "--install", BUILD, "--prefix", folder)
    return folder


@pytest.fixture(scope="module")
def wheel() -> Path:
    return Path(done(sys.executable, "-m", "torchship", "cmake-prefix").removesuffix("\n"))


@pytest.fixture(scope="module")
def archives(
    model_archive: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("archives")
    for name in ("fizzbuzz", "moba"):
        shutil.copy(model_archive(name), folder)
    return folder


@pytest.mark.parametrize("where", ["prefix", "wheel"])
def test_the_minimal_example(
    where: str, archives: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    # Torch is the one of the Python that is named, or the one beside the package.
    python = {"prefix": PYTHON, "wheel": NO_PYTHON}[where]
    program = built("minimal", tmp_path, request.getfixturevalue(where), python)
    words = {"3": "fizz", "5": "buzz", "15": "fizzbuzz", "16": "number"}
    for number, word in words.items():
        assert done(program, archives / "fizzbuzz.pt", number) == f"{word}\n"
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes((archives / "fizzbuzz.pt").read_bytes()[:-1])
    refused = run(program, damaged, "3")
    assert (refused.returncode, refused.stdout) == (3, "")
    assert "damaged.pt" in refused.stderr


def test_the_minimal_example_is_minimal() -> None:
    example = ROOT / "cpp_runner" / "examples" / "minimal"
    assert len((example / "main.cpp").read_text().splitlines()) < 30
    lines = (example / "CMakeLists.txt").read_text().strip().splitlines()
    assert len([line for line in lines if "project" not in line and "minimum" not in line]) == 4


def test_the_thread_pool(prefix: Path, archives: Path, tmp_path: Path) -> None:
    program = built("thread_pool", tmp_path, prefix, PYTHON)
    for threads in (1, 4):
        printed = done(program, archives / "fizzbuzz.pt", threads)
        assert printed == "buzz 14\nfizz 27\nfizzbuzz 6\nnumber 53\n"


def seen_from(place: np.ndarray[tuple[int], np.dtype[np.int64]]) -> torch.Tensor:
    """What the heroes of the game loop see: uint8[heroes, 510]."""
    index = np.arange(OBS)
    is_class = (index < SIDE * SIDE * CHANNELS) & (index % CHANNELS == 0)
    classes = (index // CHANNELS + place[:, None]) % CLASSES
    others = (index * 7 + place[:, None] * 31) % 256
    return torch.from_numpy(np.where(is_class, classes, others).astype(np.uint8))


def test_the_game_loop_plays_as_python_does(wheel: Path, archives: Path, tmp_path: Path) -> None:
    program = built("game_loop", tmp_path, wheel, NO_PYTHON)
    heroes, ticks = 1024, 25

    policy = open_archive(archives / "moba.pt").program()
    index = np.arange(heroes)
    place, energy = index.copy(), 20 + index % 17
    state = {name: torch.zeros(heroes, 128) for name in "hc"}
    deaths, hope = 0, 0.0
    for _ in range(ticks):
        outputs = policy.call("forward", {"obs": seen_from(place), **state})
        hope += outputs["value"].double().sum().item()
        way = outputs["logits"][:, :7].argmax(1).numpy()
        place, energy = place + way + 1, energy - way - 1
        dead = energy <= 0
        place[dead], energy[dead] = index[dead], 20 + index[dead] % 17
        deaths += int(dead.sum())
        state = {
            name: outputs[name].masked_fill(torch.from_numpy(dead)[:, None], 0) for name in "hc"
        }

    assert deaths > 100
    printed = done(program, archives / "moba.pt", ticks)
    assert printed == f"{heroes} heroes, {ticks} ticks, {deaths} deaths, hope {hope:.6f}\n"


def test_the_c_program(wheel: Path, archives: Path, tmp_path: Path) -> None:
    # Neither Torch nor a C++ compiler is looked for.
    options = (*STRICT_C, NO_PYTHON, "-DCMAKE_DISABLE_FIND_PACKAGE_Torch=ON")
    program = built("c_program", tmp_path, wheel, *options)
    assert "CMAKE_CXX_COMPILER" not in (tmp_path / "build" / "CMakeCache.txt").read_text()

    policy = open_archive(archives / "moba.pt").program()
    expected = f"torchship {version('torchship')}: the archive is as it was made\n"
    state: dict[str, torch.Tensor] = {}
    for step in range(4):
        obs = torch.full((1, OBS), step, dtype=torch.uint8)
        outputs = policy.call("forward", {"obs": obs, **state})
        state = {name: outputs[name] for name in "hc"}
        expected += f"step {step}: value {outputs['value'].item():.9g}\n"
    assert done(program, archives / "moba.pt", 3) == expected

    refused = run(program, tmp_path / "none.pt", "3")
    assert (refused.returncode, refused.stdout) == (3, "")
    assert refused.stderr.startswith("c_program: open: ")
    assert "none.pt" in refused.stderr


def configured(
    folder: Path, prefix: Path, *options: str, wanted: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Configures a project that does nothing but find the package."""
    (folder / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.25)\nproject(finder LANGUAGES CXX)\n"
        f"find_package(torchship {wanted} REQUIRED)\n"
        'message(STATUS "found ${torchship_VERSION} with ${torchship_LIBTORCH}")\n'
    )
    found = f"-DCMAKE_PREFIX_PATH={prefix}"
    return run(CMAKE, "-S", folder, "-B", folder / "build", found, *options, **variables)


def message_of(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode != 0, result.stdout
    return " ".join(result.stderr.split())


@pytest.mark.parametrize("wanted", ["", "0.1", "0.1.0", "COMPONENTS cxx c"])
def test_versions_and_components_that_fit(wheel: Path, tmp_path: Path, wanted: str) -> None:
    result = configured(tmp_path, wheel, NO_PYTHON, wanted=wanted)
    assert f"found {version('torchship')} with {wheel.parents[1]}/torch\n" in result.stdout, (
        result.stderr
    )


@pytest.mark.parametrize("wanted", ["0.2", "1.0", "0.0", "COMPONENTS rust"])
def test_versions_and_components_that_do_not(wheel: Path, tmp_path: Path, wanted: str) -> None:
    message = message_of(configured(tmp_path, wheel, NO_PYTHON, wanted=wanted))
    assert "no component 'rust'" in message or f'requested version "{wanted}"' in message


@pytest.mark.parametrize(
    ("without", "debian"),
    [
        ("-DCMAKE_DISABLE_FIND_PACKAGE_nlohmann_json=ON", "nlohmann-json3-dev"),
        ("-DCMAKE_DISABLE_FIND_PACKAGE_OpenSSL=ON", "libssl-dev"),
        ("-DPKG_CONFIG_EXECUTABLE=/no/pkg-config", "pkg-config"),
    ],
)
def test_a_missing_package_is_named(wheel: Path, tmp_path: Path, without: str, debian: str) -> None:
    assert f"(Debian: {debian})" in message_of(configured(tmp_path, wheel, without))


def test_missing_libzip_is_named(wheel: Path, tmp_path: Path) -> None:
    result = configured(tmp_path, wheel, PKG_CONFIG_LIBDIR=str(tmp_path))
    assert "torchship needs libzip 1.7 or newer (Debian: libzip-dev)." in message_of(result)


def test_without_torch_it_says_where_to_get_it(prefix: Path, tmp_path: Path) -> None:
    # A prefix, since no torch lies beside it; and a Python that has none.
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)
    message = message_of(configured(tmp_path, prefix, f"-DPython_EXECUTABLE={python}"))
    assert f"torchship needs LibTorch {MINOR}" in message
    assert f"{python} has none" in message


def test_the_callers_torch_comes_first_and_must_be_of_the_right_version(
    wheel: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    header = other / "include" / "torch" / "headeronly" / "version.h"
    header.parent.mkdir(parents=True)
    header.write_text("#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 12\n")
    package = other / "share" / "cmake" / "Torch"
    package.mkdir(parents=True)
    found = [f"-DTorch_DIR={package}", f"-DTorch_ROOT={other}"]
    found.append(f"-DCMAKE_PREFIX_PATH={wheel};{other}/share/cmake")
    for index, option in enumerate(found):
        folder = tmp_path / str(index)
        folder.mkdir()
        message = message_of(configured(folder, wheel, option))
        assert f"built with LibTorch {MINOR}" in message
        assert "is 2.12" in message


def test_a_torch_with_cuda_needs_no_cuda_toolkit(
    prefix: Path, archives: Path, tmp_path: Path
) -> None:
    # In builds with CUDA torch's own package ends the configuration where there is no toolkit.
    other = tmp_path / "torch"
    package = other / "share" / "cmake" / "Torch"
    package.mkdir(parents=True)
    (package / "TorchConfig.cmake").write_text('message(FATAL_ERROR "there is no CUDA toolkit")\n')
    for name in ("include", "lib"):
        (other / name).symlink_to(Path(torch.__file__).parent / name)
    found = f"-DCMAKE_PREFIX_PATH={prefix};{other}/share/cmake"
    program = built("minimal", tmp_path, prefix, NO_PYTHON, found)
    assert done(program, archives / "fizzbuzz.pt", "15") == "fizzbuzz\n"


@pytest.mark.parametrize("where", ["prefix", "wheel"])
def test_no_program_knows_a_folder_of_the_machine_that_built_it(
    where: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(where)
    for name in ("bin/torchship-runner", "lib/libtorchship_c.so", "lib/libtorchship_ops.so"):
        [paths] = re.findall(r"RUNPATH.*\[(.*)\]", done("readelf", "-d", folder / name))
        assert all(path.startswith("$ORIGIN/") for path in paths.split(":")), f"{name}: {paths}"


def test_a_prefix_has_a_link_that_leads_to_libtorch(prefix: Path) -> None:
    [link] = prefix.glob("lib*/torchship/libtorch")
    assert link.resolve() == (Path(torch.__file__).parent / "lib").resolve()


@pytest.mark.parametrize("where", ["prefix", "wheel"])
def test_nothing_in_the_package_leads_to_the_source(
    where: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(where)
    files = {file.name: file for file in (folder / "lib" / "cmake" / "torchship").iterdir()}
    assert {"torchship-config.cmake", "torchship-config-version.cmake"} <= files.keys()
    for file in files.values():
        for path in (str(BUILD), f"{ROOT}/cpp_runner"):
            assert path not in file.read_text(), file.name
    headers = {file.name for file in (folder / "include" / "torchship").iterdir()}
    assert headers == {f.name for f in (ROOT / "cpp_runner/include/torchship").iterdir()}


def test_cmake_prefix_of_a_package_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binary, "files", lambda name: [])
    result = CliRunner().invoke(application(), ["cmake-prefix"])
    assert isinstance(result.exception, UsageError)
    assert "the C++ library and its CMake package are not installed" in str(result.exception)
