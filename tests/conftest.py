"""Fixtures of all tests."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import hypothesis
import pytest
import torch

from torchship.models import data
from torchship.script.exporting.export import export
from torchship.script.exporting.target import find_target

ROOT = Path(__file__).resolve().parent.parent

# Files that take a minute or more. They are begun first: begun last, they would run alone.
LONG_FILES = (
    "test_docs.py",
    "parity/test_agreement.py",
    "parity/test_demo.py",
    "deploy/test_image.py",
    "native/test_whole_models.py",
    "serve/ray/test_cluster.py",
    "faults/test_files.py",
    "foreign/test_sample.py",
    "parity/test_play.py",
    "faults/test_workers.py",
    "serve/sequences/test_sequences.py",
    "parity/test_mutants.py",
    "script/runtime/test_operators.py",
    "native/test_elementary_kernels.py",
    "parity/test_printing.py",
    "ui/test_docs.py",
    "parity/test_native_runner.py",
    "ui/test_site_page.py",
    "native/test_architectures.py",
    "native/test_compile.py",
    "test_install_torch.py",
)

# How long an example takes on a busy machine is not what a test is about.
hypothesis.settings.register_profile(
    "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("patient")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> data.Digits:
    """Return the real test digits of MNIST."""
    if not os.environ.get("TORCHSHIP_DATA"):
        pytest.skip("TORCHSHIP_DATA is not set: no MNIST to test on")
    return data.mnist("test")


@pytest.fixture(scope="session")
def model_archive(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that exports one of our models, once for all processes of this session."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "models"
    folder.mkdir(exist_ok=True)

    def archive(name: str) -> Path:
        path = folder / f"{name}.pt"
        with (folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                export(find_target(name, None, {}), path)
        return path

    return archive


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return our wheel, built once for all processes of this session, where `make` has built."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "wheel"
    folder.mkdir(exist_ok=True)
    with (folder.parent / "wheel.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not list(folder.iterdir()):
            command = [
                *(sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--no-index"),
                *("--no-build-isolation", "--disable-pip-version-check"),
                *("--wheel-dir", str(folder)),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
        [path] = folder.iterdir()
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take long first; `make` has xdist keep the order."""
    place = {ROOT / "tests" / name: number for number, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI nothing skips: what cannot run there is a failure."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
    return report
