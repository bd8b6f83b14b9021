"""Tests whether the rows of a batch are independent, without which a server must not batch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial

import torch

from torchship.script.errors import InputError, ModelError
from torchship.script.exporting.eager import same
from torchship.script.exporting.variations import flipped_switches, leaf_of, mixed_rows
from torchship.script.format.golden import Call
from torchship.script.format.manifest import Method
from torchship.script.format.nodes import ScalarNode, leaves
from torchship.script.format.tree import Flat
from torchship.script.runtime.batch import axes_of, axis_of, row_count, take_rows
from torchship.script.runtime.output_check import SignatureError

ROWS = 64
"""The largest batch that is tried: a server's default `max_batch`."""
NUDGES = 4  # perturbed runs of a row, to measure its sensitivity to rounding
AMPLIFIED = 16  # factor on that sensitivity, for the rounding of other kernels
FEW = (2, 3, 5, 17)  # further batch sizes that are tried
LONGEST = 300  # characters of a model's error
MOST_BYTES = 64 << 20  # limit for the inputs of one batch


class DependenceError(Exception):
    """Rows depend on each other; the message says how this was observed."""


class RowError(DependenceError):
    """A row of an example cannot run alone."""


class Rows:
    """Rows along one symbol of a method, with the outputs of each row alone."""

    def __init__(
        self, call: Call, name: str, method: Method, symbol: str, calls: Sequence[Flat], count: int
    ) -> None:
        """Run `count` rows one by one: those of the calls, and variations of them.

        Raises:
            DependenceError: a row of the first call cannot run alone, or an output's size depends
                on values.
        """
        self._call: Callable[[Flat], Flat] = partial(call, name)
        self._axes = axes_of((argument.value for argument in method.inputs), symbol)
        self._output_axes = axes_of([method.outputs], symbol)
        if not all(leaf.name in self._output_axes for leaf in leaves(method.outputs)):
            raise DependenceError(f"an output has no dimension '{symbol}'")
        rows = mixed_rows(self._axes, calls, count)
        given = row_count(calls[0], self._axes)
        alone: dict[int, Flat] = {}
        for row in range(count):
            try:
                alone[row] = self._call(take_rows(rows, self._axes, [row]))
            except SignatureError as error:
                raise DependenceError(f"a row alone breaks the signature: {error}") from None
            except (InputError, ModelError) as error:
                if row < given:
                    why = str(error)[:LONGEST]
                    raise RowError(f"a row alone fails: {why}") from None
        first = next(iter(alone.values()))
        for row, outputs in alone.items():
            if _shapes(outputs) != _shapes(first):
                raise DependenceError(f"the size of an output follows from the values of row {row}")
        places = [list(alone)[place % len(alone)] for place in range(count)]
        self.inputs = take_rows(rows, self._axes, places)
        """`count` rows, without those that the model rejects when they run alone."""
        self._alone = [alone[place] for place in places]
        self._sensitivity: dict[int, dict[str, float]] = {}

    @property
    def count(self) -> int:
        """The number of rows."""
        return len(self._alone)

    def first(self, size: int) -> Flat:
        """Return the inputs of the first `size` rows."""
        return take_rows(self.inputs, self._axes, range(size))

    def check_together(self, size: int, together: Flat) -> None:
        """Compare the outputs of the first `size` rows run together with those of each row alone.

        Differences by rounding are allowed, because kernels may depend on the number of rows.

        Raises:
            DependenceError: a row differs.
        """
        for name, output in together.items():
            axis = axis_of(name, self._output_axes) or 0
            alone = torch.cat([outputs[name] for outputs in self._alone[:size]], axis)
            if alone.shape != output.shape:
                raise DependenceError(
                    f"output '{name}' of {size} rows together has the shape {list(output.shape)}, "
                    f"and of the same rows alone {list(alone.shape)}"
                )
            distances = _beyond_rounding(output.movedim(axis, 0), alone.movedim(axis, 0))
            for row, distance in distances.items():
                if distance > AMPLIFIED * self._sensitivity_of(row)[name]:
                    raise DependenceError(
                        f"row {row} of output '{name}' is another among {size} rows than alone"
                    )

    def _sensitivity_of(self, row: int) -> dict[str, float]:
        """Return how far each output of a row moves if its inputs change by about a rounding error.

        With extreme values or close decisions, a model amplifies small changes.
        """
        if row not in self._sensitivity:
            generator = torch.Generator().manual_seed(row)
            given = take_rows(self.inputs, self._axes, [row])
            before, moved = self._alone[row], dict.fromkeys(self._alone[row], 0.0)
            for _ in range(NUDGES):
                nudged = {name: _nudged(value, generator) for name, value in given.items()}
                for name, output in self._call(nudged).items():
                    moved[name] = max(moved[name], float(_distance(output, before[name]).max()))
            self._sensitivity[row] = moved
        return self._sensitivity[row]

    def check_neighbours(self) -> None:
        """Replace every second row: the outputs of the other rows must be bit-identical.

        The shapes, and therefore the kernels, are the same.

        Raises:
            DependenceError: a row differs.
        """
        count = self.count
        together = self._call(self.inputs)
        for kept in (0, 1):
            rows = [place - (place % 2) + kept for place in range(count)]
            rows = [min(place, count - 1) for place in rows]
            others = self._call(take_rows(self.inputs, self._axes, rows))
            stay = list(range(kept, count, 2))
            before = take_rows(together, self._output_axes, stay)
            after = take_rows(others, self._output_axes, stay)
            if not all(same(before[name], after[name]) for name in before):
                raise DependenceError("a row depends on what stands beside it")


def largest_batch(size: int) -> int:
    """Return how many rows of `size` bytes each to try together."""
    return max(2, min(ROWS, MOST_BYTES // max(size, 1)))


def independent_rows(
    call: Call,
    name: str,
    method: Method,
    symbol: str,
    calls: Sequence[Flat],
    most: Callable[[int], int] = largest_batch,
) -> Rows | None:
    """Test that rows along `symbol` give the same outputs alone and in batches.

    Args:
        call: runs a method.
        name: the method.
        method: its signature.
        symbol: the dimension of the rows.
        calls: inputs of examples or golden cases.
        most: returns the largest batch to try, given the bytes of one row.

    Returns:
        The rows that were tried first; None if no call has rows.

    Raises:
        DependenceError: a row's outputs depend on the other rows, or on how many there are.
    """
    axes = axes_of((argument.value for argument in method.inputs), symbol)
    found = None
    for group in _groups(method, axes, calls):
        size = sum(tensor.nbytes for tensor in take_rows(group[0], axes, [0]).values())
        rows = Rows(call, name, method, symbol, group, most(size))
        _check(call, name, rows)
        found = found or rows
        for flipped in flipped_switches(method.inputs, group[0]):
            with suppress(RowError):  # a switch that the module rejects need not work
                _check(call, name, Rows(call, name, method, symbol, [flipped], most(size)))
    return found


def _check(call: Call, name: str, rows: Rows) -> None:
    try:
        for count in sorted({min(few, rows.count) for few in (*FEW, rows.count)}):
            rows.check_together(count, call(name, rows.first(count)))
        rows.check_neighbours()
    except (InputError, ModelError) as error:
        why = str(error)[:LONGEST]
        raise DependenceError(f"rows that run alone fail together: {why}") from None


def _groups(method: Method, axes: Mapping[str, int], calls: Sequence[Flat]) -> Iterator[list[Flat]]:
    """Yield groups of calls with the same inputs and numbers, the largest call of each first."""
    found: dict[Hashable, list[Flat]] = {}
    for call in calls:
        if row_count(call, axes):
            found.setdefault(_kind(method, call), []).append(call)
    for group in found.values():
        yield sorted(group, key=_size, reverse=True)


def _kind(method: Method, call: Flat) -> Hashable:
    numbers = (name for name in call if isinstance(leaf_of(method.inputs, name), ScalarNode))
    return frozenset(call), tuple(tuple(call[name].reshape(-1).tolist()) for name in numbers)


def _size(call: Flat) -> int:
    return sum(tensor.numel() for tensor in call.values())


def _shapes(flat: Flat) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in flat.items()}


def _beyond_rounding(a: torch.Tensor, b: torch.Tensor) -> dict[int, float]:
    """Return the rows in which two tensors differ by more than rounding, with the distance."""
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    if not a.numel():
        return {}
    distance = _distance(a, b)
    allowed = torch.zeros(len(a), 1, dtype=torch.float64)
    if a.is_floating_point():
        sizes = b.double().abs().nan_to_num(0, 0, 0)
        scale = sizes.amax(1, keepdim=True)
        scale = scale.maximum(scale.median())  # a row near zero gets the rounding of the others
        eps = torch.finfo(a.dtype).eps
        allowed = max(1e-3, 2 * eps) * sizes + max(1e-4, eps) * scale
    wrong = (distance > allowed).any(1)
    return {int(row): float(distance[row].max()) for row in torch.nonzero(wrong)}


def _distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the distance of each element as a double; 0 if equal, where NaN equals NaN."""
    equal = (a == b) | ((a != a) & (b != b))
    return torch.where(equal, 0.0, (a.double() - b.double()).abs().nan_to_num(torch.inf))


def _nudged(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor
    eps = torch.finfo(tensor.dtype).eps
    part = torch.rand(tensor.shape, dtype=torch.float64, generator=generator)
    return (tensor.double() * (1 + 4 * eps * (2 * part - 1))).to(tensor.dtype)
