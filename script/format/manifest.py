"""The manifest of an archive (docs/archive.md, "The manifest")."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import Field, JsonValue, ValidationError, model_validator

from torchship.script.errors import ArchiveError
from torchship.script.format.nodes import MAX_INT, Node, Room, TensorNode, leaves, omissible, unique

FORMAT = 1
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
OPERATOR_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*::[A-Za-z_][A-Za-z0-9_]*$"

Finite = Annotated[float, Field(allow_inf_nan=False)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
MAX_DEPTH = 100


class Argument(Room):
    """An argument of a method; if not `required`, the module has a default for it."""

    name: str
    required: bool
    value: Node


class State(Room):
    """An output that feeds an input of the next step, and how that input starts."""

    input: str
    output: str
    start: Literal["zeros", "absent"]


class Tolerance(Room):
    """Agreement means `abs(a - b) <= atol + rtol * abs(b)`, where b is the golden value."""

    atol: float = Field(ge=0, allow_inf_nan=False)
    rtol: float = Field(ge=0, allow_inf_nan=False)


class Method(Room):
    """A callable method: its named inputs and outputs, its state and its tolerances."""

    inputs: tuple[Argument, ...]
    outputs: Node
    state: tuple[State, ...] = ()
    tolerances: dict[str, Tolerance] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _parts_fit(self) -> Method:
        check_method(self)
        return self


class GoldenEntry(Room):
    """The name, method and number of steps of a golden case."""

    name: str
    method: str
    steps: int = Field(ge=1, le=MAX_INT)


class Source(Room):
    """Where the eager module comes from: an importable factory and its keyword arguments."""

    factory: str
    kwargs: dict[str, JsonValue] = Field(default_factory=dict)
    git_commit: str | None = None
    compiled: tuple[str, ...] | None = None
    """Submodules that the factory returned compiled, by dotted name; "" is the module itself."""


class CustomOperator(Room):
    """An operator that torch does not have, and the plain name of its library (never a path)."""

    name: str = Field(pattern=OPERATOR_PATTERN, max_length=200)
    library: str = Field(pattern=NAME_PATTERN, max_length=100)


class Manifest(Room):
    """The manifest; docs/archive.md explains its fields."""

    format: Literal[1] = 1
    name: str = Field(pattern=NAME_PATTERN)
    version: str = Field(pattern=NAME_PATTERN)
    description: str = ""
    source: Source
    torch: str
    mode: Literal["script", "trace"]
    parameters: int = Field(ge=0, le=MAX_INT)
    methods: dict[str, Method] = Field(min_length=1)
    golden: tuple[GoldenEntry, ...]
    labels: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    metrics: dict[str, Finite] = Field(default_factory=dict)
    custom_ops: tuple[CustomOperator, ...] = ()
    records: dict[str, Digest] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _parts_fit(self) -> Manifest:
        for case in self.golden:
            if case.method not in self.methods:
                raise ValueError(
                    f"golden case '{case.name}' is of an unknown method '{case.method}'"
                )
        outputs = {leaf.name for method in self.methods.values() for leaf in leaves(method.outputs)}
        for name in self.labels:
            if name not in outputs:
                raise ValueError(f"labels for '{name}', which is no output")
        unique([operator.name for operator in self.custom_ops], "custom operator")
        return self

    def to_json(self) -> bytes:
        """Return the manifest as UTF-8 JSON bytes."""
        return self.model_dump_json(indent=1, exclude_none=True).encode()


def check_method(method: Method) -> None:
    """Check that a method's names, tolerances and state fit together.

    Raises:
        ValueError: they do not; the message says what.
    """
    unique([argument.name for argument in method.inputs], "argument")
    inputs = {leaf.name: leaf for arg in method.inputs for leaf in leaves(arg.value)}
    unique([leaf.name for arg in method.inputs for leaf in leaves(arg.value)], "input")
    outputs = {leaf.name: leaf for leaf in leaves(method.outputs)}
    unique([leaf.name for leaf in leaves(method.outputs)], "output")
    if not outputs or not all(isinstance(leaf, TensorNode) for leaf in outputs.values()):
        raise ValueError("the outputs are not all tensors: expected tensors only")
    if set(method.tolerances) != set(outputs):
        raise ValueError(
            f"tolerances for {sorted(method.tolerances)}: expected one for each of {list(outputs)}"
        )
    unique([state.input for state in method.state], "state input")
    free = {leaf.name for arg in method.inputs for leaf in omissible(arg.value, arg.required)}
    for state in method.state:
        source, result = inputs.get(state.input), outputs.get(state.output)
        if not isinstance(source, TensorNode) or "*" in state.input:
            raise ValueError(f"state names '{state.input}', which is no tensor input")
        if not isinstance(result, TensorNode) or "*" in state.output:
            raise ValueError(f"state names '{state.output}', which is no tensor output")
        if (source.dtype, len(source.shape)) != (result.dtype, len(result.shape)):
            raise ValueError(f"state output '{state.output}' does not fit input '{state.input}'")
        if state.start == "absent" and state.input not in free:
            raise ValueError(f"state '{state.input}' starts absent, and may not be left out")
        if state.start == "zeros" and None in source.shape:
            raise ValueError(f"state '{state.input}' starts at zeros of no known size")


def _no_doubles(pairs: list[tuple[str, object]]) -> dict[str, object]:
    unique([key for key, _ in pairs], "field")
    return dict(pairs)


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")


def _depth(value: object) -> int:
    """Return the nesting depth of a document, without recursion."""
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return depth


def parse_manifest(data: bytes) -> Manifest:
    """Parse a manifest record.

    Raises:
        ArchiveError: not JSON, a newer format number (checked before anything else), or an
            invalid field, which the message names.
    """
    try:
        raw = json.loads(data.decode(), object_pairs_hook=_no_doubles, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"the manifest is not JSON: {error}") from None
    if _depth(raw) > MAX_DEPTH:
        raise ArchiveError(f"the manifest is nested deeper than {MAX_DEPTH} levels")
    number = raw.get("format") if isinstance(raw, dict) else None
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ArchiveError(f"the manifest has no format number: expected 1, got {number!r}")
    if number > FORMAT:
        raise ArchiveError(
            f"the archive has format {number}, and this TorchShip reads formats up to {FORMAT}: "
            "update TorchShip, or export the model again"
        )
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise ArchiveError(f"the manifest is wrong: {field_error(error)}") from None


def field_error(error: ValidationError) -> str:
    """Return the first error of a validation on one line: the field, and what is wrong."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    what = first["msg"].removeprefix("Value error, ")
    return f"field '{where}': {what}" if where else what
