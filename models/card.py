"""The card of a model: plain data and callables, all that other packages need to know of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

Step = dict[str, object]
"""The keyword arguments of one call."""

Example = list[Step]
"""One or more calls in a row. The first may leave out the state, which then starts as by default;
later ones leave it out, because it comes from the call before."""

NO_METRICS: Mapping[str, float] = {}


@dataclass(frozen=True)
class Card:
    """A model's name, source, factory, examples and signature hints.

    Flat names follow `docs/archive.md`: `hidden.0` is the first item of the argument `hidden`.
    """

    name: str
    """The name that `torchship script NAME` takes."""

    description: str
    """The model's task, in one line."""

    source: str
    """The talk, stream or paper that the model comes from."""

    factory: Callable[[], nn.Module]
    """Returns the module in eval mode with its weights; two calls return equal modules."""

    examples: Callable[[], dict[str, list[Example]]]
    """Method name -> examples; two calls return equal tensors."""

    dims: Mapping[str, str]
    """Flat input name + `.` + axis -> symbol: `{"x.0": "batch", "x.1": "time"}`."""

    outputs: Mapping[str, Sequence[str]]
    """Method name -> names of its top-level outputs, in order."""

    state: Mapping[str, Sequence[tuple[str, str, str]]] = field(default_factory=dict)
    """Method name -> (input, output that feeds it at the next step, "zeros" or "absent")."""

    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Output name -> names of the entries of its last axis."""

    metrics: Callable[[], Mapping[str, float]] = lambda: NO_METRICS
    """Metrics on the task's test data, from the JSON beside the weights."""
