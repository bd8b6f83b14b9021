"""Fixtures of all tests."""

from __future__ import annotations

import os
from collections.abc import Generator

import hypothesis
import pytest
import torch

from torchship.models import data

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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI nothing skips: what cannot run there is a failure."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
    return report
