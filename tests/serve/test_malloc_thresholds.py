"""A worker keeps the memory of a call's temporaries for the next call, unless its user objects.

The tests count the pages that the system maps: a temporary that malloc gave back to the system has
to be mapped again.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

import served
from torchship.serve.system.malloc_thresholds import set_by_user

WARM_UP, CALLS = 20, 40
MINFLT = 7  # place behind the name in /proc/PID/stat


@pytest.fixture
def pages_a_call(
    launch: Callable[..., Any], make_archive: Callable[..., Path]
) -> Callable[..., float]:
    """Return a function that starts a server and returns the pages that each call maps."""
    archive = make_archive("roomy")

    def measured(**variables: str) -> float:
        with launch(archive, environment=os.environ | variables) as server:
            assert server.line() == "ready: roomy/1"
            url = f"{server.url}/v2/models/roomy/infer"
            x = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}
            stat = Path(f"/proc/{server.worker().pid}/stat")

            def faults() -> int:
                return int(stat.read_text().rpartition(")")[2].split()[MINFLT])

            with httpx.Client(trust_env=False, timeout=60) as client:

                def call() -> None:
                    answer = client.post(url, json={"inputs": [x]}).json()
                    assert answer["outputs"][0]["data"] == [8.0]

                for _ in range(WARM_UP):
                    call()
                before = faults()
                for _ in range(CALLS):
                    call()
                return (faults() - before) / CALLS

    return measured


def test_the_temporaries_of_a_call_are_not_mapped_anew(pages_a_call: Callable[..., float]) -> None:
    assert pages_a_call() < served.TEMPORARY / mmap.PAGESIZE / 10


def test_what_the_user_set_stays(pages_a_call: Callable[..., float]) -> None:
    assert pages_a_call(MALLOC_TRIM_THRESHOLD_="131072") > served.TEMPORARY / mmap.PAGESIZE


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"MALLOC_ARENA_MAX": "2"}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}, False),
        ({"MALLOC_MMAP_THRESHOLD_": "131072"}, True),
        ({"MALLOC_TOP_PAD_": "0"}, True),
        ({"GLIBC_TUNABLES": "glibc.malloc.arena_max=2:glibc.malloc.mmap_max=9"}, True),
    ],
)
def test_the_user_is_heard_where_glibc_hears(
    environment: Mapping[str, str], expected: bool
) -> None:
    assert set_by_user(environment) is expected
