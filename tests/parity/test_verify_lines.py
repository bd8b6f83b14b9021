"""`torchship verify --json-lines`: what a program reads while the runtimes run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from served import make
from torchship import agreement
from torchship.script.errors import TorchShipError
from torchship.script.runtime.archive import open_archive


def run(*arguments: str) -> tuple[int, list[dict[str, Any]]]:
    command = ["--json-lines", *arguments, "--runtime", "script"]
    done = CliRunner().invoke(agreement.app, command)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        assert isinstance(done.exception, TorchShipError)
    return done.exit_code, [json.loads(line) for line in done.stdout.splitlines()]


def test_a_wrong_output_is_in_its_line_and_the_verdict(tmp_path: Path) -> None:
    path = make(tmp_path, "memory", edit=lambda outputs: {k: v + 1 for k, v in outputs.items()})
    code, (begin, running, done, verdict) = run(str(path))
    assert code == 1
    assert (begin["name"], begin["golden_cases"], begin["runtimes"]) == ("memory", 1, ["script"])
    assert (running["runtime"], running["state"]) == ("script", "running")
    assert (done["runtime"], done["state"], done["agreed"]) == ("script", "done", False)
    assert {output["output"]: round(output["max_abs"], 3) for output in done["outputs"]} == {
        "h": 1.0,
        "y": 1.0,
    }
    assert all("values differ by up to 1" in output["reason"] for output in done["outputs"])
    assert (verdict["event"], verdict["agreed"]) == ("verdict", False)


@pytest.mark.parametrize("wrong", ["digest", "runtime", "certificate"])
def test_a_refusal_is_the_last_line(tmp_path: Path, wrong: str) -> None:
    path = make(tmp_path, "memory")
    digest = open_archive(path).digest
    arguments, message = {
        "digest": (("--sha256", "0" * 64), f"'memory-1.pt' has the SHA-256 {digest}: expected 000"),
        "runtime": (("--runtime", "abacus"), "--runtime 'abacus': expected one of eager, script"),
        "certificate": (("--certificate", "a.pem"), "--certificate is that of a server"),
    }[wrong]
    code, (only,) = run(str(path), *arguments)
    assert code != 0
    assert only["event"] == "error"
    assert only["error"].startswith(message)


def test_the_right_digest_is_accepted(tmp_path: Path) -> None:
    path = make(tmp_path, "memory")
    code, lines = run(str(path), "--sha256", open_archive(path).digest)
    assert (code, lines[-1]["agreed"]) == (0, True)
