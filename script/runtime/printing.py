"""What a model prints goes to standard error, by the model's name, and never among our output.

Whoever calls a model says so here, for the thread that calls it. A program that calls `install`,
as our command line does, then sees what is printed meanwhile as lines `moba: text`; in any other
program prints go where Python sends them. Nothing here needs torch.
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

# What each thread runs, None between calls. `Program.run` writes to it by itself: a function around
# every call of a model would cost more than the rest.
running: dict[int, str | None] = {}
unfinished: dict[int, tuple[str, str]] = {}  # thread -> a model, and the line that it has begun
_tell: Tell | None = None  # None: `install` was not called


@contextmanager
def by(model: str) -> Iterator[None]:
    """Say that what this thread prints for the length of a `with` is the model's."""
    thread = get_ident()
    outer = running.get(thread)
    running[thread] = model
    try:
        yield
    finally:
        end_line(thread)
        running[thread] = outer


def end_line(thread: int) -> None:
    """Tell the line that the thread's model has begun, for its call ends."""
    if thread in unfinished:
        _tell_line(*unfinished.pop(thread))


def install(tell: Tell | None = None) -> None:
    """Send what models print, line by line, to `tell(model, line)` instead of standard output.

    Without `tell` they go to standard error as `model: line`. Lines hold no control characters;
    what `tell` raises is ignored, since a log that cannot be written is no reason for a model to
    fail. For the same reason writing to `sys.stderr` no longer raises. Libraries in C that write to
    standard output reach standard error, too: our output is ours alone, and its descriptor is
    `sys.stdout.fileno()`, not 1. To be called when a program starts, before there are other
    threads; when it is called again, it changes `tell`.
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
    """Take what TorchScript prints: on the thread that runs the model, or on one of torch's own.

    Torch runs the branches of a `torch.jit.fork` on threads of its own. Which call has forked is
    not known there, only which models run.
    """
    if _tell is None:
        with suppress(OSError, ValueError):
            print(text, end="")
        return
    some = " or ".join(sorted(set(filter(None, running.values())))) or "a model"
    _take(running.get(get_ident()) or some, text)


def _occupy_standard_descriptors() -> None:
    """Give descriptors 0 to 2 to nothing where they are closed.

    The next file to be opened would get one of them, and what is meant for standard error would be
    written into it.
    """
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(opened, True)  # as every process that is started expects
    os.close(opened)


def _own_output() -> TextIO:
    """Return standard output for our own use; its descriptor, 1, becomes standard error's."""
    stream = sys.stdout
    if stream is None:
        return open(os.devnull, "w")
    try:
        if stream.fileno() != 1:
            return stream
    except (OSError, ValueError):  # it is in memory
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
    """Standard error, which fails nobody: that it is full or closed is no reason not to answer."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what can be written."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what can be written of what waits."""
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        """Return what the stream has."""
        return getattr(self._stream, name)


class _Output:
    """Standard output, except for whoever runs a model."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write our own text, or take a model's."""
        model = running.get(get_ident())
        if model is None:
            return self._stream.write(text)
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        _take(model, text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts one after the other."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        """Return what the stream has; for a model (`buffer`, `fileno`), what standard error has."""
        return getattr(self._stream if running.get(get_ident()) is None else sys.stderr, name)


def _take(model: str, text: str) -> None:
    """Tell the lines that a text ends; keep the rest until its line ends, or the call."""
    thread = get_ident()
    author, begun = unfinished.pop(thread, (model, ""))
    if author != model:
        _tell_line(author, begun)
        begun = ""
    *lines, rest = (begun + text).split("\n")
    for line in lines:
        _tell_line(model, line)
    if len(rest) > LONGEST_LINE:
        whole = len(rest) - len(rest) % LONGEST_LINE
        _tell_line(model, rest[:whole])
        rest = rest[whole:]
    if rest:
        unfinished[thread] = (model, rest)


def _tell_line(model: str, line: str) -> None:
    """Tell one line, in pieces if it is very long."""
    assert _tell is not None
    thread = get_ident()
    outer = running.get(thread)
    running[thread] = None  # `tell` may print, and that is not the model's
    try:
        for start in range(0, max(len(line), 1), LONGEST_LINE):
            with suppress(Exception):
                _tell(model, _printable(line[start : start + LONGEST_LINE]))
    finally:
        running[thread] = outer


def _printable(line: str) -> str:
    """Escape what moves a cursor, ends a line or hides: a line shall look like what it is."""
    if line.isprintable():
        return line
    return "".join(
        c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in line
    )


def _to_standard_error(model: str, line: str) -> None:
    sys.stderr.write(f"{_printable(model)}: {line}\n")


def _showing(show: Callable[..., None]) -> Callable[..., None]:
    """Return a `warnings.showwarning` that tells a model's warnings, and shows the others."""

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
                _tell_line(model, text)

    return tell
