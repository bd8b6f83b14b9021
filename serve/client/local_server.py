"""A server in a process of its own, for the length of a `with` block."""

from __future__ import annotations

import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from torchship.script.errors import TorchShipError
from torchship.serve.system.interpreter import command

START_SECONDS = 300  # to load and check the archives
STOP_SECONDS = 60
TAIL = 5  # lines of stderr in an error message


class StartError(TorchShipError):
    """The server process failed to become ready; the message says why."""

    code = "server_start"


@contextmanager
def running_server(
    paths: Sequence[Path], trusted_keys: Path | None = None, options: Sequence[str] = ()
) -> Iterator[str]:
    """Run `torchship serve` on a free port until the block ends; yield its base URL when ready.

    `options` are further arguments of its command line.

    Raises:
        StartError: an archive was refused, or the process ended or did not become ready.
    """
    server = command("torchship.__main__", "serve", "--port", "0", *options)
    if trusted_keys is not None:
        server += ["--trusted-keys", str(trusted_keys)]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [*server, "--", *map(str, paths)], stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            yield _wait_until_ready(process, errors)
        finally:
            stop(process)


def stop(process: subprocess.Popen[str]) -> None:
    """Terminate the process; kill it if it does not end in time."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _wait_until_ready(process: subprocess.Popen[str], errors: IO[str]) -> str:
    assert process.stdout is not None
    # The reader below ends with the process's output, so killing the process also ends the wait.
    watchdog = threading.Timer(START_SECONDS, process.kill)
    watchdog.start()
    try:
        url = ""
        for line in process.stdout:
            kind, _, rest = line.rstrip("\n").partition(" ")
            if kind == "listening":
                url = url or rest.removeprefix("on ")  # of HTTP; gRPC's comes after it
            elif kind == "ready:":
                return url
            elif kind == "failed:":
                process.terminate()
                failed = [rest, *(more.rstrip("\n") for more in process.stdout)]
                raise StartError("the server refused " + "; ".join(failed))
    finally:
        watchdog.cancel()
    code = process.wait()
    errors.seek(0)
    tail = "; ".join(line.strip() for line in errors.readlines()[-TAIL:])
    raise StartError(f"the server ended with exit code {code} before it was ready: {tail}")
