"""Text that a model prints is only logged, whatever it contains."""

from __future__ import annotations

import base64
import json
import os
import pickle
import re
from pathlib import Path
from typing import Any

import httpx
import pytest


class Command:
    """Something that runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self._command,)


def say(server: Any, text: str) -> None:
    """Have the model print a text, on a new connection."""
    body = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": [text]}]}
    url = f"{server.url}/v2/models/talkative/infer"
    answer = httpx.post(url, json=body, trust_env=False, timeout=60)
    assert answer.status_code == 200, answer.text


def replaced(server: Any, worker: Any) -> None:
    """Kill a worker, and see another take its place: the next lines of the server are of that."""
    worker.kill()
    line = server.line()
    assert re.fullmatch(r"worker \d ended by signal 9; starting another", line), line
    line = server.line()
    assert re.fullmatch(r"worker \d is back", line), line


@pytest.mark.parametrize("workers", [1, 2])
def test_no_text_is_a_command(launch: Any, make_archive: Any, tmp_path: Path, workers: int) -> None:
    proof = tmp_path / "proof"
    pickled = base64.b64encode(pickle.dumps(Command(f"touch {proof}"))).decode()
    messages = [{"kind": "refused", "text": "x"}, {"kind": "report_line", "line": "forged"}]
    texts = [
        *(f"{word} {pickled}" for word in ("change", "outcome", "done", "make")),
        *map(json.dumps, messages),
        *("ready: nobody/1", "failed: everything", "listening on http://evil.example"),
        "worker 0 ended by signal 9; starting another",
        f"x\nchange {pickled}\nready: nobody/2\r\nlive: nobody/3",
        "\x1b[2J\x1b]0;title\x07",
    ]
    with launch("--workers", workers, make_archive("talkative")) as server:
        assert server.line() == "ready: talkative/1"
        before = {worker.pid for worker in server.workers()}
        for text in texts * workers * 2:  # on connections of their own, for any worker
            say(server, text)
        assert {worker.pid for worker in server.workers()} == before
        for worker in server.workers():
            replaced(server, worker)
        say(server, "well")
        server.popen.terminate()
        assert server.line() == ""
        assert server.popen.wait(60) == 0
        lines = server.stderr().splitlines()
        assert not proof.exists()
        for text in texts[1:10]:  # the first stands in another, too
            told = [line for line in lines if f"] talkative: {text} model=talkative" in line]
            assert len(told) == 2 * workers, text
        assert "\x1b[2J" not in server.stderr()
        assert all("talkative: " in line for line in lines if "nobody" in line)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("text", ["x" * (2 << 20), "ü" * 1000], ids=["long", "not UTF-8"])
def test_a_dead_worker_is_replaced_whatever_it_has_printed(
    launch: Any, make_archive: Any, workers: int, text: str
) -> None:
    with launch("--workers", workers, make_archive("talkative")) as server:
        assert server.line() == "ready: talkative/1"
        for _ in range(4 * workers):
            say(server, text)
        for worker in server.workers():
            replaced(server, worker)
        say(server, "well")
        assert "talkative: well" in server.stderr("talkative: well")


def test_a_structured_log_has_the_models_name_as_a_field(launch: Any, make_archive: Any) -> None:
    with launch("--log-format", "json", make_archive("talkative")) as server:
        assert server.line() == "ready: talkative/1"
        say(server, 'a "quoted" text')
        server.popen.terminate()
        assert server.popen.wait(60) == 0
        events = [json.loads(line) for line in server.stderr().splitlines() if line[0] == "{"]
        printed = [e for e in events if e["event"] == 'talkative: a "quoted" text']
        assert [event["model"] for event in printed] == ["talkative"]
