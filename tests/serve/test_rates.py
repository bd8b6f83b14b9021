"""Rates of API keys, over processes that share them and over the messages of streams."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from torchship.serve.rates import shared_buckets

KEY = "a key of alice's".replace(" ", "-")
ONE = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}

TAKE = """
import sys, time
from pathlib import Path
from torchship.serve.rates import shared_buckets
bucket = shared_buckets(Path(sys.argv[1]), [(b"a", 0.5), (b"b", 1000)], lambda: 100.0)[1]
print("ready", flush=True)
sys.stdin.readline()
print(sum(not bucket.take() for _ in range(900)))
"""


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"alice:{KEY}:0.001\n")
    return path


def test_a_bucket_is_one_for_all_who_share_it(tmp_path: Path) -> None:
    now = 50.0
    keys = [(b"a", 2.0), (b"b", 0.5)]
    one, other = (shared_buckets(tmp_path, keys, lambda: now) for _ in range(2))
    assert [one[0].take(), other[0].take(), one[0].take()] == [0, 0, 0.5]
    assert [other[1].take(), one[1].take()] == [0, 2]
    elsewhere = shared_buckets(tmp_path, [(b"a", 3.0), (b"b", 0.5)], lambda: now)
    assert [bucket.take() for bucket in elsewhere] == [0, 0]
    now = 50.5
    assert [other[0].take(), one[0].take()] == [0, 0.5]


def test_processes_that_take_at_once_get_no_more_than_there_is(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TAKE, str(tmp_path)]
    takers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
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
with open(sys.argv[1], "r+b") as file:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit(7)
"""


def test_who_takes_has_the_bucket_to_itself(tmp_path: Path) -> None:
    def held() -> bool:
        (file,) = tmp_path.iterdir()
        return subprocess.run([sys.executable, "-c", TRY, str(file)]).returncode == 7

    seen: list[bool] = []

    def clock() -> float:  # which is read in the middle of it
        seen.append(held())
        return 1.0

    (bucket,) = shared_buckets(tmp_path, [(b"a", 5.0)], clock)
    assert bucket.take() == 0
    assert seen == [True]
    assert not held()


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
