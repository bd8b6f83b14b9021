"""The `torchship-runner` binary as a process: what it answers is data, the rest is for people."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from types import TracebackType
from typing import IO, Any

import orjson

from torchship.cpp_runner.binary import INSTALL, environment, runner_path
from torchship.script.errors import OutOfMemoryError, UsageError

PATIENCE = 10  # seconds until a binary that does not end by itself is killed
AGREED, MISMATCH, OUT_OF_MEMORY = 0, 1, 5
BY_THE_LOADER = (1, 126, 127)  # a library, or a version of one, is missing; no program of this CPU
OWN = "torchship-runner: "  # how the binary's own lines on standard error begin
LONGEST_LINE = 1 << 16  # characters of a line that are passed on at once


class _Complaints:
    """Reads the binary's standard error: what a model prints is passed on, the error kept."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._error = self._last = ""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def last(self) -> str:
        """Return the error, or else the last line, once the binary has ended."""
        self._thread.join(PATIENCE)
        return self._error or self._last or "it said nothing"

    def _read(self) -> None:
        with self._stream:
            while line := self._stream.readline(LONGEST_LINE).decode(errors="backslashreplace"):
                if line.startswith(f"{OWN}error: "):
                    self._error = line.rstrip("\n")
                elif not line.startswith(OWN):
                    self._last = line.rstrip("\n")
                    with contextlib.suppress(OSError, ValueError):
                        sys.stderr.write(line)


def ask(command: str, *arguments: str, stdin: bytes = b"") -> bytes:
    """Run `torchship-runner COMMAND ARGUMENTS...` to its end, and return its standard output.

    Raises:
        UsageError: the binary is not installed, or refuses; with its message.
        OutOfMemoryError: it ran out of memory.
    """
    with _started(command, *arguments) as process:
        assert process.stderr is not None
        complaints = _Complaints(process.stderr)
        process.stderr = None  # `communicate` would read it too
        output, _ = process.communicate(stdin)
    # The loader too exits with 1, when a library has not the version that is needed.
    if process.returncode not in (AGREED, MISMATCH) or (process.returncode and not output):
        raise _ended(command, process.returncode, complaints.last())
    return output


def _ended(command: str, code: int, said: str) -> UsageError | OutOfMemoryError:
    """Return the error of a binary that gave no answer; whether it ran at all is told apart."""
    if code < 0:
        return UsageError(f"torchship-runner {command} was ended by {_signal(-code)}: {said}")
    if code == OUT_OF_MEMORY:
        return OutOfMemoryError(f"torchship-runner {command} ended with exit code {code}: {said}")
    if code in BY_THE_LOADER and not said.startswith(OWN):
        return UsageError(
            f"the C++ runner cannot start: {said}. It needs the torch that it was built with: "
            f"{INSTALL}"
        )
    return UsageError(f"torchship-runner {command} ended with exit code {code}: {said}")


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def answer_of(command: str, line: bytes) -> dict[str, Any]:
    """Return the JSON object that the binary has answered.

    Raises:
        UsageError: it is no JSON object; with its beginning.
    """
    try:
        answer = orjson.loads(line)
    except orjson.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict):
        began = line[:80].decode(errors="backslashreplace").strip()
        raise UsageError(f"torchship-runner {command}: expected a JSON object, got {began!r}")
    return answer


def _started(command: str, *arguments: str) -> subprocess.Popen[bytes]:
    try:
        runner = runner_path()
    except FileNotFoundError as error:
        raise UsageError(str(error)) from None
    try:
        return subprocess.Popen(
            [str(runner), command, *arguments],
            env=environment(runner),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except OSError as error:
        raise UsageError(f"the C++ runner cannot start: {error}. {INSTALL}") from None


class Child:
    """The binary with some arguments, talked to in JSON lines; use it in a `with`, which ends it.

    Not thread-safe.
    """

    def __init__(self, command: str, *arguments: str) -> None:
        """Start `torchship-runner COMMAND ARGUMENTS...`.

        Raises:
            UsageError: the binary is not installed.
        """
        self._command = command
        self._process = _started(command, *arguments)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self._complaints = _Complaints(self._process.stderr)

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
        self._complaints.last()

    @property
    def exit_code(self) -> int | None:
        """The binary's exit code; None while it runs."""
        return self._process.poll()

    def write(self, line: bytes) -> None:
        """Send a line, which ends with a new line."""
        with contextlib.suppress(BrokenPipeError):  # `_read` says why
            self._in.write(line)
            self._in.flush()

    def _read(self) -> dict[str, Any]:
        """Return the next line of its output.

        Raises:
            UsageError: the binary ended, with its message; or what came is no JSON object.
            OutOfMemoryError: it ran out of memory.
        """
        line = self._out.readline()
        if not line:
            code = self._end()
            raise _ended(self._command, code, self._complaints.last())
        return answer_of(self._command, line)

    def _end(self) -> int:
        with contextlib.suppress(BrokenPipeError):
            self._in.close()
        self._out.close()
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
