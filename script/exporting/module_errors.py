"""Turns errors of the user's module into ExportErrors, and leaves our own bugs as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torchship.script.errors import ExportError, TorchShipError
from torchship.script.exporting.eager import first_line

OURS = "torchship."
MODELS = "torchship.models."


@contextmanager
def as_export_errors() -> Iterator[None]:
    """Turn what torch or the user's code raises during an export into an ExportError.

    An error that our own code raises is a bug of ours and is not changed; a RuntimeError counts as
    torch's, whose C++ code raises it in the calling Python frame.

    Raises:
        ExportError: in place of an error that is not ours.
    """
    try:
        yield
    except TorchShipError:
        raise
    except Exception as error:
        if not isinstance(error, RuntimeError) and _is_raised_by_us(error):
            raise
        raise ExportError(
            f"the module cannot become an archive: {type(error).__name__}: {first_line(error)}"
        ) from error


def _is_raised_by_us(error: Exception) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    name = str(trace.tb_frame.f_globals.get("__name__")) if trace else ""
    return name.startswith(OURS) and not name.startswith(MODELS)
