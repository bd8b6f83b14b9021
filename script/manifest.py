"""The manifest: what an archive says of itself (docs/archive.md, "The manifest")."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from torchship.script.dtypes import BY_NAME
from torchship.script.errors import ArchiveError

FORMAT = 1
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"

Dimension = int | str | None


class Room(BaseModel):
    """Base of the manifest's models: immutable, and strict about fields it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TensorNode(Room):
    """A tensor leaf; a shape entry is a size, a symbol, or None for any size."""

    kind: Literal["tensor"] = "tensor"
    name: str
    dtype: Literal[tuple(BY_NAME)]  # type: ignore[valid-type]
    shape: tuple[Dimension, ...]


class ScalarNode(Room):
    """A Python number or string leaf."""

    kind: Literal["int", "float", "bool", "str"]
    name: str


class TupleNode(Room):
    """A tuple of fixed length; a NamedTuple if it has `fields`."""

    kind: Literal["tuple"] = "tuple"
    items: tuple[Node, ...]
    fields: tuple[str, ...] | None = None


class ListNode(Room):
    """A list: of fixed length (`items`), or of any length (`element`, its names hold `*`)."""

    kind: Literal["list"] = "list"
    items: tuple[Node, ...] | None = None
    element: Node | None = None


class DictNode(Room):
    """A dict with string keys: fixed ones (`keys`, `items`), or any (`element`)."""

    kind: Literal["dict"] = "dict"
    keys: tuple[str, ...] | None = None
    items: tuple[Node, ...] | None = None
    element: Node | None = None


class OptionalNode(Room):
    """A value that is None when none of its leaves is given."""

    kind: Literal["optional"] = "optional"
    item: Node


class NoneNode(Room):
    """A value that is always None."""

    kind: Literal["none"] = "none"


Leaf = TensorNode | ScalarNode
Node = Annotated[
    TensorNode | ScalarNode | TupleNode | ListNode | DictNode | OptionalNode | NoneNode,
    Field(discriminator="kind"),
]


class Argument(Room):
    """An argument of a method; without `required` the module's own default may be used."""

    name: str
    required: bool
    value: Node


class State(Room):
    """An output that feeds an input of the next step, and how that input starts."""

    input: str
    output: str
    start: Literal["zeros", "absent"]


class Tolerance(Room):
    """Agreement is `abs(a - b) <= atol + rtol * abs(b)`, b being the golden value."""

    atol: float = Field(ge=0, allow_inf_nan=False)
    rtol: float = Field(ge=0, allow_inf_nan=False)


class Method(Room):
    """A callable method: its named inputs and outputs, its state and its tolerances."""

    inputs: tuple[Argument, ...]
    outputs: Node
    state: tuple[State, ...] = ()
    tolerances: dict[str, Tolerance] = {}


class GoldenEntry(Room):
    """The name, method and number of steps of a golden case."""

    name: str
    method: str
    steps: int = Field(ge=1)


class Source(Room):
    """Where the eager module comes from: an importable factory and its keyword arguments."""

    factory: str
    kwargs: dict[str, JsonValue] = {}
    git_commit: str | None = None


class Manifest(Room):
    """Everything an archive says of itself; field meanings in docs/archive.md."""

    format: Literal[1] = 1
    name: str = Field(pattern=NAME_PATTERN)
    version: str = Field(pattern=NAME_PATTERN)
    description: str = ""
    source: Source
    torch: str
    mode: Literal["script", "trace"]
    parameters: int
    methods: dict[str, Method]
    golden: tuple[GoldenEntry, ...]
    labels: dict[str, tuple[str, ...]] = {}
    metrics: dict[str, float] = {}
    custom_ops: tuple[str, ...] = ()
    records: dict[str, str] = {}

    def to_json(self) -> bytes:
        """Return the manifest as UTF-8 JSON bytes."""
        return self.model_dump_json(indent=1, exclude_none=True).encode()


def parse_manifest(data: bytes) -> Manifest:
    """Parse a manifest record.

    Raises:
        ArchiveError: not JSON, a newer format number (refused before anything else is looked
            at), or a field that does not fit; the message names the field.
    """
    try:
        raw = json.loads(data)
    except ValueError as error:
        raise ArchiveError(f"the manifest is not JSON: {error}") from None
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
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArchiveError(f"the manifest's field '{where}' is wrong: {first['msg']}") from None
