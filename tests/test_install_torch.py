"""Which torch `make` installs: the CPU build if pip finds it; the choice is printed.

The indexes are folders of empty wheels, the Python a new virtual environment.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from cmake_projects import ROOT, done

SCRIPT = ROOT / "deploy" / "install_torch.py"
# Elsewhere there is one build, and nothing to choose.
pytestmark = pytest.mark.xfail(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="one build", run=False
)


def wheel(folder: Path, version: str) -> None:
    """A wheel of torch without content."""
    folder.mkdir(exist_ok=True)
    info = f"torch-{version}.dist-info"
    with ZipFile(folder / f"torch-{version}-py3-none-any.whl", "w") as file:
        file.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n"
        )
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`both` offers torch 2.13.0 for the CPU and with CUDA, `cuda` only the latter."""
    folder = tmp_path_factory.mktemp("indexes")
    for version in ("2.13.0", "2.13.0+cpu"):
        wheel(folder / "both", version)
    wheel(folder / "cuda", "2.13.0")
    return folder


@pytest.fixture
def python(tmp_path: Path) -> Path:
    done(sys.executable, "-m", "venv", tmp_path / "venv")
    return tmp_path / "venv" / "bin" / "python"


def install(
    python: Path, choice: str, index: Path, version: str = "2.13.0"
) -> subprocess.CompletedProcess[str]:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("PIP_")}
    return subprocess.run(
        [str(python), str(SCRIPT), choice, version, "--no-index", "--find-links", str(index)],
        env=environment | {"PIP_CONFIG_FILE": os.devnull},
        capture_output=True,
        text=True,
        check=False,
    )


def installed(python: Path) -> str:
    code = "from importlib.metadata import version; print(version('torch'))"
    return done(python, "-c", code).strip()


def test_the_small_one_where_it_is_offered(python: Path, indexes: Path) -> None:
    result = install(python, "auto", indexes / "both")
    assert result.returncode == 0, result.stderr
    assert "torch 2.13.0 for the CPU" in result.stdout
    assert "CUDA" not in result.stdout
    assert installed(python) == "2.13.0+cpu"


def test_the_large_build_is_installed_with_a_notice_if_no_small_one_is_offered(
    python: Path, indexes: Path
) -> None:
    result = install(python, "auto", indexes / "cuda")
    assert result.returncode == 0, result.stderr
    assert "pip is offered none" in result.stdout
    assert "PIP_ARGS='--extra-index-url ADDRESS'" in result.stdout
    assert "with CUDA (about 3 GB to download" in result.stdout
    assert installed(python) == "2.13.0"


def test_cuda_is_what_was_asked_for_though_the_small_one_is_offered(
    python: Path, indexes: Path
) -> None:
    result = install(python, "cuda", indexes / "both")
    assert result.returncode == 0, result.stderr
    assert installed(python) == "2.13.0"
    # Asked for the other, it changes.
    assert install(python, "cpu", indexes / "both").returncode == 0
    assert installed(python) == "2.13.0+cpu"


def test_what_is_there_is_kept(python: Path, indexes: Path) -> None:
    assert install(python, "cuda", indexes / "both").returncode == 0
    result = install(python, "auto", indexes / "both")
    assert "torch 2.13.0 is installed already" in result.stdout
    assert installed(python) == "2.13.0"


@pytest.mark.parametrize(
    ("choice", "index", "version", "said"),
    [
        ("cpu", "cuda", "2.13.0", "TORCH=cpu: pip is offered no torch 2.13.0+cpu"),
        ("auto", "both", "2.14.1", "TORCH=auto: pip is offered no torch 2.14.1 for this Python"),
        ("cuda", "none", "2.13.0", "TORCH=cuda: pip is offered no torch 2.13.0 for this Python"),
        ("gpu", "both", "2.13.0", "TORCH: expected auto, cpu or cuda, got 'gpu'"),
        ("cpu", "both", "two", "TORCH_VERSION: expected a release such as 2.13.0, got 'two'"),
    ],
)
def test_what_cannot_be_had_is_named_in_one_line(
    python: Path, indexes: Path, choice: str, index: str, version: str, said: str
) -> None:
    result = install(python, choice, indexes / index, version)
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert line.startswith(f"make: {said}")
