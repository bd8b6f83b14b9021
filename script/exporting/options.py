"""The options of an export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torchship.script.errors import ExportError
from torchship.script.exporting.target import Target
from torchship.script.runtime.torchscript import Mode


@dataclass(frozen=True)
class Options:
    """The options of an export; see `torchship script --help`."""

    name: str | None = None
    version: str = "1"
    description: str | None = None
    mode: Mode = "script"
    allow_trace_warnings: bool = False
    eval_mode: bool = False
    fixed: bool = False
    dims: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    state: Sequence[tuple[str, str, str | None]] = ()
    libraries: Mapping[str, str] = field(default_factory=dict)
    """The library of each namespace of custom operators."""


def with_options(target: Target, options: Options) -> Target:
    """Return the target with the options applied to the methods that they fit."""
    arguments = {
        name: {argument for steps in examples for step in steps for argument in step}
        for name, examples in target.examples.items()
    }
    state: dict[str, list[tuple[str, str, str | None]]] = {}
    for entry in options.state:
        _argument_of(entry[0], arguments, "state names the input")
        for name, known in arguments.items():
            if entry[0].partition(".")[0] in known:
                state.setdefault(name, []).append(entry)
    for place in options.dims:
        _argument_of(place, arguments, "a dimension is named of the input")
    for name in options.outputs:
        if name not in arguments:
            raise ExportError(f"outputs are named of '{name}': the examples have {list(arguments)}")
    return replace(
        target,
        state={**target.state, **state},
        outputs={**target.outputs, **options.outputs},
        dims={**target.dims, **options.dims},
    )


def _argument_of(place: str, arguments: Mapping[str, set[str]], what: str) -> None:
    known = sorted(set().union(*arguments.values()))
    if place.partition(".")[0] not in known:
        raise ExportError(f"{what} '{place}', which no example gives: they give {', '.join(known)}")
