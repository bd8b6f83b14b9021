"""A server in a process of its own, for the length of a `with` block."""

from __future__ import annotations

import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from torchship.script.errors import TorchShipError
from torchship.serve.system.interpreter import command

START_SECONDS = 300  # to load and check the archives
STOP_SECONDS = 60
GRPC = ("--grpc-port", "0")
TAIL = 5  # lines of stderr in an error message


class StartError(TorchShipError):
    """The server process failed to become ready; the message says why."""

    code = "server_start"


@dataclass(frozen=True)
class Addresses:
    """Where a server listens: its base URL, and `grpc://HOST:PORT` if it listens for gRPC."""

    http: str
    grpc: str = ""


class LocalServer:
    """A server for one archive at a time, with both protocols.

    In a `with` block, whoever asks for the same archive gets the same process; outside of one, each
    gets a process of its own.
    """

    def __init__(self, trusted_keys: Path | None = None) -> None:
        self._trusted_keys = trusted_keys
        self._kept: ExitStack | None = None
        self._path: Path | None = None
        self._found: Addresses | StartError | None = None

    def __enter__(self) -> LocalServer:
        """Keep processes from now on."""
        self._kept = ExitStack()
        return self

    def __exit__(self, *error: object) -> None:
        """End the process that was kept."""
        if self._kept is not None:
            self._kept.close()
        self._kept = self._path = self._found = None

    @contextmanager
    def serving(self, path: Path) -> Iterator[Addresses]:
        """Have a server for an archive until the block ends.

        Raises:
            StartError: as `running_servers`.
        """
        if self._kept is None:
            with running_servers([path], self._trusted_keys, GRPC) as addresses:
                yield addresses
            return
        if path != self._path:
            self._kept.close()
            self._path = path
            try:
                server = running_servers([path], self._trusted_keys, GRPC)
                self._found = self._kept.enter_context(server)
            except StartError as error:
                self._found = error
        if isinstance(self._found, StartError):
            raise self._found
        assert self._found is not None
        yield self._found


@contextmanager
def running_server(
    paths: Sequence[Path], trusted_keys: Path | None = None, options: Sequence[str] = ()
) -> Iterator[str]:
    """Run `torchship serve` on a free port until the block ends; yield its base URL when ready.

    `options` are further arguments of its command line.

    Raises:
        StartError: an archive was refused, or the process ended or did not become ready.
    """
    with running_servers(paths, trusted_keys, options) as addresses:
        yield addresses.http


@contextmanager
def running_servers(
    paths: Sequence[Path], trusted_keys: Path | None = None, options: Sequence[str] = ()
) -> Iterator[Addresses]:
    """Do as `running_server`, and yield both addresses."""
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


def _wait_until_ready(process: subprocess.Popen[str], errors: IO[str]) -> Addresses:
    assert process.stdout is not None
    # The reader below ends with the process's output, so killing the process also ends the wait.
    watchdog = threading.Timer(START_SECONDS, process.kill)
    watchdog.start()
    try:
        urls = []
        for line in process.stdout:
            kind, _, rest = line.rstrip("\n").partition(" ")
            if kind == "listening":
                urls.append(rest.removeprefix("on "))
            elif kind == "ready:":
                return Addresses(*urls)
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
