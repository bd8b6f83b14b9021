"""Sends what a model prints to standard error under the model's name, apart from our output.

Code that calls a model marks its thread with the model's name (`by`). A program that calls
`install`, as our command line does, then gets what is printed meanwhile as lines `moba: text`; in
other programs prints go where Python sends them. This module does not need torch.
"""

from __future__ import annotations

import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from threading import get_ident
from typing import Any, TextIO, cast

# The modules that we script and load are what torch.jit is still for. A DeprecationWarning in torch
# 2.13, which Python hides; a FutureWarning in its successors.
TORCH_JIT_IS_DEPRECATED = re.compile(r".*torch\.jit\.\w+.* is deprecated")
LONGEST_LINE = 4096  # characters; a longer line is cut into several

Tell = Callable[[str, str], None]

# The model that each thread runs, None between calls. `Program.run` writes to it directly, because
# a context manager around every call of a model would cost more than the rest.
running: dict[int, str | None] = {}
unfinished: dict[int, tuple[str, str]] = {}  # by thread: a model, and its incomplete line
_tell: Tell | None = None  # None: `install` was not called


@contextmanager
def by(model: str) -> Iterator[None]:
    """Attribute what this thread prints during the block to the model."""
    thread = get_ident()
    outer = running.get(thread)
    running[thread] = model
    try:
        yield
    finally:
        end_line(thread)
        running[thread] = outer


def end_line(thread: int) -> None:
    """Emit the incomplete line of the thread's model, because its call ends."""
    if thread in unfinished:
        _emit_line(*unfinished.pop(thread))


def install(tell: Tell | None = None) -> None:
    """Send what models print, line by line, to `tell(model, line)` instead of standard output.

    Without `tell` they go to standard error as `model: line`. Control characters are escaped.
    Exceptions in `tell` are ignored, because a log that cannot be written must not make a model
    fail; for the same reason writing to `sys.stderr` no longer raises. C libraries that write to
    standard output reach standard error too: only our own code writes to standard output, whose
    descriptor is `sys.stdout.fileno()`, not 1. Call it at the start of a program, before other
    threads exist; a further call replaces `tell`.
    """
    global _tell
    first = _tell is None
    _tell = tell or _to_standard_error
    if first:
        _occupy_standard_descriptors()
        if sys.stderr is None:  # `print(..., file=None)` would write to standard output
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        sys.stderr = cast(TextIO, _Log(sys.stderr))
        sys.stdout = cast(TextIO, _Output(_own_output()))
        warnings.showwarning = _showing(warnings.showwarning)


def printed_by_script(text: str) -> None:
    """Handle TorchScript's prints: on the thread that runs the model, or on one of torch's own.

    Torch runs the branches of a `torch.jit.fork` on its own threads, where it is not known which
    call forked, only which models are running.
    """
    if _tell is None:
        with suppress(OSError, ValueError):
            print(text, end="")
        return
    some = " or ".join(sorted(set(filter(None, running.values())))) or "a model"
    _collect(running.get(get_ident()) or some, text)


def _occupy_standard_descriptors() -> None:
    """Open descriptors 0 to 2 to /dev/null where they are closed.

    Otherwise the next opened file would get one of them, and text for standard error would be
    written to it.
    """
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(opened, True)  # child processes expect the standard descriptors
    os.close(opened)


def _own_output() -> TextIO:
    """Return standard output on a new descriptor; descriptor 1 becomes standard error."""
    stream = sys.stdout
    if stream is None:
        return open(os.devnull, "w")
    try:
        if stream.fileno() != 1:
            return stream
    except (OSError, ValueError):  # an in-memory stream
        return stream
    assert isinstance(stream, io.TextIOWrapper)
    stream.flush()
    ours = io.TextIOWrapper(
        open(os.dup(1), "wb"),  # noqa: SIM115
        stream.encoding,
        stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
    os.dup2(2, 1)
    return ours


class _Log:
    """Standard error that ignores write errors: a full or closed log must not fail a request."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text; ignore errors."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream; ignore errors."""
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the stream."""
        return getattr(self._stream, name)


class _Output:
    """Standard output for our own code; on a thread that runs a model, the model's log."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write our own text to standard output, a model's text to its log."""
        model = running.get(get_ident())
        if model is None:
            return self._stream.write(text)
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        _collect(model, text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts one after the other."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the stream (on a model's thread: of standard error)."""
        return getattr(self._stream if running.get(get_ident()) is None else sys.stderr, name)


def _collect(model: str, text: str) -> None:
    """Emit the complete lines of a text; keep the rest until its line or the call ends."""
    thread = get_ident()
    author, incomplete = unfinished.pop(thread, (model, ""))
    if author != model:
        _emit_line(author, incomplete)
        incomplete = ""
    *lines, rest = (incomplete + text).split("\n")
    for line in lines:
        _emit_line(model, line)
    if len(rest) > LONGEST_LINE:
        whole = len(rest) - len(rest) % LONGEST_LINE
        _emit_line(model, rest[:whole])
        rest = rest[whole:]
    if rest:
        unfinished[thread] = (model, rest)


def _emit_line(model: str, line: str) -> None:
    """Emit one line, in pieces if it is very long."""
    assert _tell is not None
    thread = get_ident()
    outer = running.get(thread)
    running[thread] = None  # `tell` may print, which must not be attributed to the model
    try:
        for start in range(0, max(len(line), 1), LONGEST_LINE):
            with suppress(Exception):
                _tell(model, _printable(line[start : start + LONGEST_LINE]))
    finally:
        running[thread] = outer


def _printable(line: str) -> str:
    """Escape control and invisible characters, which could make a line look like another."""
    if line.isprintable():
        return line
    return "".join(
        c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in line
    )


def _to_standard_error(model: str, line: str) -> None:
    sys.stderr.write(f"{_printable(model)}: {line}\n")


def _showing(show: Callable[..., None]) -> Callable[..., None]:
    """Return a `warnings.showwarning` that sends a model's warnings to its log."""

    def tell(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        model = running.get(get_ident())
        if model is not None and TORCH_JIT_IS_DEPRECATED.match(str(message)):
            return
        if model is None or file is not None:
            show(message, category, filename, lineno, file, line)
        else:
            for text in f"warning: {message}".split("\n"):
                _emit_line(model, text)

    return tell
