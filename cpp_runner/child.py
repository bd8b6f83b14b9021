"""A `torchship-runner` process that is talked to in JSON lines."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from types import TracebackType
from typing import Any

import orjson

from torchship.cpp_runner.binary import runner_path
from torchship.script.errors import UsageError

PATIENCE = 10  # seconds until a binary that does not end by itself is killed


class Child:
    """The binary with some arguments; use it in a `with`, which ends it.

    Not thread-safe.
    """

    def __init__(self, command: str, *arguments: str) -> None:
        """Start `torchship-runner COMMAND ARGUMENTS...`.

        Raises:
            UsageError: the binary is not installed.
        """
        try:
            runner = str(runner_path())
        except FileNotFoundError as error:
            raise UsageError(str(error)) from None
        self._command = command
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [runner, command, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout

    def __enter__(self) -> Child:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the binary: it ends by itself when its input does, or nobody reads its output."""
        self._end()
        self._said.close()

    def _write(self, line: bytes) -> None:
        """Send a line, which ends with a new line."""
        with contextlib.suppress(BrokenPipeError):  # `_read` says why
            self._in.write(line)
            self._in.flush()

    def _read(self) -> dict[str, Any]:
        """Return the next line of its output.

        Raises:
            UsageError: the binary ended; with its message.
        """
        answer = self._out.readline()
        if not answer:
            raise UsageError(f"torchship-runner {self._command} {self._last_words()}")
        values: dict[str, Any] = orjson.loads(answer)
        return values

    def _last_words(self) -> str:
        code = self._end()
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return f"ended with exit code {code}: {lines[-1] if lines else 'it said nothing'}"

    def _end(self) -> int:
        with contextlib.suppress(BrokenPipeError):
            self._in.close()
        self._out.close()
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
