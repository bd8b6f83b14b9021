"""Servers of stores in each mode, with signatures, and those that cannot start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from object_store import BUCKET, ObjectStore
from served import make
from stored import ADDRESS, POLL, archive_bytes, is_live, shifted
from torchship.script.format.signing import make_key, sign


def test_explicit_mode_loads_what_the_store_has_now(
    launch: Any, s3: ObjectStore, tmp_path: Path
) -> None:
    s3.put("models/memory/1/model.pt", archive_bytes(tmp_path, 0))
    said = (
        "--mode",
        "explicit",
        "--workers",
        2,
        "--state",
        "none",
        "--store-cache",
        tmp_path / "cache",
    )
    with launch(*said, ADDRESS, environment=s3.environment) as server:
        assert server.line() == "ready: "
        s3.put("models/memory/2/model.pt", archive_bytes(tmp_path, 0, version="2"))
        url = f"{server.url}/v2/repository/models/memory/load"
        assert httpx.post(url, trust_env=False, timeout=60).status_code == 200
        names = {server.line() for _ in range(4)}
        assert names == {
            f"worker {worker}: live: memory/{version}" for worker in (0, 1) for version in (1, 2)
        }
        assert len(s3.downloads()) == 2, "once for both workers"


KEYS = ("--workers", 2, "--state", "none")


def test_a_signature_that_comes_later_is_waited_for(
    launch: Any, s3: ObjectStore, tmp_path: Path
) -> None:
    make_key(tmp_path / "private.pem", tmp_path / "public.pem")

    def signed(number: int) -> tuple[bytes, bytes]:
        path = make(tmp_path, "memory", edit=shifted(number))
        return path.read_bytes(), sign(path, tmp_path / "private.pem").read_bytes()

    (first, first_signature), (second, second_signature) = signed(0), signed(1)
    s3.put("models/memory.pt", first)
    said = (*POLL, *KEYS, "--trusted-keys", tmp_path / "public.pem", "--store-cache", tmp_path)
    with launch(*said, ADDRESS, environment=s3.environment) as server:
        lines = [server.line()]
        assert lines[0] == (
            f"failed: {ADDRESS}/memory.pt: '{ADDRESS}/memory.pt' is not signed: expected a "
            "signature in 'memory.pt.sig'"
        )
        s3.put("models/memory.pt.sig", first_signature)
        live = {f"worker {number}: live: memory/1" for number in (0, 1)}
        assert {server.line(), server.line()} == live
        s3.put("models/memory.pt", second)
        assert "memory.pt is not complete yet" in server.stderr("memory.pt is not complete yet")
        worker = server.workers()[0]
        os.kill(worker.pid, signal.SIGKILL)
        lines = [server.line(), server.line()]
        assert "starting another" in lines[0]
        assert lines[1].endswith("is back")
        assert {is_live(server) for _ in range(12)} == {True}, "the new worker has the old archive"
        s3.put("models/memory.pt.sig", second_signature)
        assert {server.line(), server.line()} == live
    archives = [line for line in s3.downloads() if line.endswith("memory.pt")]
    assert len(archives) == 2, "each once, for both workers"


@pytest.mark.parametrize(
    ("address", "fault", "message"),
    [
        ("s3://no-such-bucket/models", "", "s3://no-such-bucket/models: it is not there: The spec"),
        (ADDRESS, "403 Forbidden", f"{ADDRESS}: Forbidden"),
        (ADDRESS, "hold", f"{ADDRESS}: nothing came for 1 s"),
        (f"{ADDRESS}/none.pt", "", f"{ADDRESS}/none.pt is not there"),
    ],
)
def test_a_store_that_cannot_be_read_ends_the_start(
    s3: ObjectStore, tmp_path: Path, address: str, fault: str, message: str
) -> None:
    if fault == "hold":
        s3.hold(lambda environ: "hold")
    else:
        s3.fault = lambda environ: fault
    seconds = "1" if fault == "hold" else "30"
    command = [sys.executable, "-m", "torchship", "serve", "--port", "0"]
    command += ["--store-seconds", seconds]
    done = subprocess.run(
        [*command, "--store-cache", tmp_path, address],
        env=s3.environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("torchship: error:")]
    assert message in line
    assert "Traceback" not in done.stderr
    assert str(tmp_path) not in line


def test_the_secrets_of_an_address_are_shown_nowhere(s3: ObjectStore, tmp_path: Path) -> None:
    url = s3.environment["AWS_ENDPOINT_URL"].replace("//", "//user:word@")
    address = f"{url}/{BUCKET}/none.pt?X-Amz-Signature=0123abcd"
    command = [sys.executable, "-m", "torchship", "serve", "--port", "0", "--log-level", "debug"]
    shown = [*command, "--show-config", "--json"]
    for said in (command, shown):
        done = subprocess.run(
            [*said, "--store-cache", tmp_path, address],
            env=s3.environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        for secret in ("word", "0123abcd"):
            assert secret not in done.stdout + done.stderr
        assert "/none.pt?***" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("supervisor", "torch fsspec s3fs aiohttp boto3 huggingface_hub pooch"),
        ("store_mirrors", "torch fsspec s3fs aiohttp boto3 huggingface_hub"),
    ],
)
def test_libraries_are_loaded_only_where_they_are_needed(module: str, heavy: str) -> None:
    program = (
        f"import sys, torchship.serve.process.{module}\n"
        f"print(*[name for name in {heavy.split()} if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "\n"
