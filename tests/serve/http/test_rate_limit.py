"""Rates of API keys, over processes that share them and over the messages of streams."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from torchship.serve.service.rate_limit import SLOTS, TABLE_BYTES, RateTable
from torchship.serve.system.shared_memory import shared_file

KEY = "a key of alice's".replace(" ", "-")
ONE = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}

TAKE = """
import sys
from torchship.serve.service.rate_limit import RateTable
bucket = RateTable(int(sys.argv[1])).bucket(1, 1000, lambda: 100.0)
print("ready", flush=True)
sys.stdin.readline()
print(sum(not bucket.take() for _ in range(900)))
"""


@pytest.fixture
def table() -> Iterator[int]:
    descriptor = shared_file(TABLE_BYTES)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"alice:{KEY}:0.001\n")
    return path


def test_processes_that_share_a_bucket_share_its_tokens(table: int) -> None:
    now = 50.0
    rates = (2.0, 0.5)
    tables = RateTable(table), RateTable(table)
    one, other = (
        [table.bucket(slot, rate, lambda: now) for slot, rate in enumerate(rates)]
        for table in tables
    )
    assert [one[0].take(), other[0].take(), one[0].take()] == [0, 0, 0.5]
    assert [other[1].take(), one[1].take()] == [0, 2]
    elsewhere = tables[0].bucket(SLOTS - 1, 3.0, lambda: now)
    assert elsewhere.take() == 0
    now = 50.5
    assert [other[0].take(), one[0].take()] == [0, 0.5]


def test_processes_that_take_at_once_get_no_more_than_there_is(table: int) -> None:
    takers = [
        subprocess.Popen(
            [sys.executable, "-c", TAKE, str(table)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[table],
        )
        for _ in range(3)
    ]
    for taker in takers:
        assert taker.stdout is not None
        assert taker.stdout.readline() == "ready\n"
    for taker in takers:
        assert taker.stdin is not None
        taker.stdin.write("go\n")
        taker.stdin.flush()
    taken = [int(taker.communicate()[0]) for taker in takers]
    assert sum(taken) == 1000


TRY = """
import fcntl, sys
try:
    fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB, 16, 16 * int(sys.argv[2]))
except OSError:
    sys.exit(7)
"""


def test_taking_a_token_excludes_other_processes(table: int) -> None:
    def held(slot: int) -> bool:
        command = [sys.executable, "-c", TRY, str(table), str(slot)]
        return subprocess.run(command, pass_fds=[table]).returncode == 7

    seen: list[tuple[bool, bool]] = []

    def clock() -> float:  # which is read in the middle of it
        seen.append((held(5), held(6)))
        return 1.0

    bucket = RateTable(table).bucket(5, 5.0, clock)
    assert bucket.take() == 0
    assert seen == [(True, False)]
    assert not held(5)


def test_a_rate_is_one_over_all_workers(
    launch: Callable[..., Any], archives: dict[str, Path], keys: Path
) -> None:
    with launch("--workers", 2, "--api-keys", keys, archives["half"]) as server:
        assert server.line() == "ready: half/1"
        answers = [
            # On connections of their own, which come to either worker.
            httpx.get(f"{server.url}/v2", headers={"X-API-Key": KEY}, trust_env=False, timeout=60)
            for _ in range(10)
        ]
        assert [answer.status_code for answer in answers] == [200] + 9 * [429]


def test_a_message_of_a_stream_is_a_request(
    launch: Callable[..., Any], archives: dict[str, Path], tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"alice:{KEY}:3\nbob:{KEY}-too:1e9\n")
    with launch("--api-keys", keys, archives["memory"]) as server:
        assert server.line() == "ready: memory/1"
        url = f"{server.url.replace('http', 'ws', 1)}/v2/models/memory/stream"
        for key, over in ((KEY, True), (f"{KEY}-too", False)):
            with connect(url, proxy=None, additional_headers={"X-API-Key": key}) as socket:
                for _ in range(200):
                    socket.send(json.dumps(ONE))
                answers = [json.loads(socket.recv()) for _ in range(200)]
            errors = {answer["error"] for answer in answers if "error" in answer}
            assert errors == ({"API key 'alice' may make 3 requests a second"} if over else set())
