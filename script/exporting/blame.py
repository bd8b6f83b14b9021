"""Whose fault an error is: the user's module, or this program."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torchship.script.errors import ExportError, TorchShipError
from torchship.script.exporting.eager import first_line

OURS = "torchship."
MODELS = "torchship.models."


@contextmanager
def blamed_on_the_module() -> Iterator[None]:
    """Explain in one line what torch or the user's code raises while a module is exported.

    Nobody knows all that a module can hold. An error that our own code raises is a fault of ours
    and goes on as it is; torch's C++ part raises RuntimeError wherever it is called from.

    Raises:
        ExportError: instead of an error that is not ours.
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
