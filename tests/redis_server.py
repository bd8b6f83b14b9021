"""A real Redis for the length of a `with`."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def running_redis() -> Iterator[str]:
    """Run `redis-server` on a socket in a folder of its own, without persistence; yield its URL."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("redis-server is not installed")  # in CI that is a failure
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "redis.sock"
        command = [binary, "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", folder]
        process = subprocess.Popen(
            [*command, "--appendonly", "no"], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if "ready to accept connections" in line.lower():
                    break
            else:
                raise AssertionError("redis-server did not start")
            yield f"unix://{path}"
        finally:
            process.terminate()
            process.stdout.close()
            process.wait()
