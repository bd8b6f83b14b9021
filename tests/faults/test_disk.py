"""Full disks: for temporary files, for the log, for everything."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

ROW = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own without a free byte; only root can have one."""
    folder = tmp_path / "full"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid():
        pytest.skip("a full file system needs mount, as root")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"a full file system could not be mounted: {done.stderr.strip()}")
    try:
        with pytest.raises(OSError), open(folder / "all", "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_under_the_temporary_files_stops_nothing(
    launch: Any, archives: dict[str, Path], full: Path, workers: int
) -> None:
    environment = {**os.environ, "TMPDIR": str(full), "HOME": str(full)}
    with launch("--workers", workers, archives["logarithm"], environment=environment) as server:
        assert server.line() == "ready: logarithm/1"
        processes = {worker.pid for worker in server.workers()}
        assert len(processes) == workers

        def ask(verb: str, path: str, **said: Any) -> httpx.Response:
            return httpx.request(verb, server.url + path, trust_env=False, timeout=60, **said)

        for size in range(1, 20):  # each size has figures of its own
            ones = {"name": "x", "datatype": "FP32", "shape": [size], "data": [1] * size}
            answer = ask("POST", "/v2/models/logarithm/infer", json={"inputs": [ones]})
            assert answer.status_code == 200
        assert "torchship_requests_total" in ask("GET", "/metrics").text
        assert {worker.pid for worker in server.workers()} == processes, "no worker has died"
        server.popen.send_signal(signal.SIGTERM)
        assert server.popen.wait(60) == 0


def test_a_full_disk_under_the_log_stops_nothing(archives: dict[str, Path], free_port: int) -> None:
    command = ["torchship", "serve", "--port", str(free_port), "--access-log", "all"]
    url = f"http://127.0.0.1:{free_port}"
    with (
        open("/dev/full", "w") as device,
        subprocess.Popen([*command, archives["logarithm"]], stdout=device, stderr=device) as popen,
    ):
        try:
            answer = None
            while answer is None or answer.status_code in (404, 503):
                try:
                    answer = httpx.post(
                        f"{url}/v2/models/logarithm/infer", json=ROW, trust_env=False, timeout=60
                    )
                except httpx.TransportError:
                    assert popen.poll() is None
            assert answer.status_code == 200
        finally:
            popen.send_signal(signal.SIGTERM)
            assert popen.wait(60) == 0
