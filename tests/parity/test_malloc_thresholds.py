"""The runner keeps the memory of a call's temporaries for the next call, unless its user objects.

The tests count the pages that the system maps: a temporary that malloc gave back to the system has
to be mapped again.
"""

from __future__ import annotations

import json
import mmap
import os
import subprocess
from pathlib import Path

import pytest

import served
from torchship.cpp_runner.binary import environment, runner_path

FEW, MANY = 20, 60  # calls


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return served.make(tmp_path_factory.mktemp("a"), "roomy")


def page_faults(archive: Path, calls: int, **variables: str) -> int:
    """Return the minor page faults of a process that calls the model so often."""
    runner = runner_path()
    lines = "".join(f'{{"x": [[{number}]]}}\n' for number in range(calls))
    command = [str(runner), "run", str(archive), "--input", "-"]
    with subprocess.Popen(
        command,
        env=environment(runner) | variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(lines)
        process.stdin.close()
        answers = [json.loads(line) for line in process.stdout]
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    assert [answer["y"] for answer in answers] == [[[number + 7.0]] for number in range(calls)]
    return usage.ru_minflt


def pages_a_call(archive: Path, **variables: str) -> float:
    """Return the pages that each further call of a process maps."""
    more = page_faults(archive, MANY, **variables) - page_faults(archive, FEW, **variables)
    return more / (MANY - FEW)


def test_the_temporaries_of_a_call_are_not_mapped_anew(archive: Path) -> None:
    assert pages_a_call(archive) < served.TEMPORARY / mmap.PAGESIZE / 10


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MALLOC_TRIM_THRESHOLD_", "131072"),
        ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=131072"),
    ],
)
def test_what_the_user_set_stays(name: str, value: str, archive: Path) -> None:
    assert pages_a_call(archive, **{name: value}) > served.TEMPORARY / mmap.PAGESIZE
