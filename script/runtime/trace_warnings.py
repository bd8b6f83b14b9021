"""Warnings of torch's tracer: a trace keeps values of the example for every other input.

Such a trace is refused by default. If the lines are only assertions that hold for all inputs, the
user may allow the warnings: then golden cases of several sizes must agree, and the archive lists
the allowed warnings. They are in a record of their own because older readers would refuse a new
field of the manifest.
"""

from __future__ import annotations

import linecache
import os
import sys
import warnings
from collections.abc import Iterable, Sequence

import torch
from pydantic import TypeAdapter, ValidationError

from torchship.script.errors import ArchiveError, ExportError
from torchship.script.format.golden import Case
from torchship.script.format.manifest import Manifest, Method, field_error
from torchship.script.format.nodes import Room, TensorNode, leaves
from torchship.script.format.tree import Flat, matches
from torchship.script.runtime.fingerprint import fingerprint

SIZES = 3


class TraceWarning(Room):
    """A source line whose result for the example is constant in the trace."""

    file: str
    """Relative to the folder that Python imported it from."""
    line: int
    code: str
    """The source line."""
    message: str

    def __str__(self) -> str:
        """Return the warning on one line."""
        return f"{self.file}:{self.line} (`{self.code}`): {self.message}"


_RECORD = TypeAdapter(tuple[TraceWarning, ...])


def found_in(caught: Iterable[warnings.WarningMessage]) -> tuple[TraceWarning, ...]:
    """Return the tracer's warnings among others, each source line once."""
    found: dict[tuple[str, int, str], TraceWarning] = {}
    for warning in caught:
        if issubclass(warning.category, torch.jit.TracerWarning):  # type: ignore[attr-defined]
            what = str(warning.message).split(". ")[0].strip()
            one = TraceWarning(
                file=_below_import_folder(warning.filename),
                line=warning.lineno,
                code=linecache.getline(warning.filename, warning.lineno).strip(),
                message=f"{what[:1].lower()}{what[1:]}",
            )
            found.setdefault((warning.filename, warning.lineno, what), one)
    return tuple(found.values())


def _below_import_folder(file: str) -> str:
    """Return a file's path relative to its import folder."""
    folders = [os.path.join(os.path.abspath(folder), "") for folder in sys.path]
    above = max((folder for folder in folders if file.startswith(folder)), key=len, default="")
    return file[len(above) :] if above else os.path.basename(file)


def refuse(found: Sequence[TraceWarning]) -> None:
    """Refuse a trace with warnings.

    The golden cases would detect a lost branch only if one of them takes it.

    Raises:
        ExportError: there is a warning; the message names the first.
    """
    if not found:
        return
    first = found[0]
    rest = len(found) - 1
    others = f" and at {rest} other {'line' if rest == 1 else 'lines'}" if rest else ""
    raise ExportError(
        f"a trace of the module would not compute the same for other inputs: at "
        f"{first.file}:{first.line}, {first.message} (`{first.code}`){others}; script it (--mode "
        "script), or, if these lines only assert what holds for every input, pass over the "
        "warnings (--allow-trace-warnings)"
    )


def require_sizes(manifest: Manifest, cases: Sequence[Case]) -> None:
    """Refuse to allow warnings if the golden cases have too few sizes to detect an error.

    Raises:
        ExportError: a free dimension has too few sizes, or a method without one too few cases.
    """
    for name, method in manifest.methods.items():
        steps = [case.steps[0].inputs for case in cases if case.method == name]
        free = _sizes(method, steps)
        for dimension, sizes in free.items():
            if len(sizes) < SIZES:
                raise ExportError(
                    f"to pass over a trace's warnings golden cases at {SIZES} sizes of each free "
                    f"dimension are needed: {dimension} of {name} has the sizes "
                    f"{', '.join(map(str, sorted(sizes)))}; give examples with "
                    f"{SIZES - len(sizes)} more"
                )
        different = {str(fingerprint(dict(sorted(step.items())))) for step in steps}
        if len(different) < SIZES:
            raise ExportError(
                f"to pass over a trace's warnings {SIZES} golden cases of different inputs are "
                f"needed: {name} has no free dimension and {len(different)}; give "
                f"{SIZES - len(different)} more examples"
            )


def _sizes(method: Method, steps: Sequence[Flat]) -> dict[str, set[int]]:
    """Return each free dimension, as text, with its sizes in the inputs of the steps."""
    places: dict[str, str] = {}  # the first place of each symbol
    sizes: dict[str, set[int]] = {}
    for leaf in (leaf for argument in method.inputs for leaf in leaves(argument.value)):
        for axis, size in enumerate(leaf.shape if isinstance(leaf, TensorNode) else ()):
            if isinstance(size, int):
                continue
            place = f"axis {axis} of '{leaf.name}'"
            where = place if size is None else places.setdefault(size, f"'{size}' ({place})")
            found = sizes.setdefault(where, set())
            for inputs in steps:
                found |= {t.shape[axis] for name, t in inputs.items() if matches(leaf.name, name)}
    return sizes


def to_record(found: Sequence[TraceWarning]) -> bytes:
    """Return the bytes of the record: UTF-8 JSON, a list of objects."""
    return _RECORD.dump_json(tuple(found), indent=1)


def from_record(data: bytes) -> tuple[TraceWarning, ...]:
    """Read the record.

    Raises:
        ArchiveError: it is damaged.
    """
    try:
        return _RECORD.validate_json(data)
    except ValidationError as error:
        raise ArchiveError(f"the record of a trace's warnings: {field_error(error)}") from None
