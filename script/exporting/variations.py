"""Variations of the examples: other sizes, other values, rows of several examples together.

They show which properties of the examples are accidental. Values stay within the range of the
examples: an index stays a valid index, and a model that loops up to its input loops no longer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from torchship.script.format.manifest import Argument
from torchship.script.format.nodes import Leaf, ScalarNode, TensorNode, leaves
from torchship.script.format.tree import Flat, matches
from torchship.script.runtime.batch import axis_of, row_count
from torchship.script.runtime.output_check import input_symbols

SEED = 13
KEPT = 0.4  # fraction of the tensors of a varied row that stay unchanged


def leaf_of(arguments: Sequence[Argument], name: str) -> Leaf:
    """Return the leaf of an input, given its flat name."""
    known = (leaf for argument in arguments for leaf in leaves(argument.value))
    return next(leaf for leaf in known if matches(leaf.name, name))


def other_sizes(arguments: Sequence[Argument], inputs: Flat) -> Iterator[Flat]:
    """Yield the inputs with another size of one dimension, larger and smaller, but above 1."""
    for symbol in sorted(input_symbols(arguments)):
        places = {
            (name, axis)
            for name in inputs
            for axis, size in enumerate(_shape(leaf_of(arguments, name)))
            if size == symbol
        }
        yield from _resized(inputs, places)
    for name in inputs:
        for axis, size in enumerate(_shape(leaf_of(arguments, name))):
            if size is None:
                yield from _resized(inputs, {(name, axis)})


def _shape(leaf: Leaf) -> tuple[object, ...]:
    return leaf.shape if isinstance(leaf, TensorNode) else ()


def _resized(inputs: Flat, places: set[tuple[str, int]]) -> Iterator[Flat]:
    if not places:
        return
    name, axis = next(iter(places))
    size = inputs[name].shape[axis]
    for other in sorted({size + 1, size + 2, 2 * size, 2 * size + 1, size - 1, size // 2} - {size}):
        if other > 1:
            changed = dict(inputs)
            for name, axis in places:
                changed[name] = _wrapped(changed[name], axis, other)
            yield changed


def _wrapped(tensor: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    """Return a tensor with another size of one dimension, repeating its elements in turn."""
    if tensor.shape[axis] in (0, size):
        return tensor
    return tensor.index_select(axis, torch.arange(size) % tensor.shape[axis])


def other_numbers(arguments: Sequence[Argument], inputs: Flat) -> Iterator[Flat]:
    """Yield the inputs with another value of one number."""
    for name, value in inputs.items():
        leaf = leaf_of(arguments, name)
        if not isinstance(leaf, ScalarNode) or leaf.kind in ("str", "bool"):
            continue
        others = [value / 2] if leaf.kind == "float" else [value + 1]
        if leaf.kind == "int" and int(value) > 1:
            others.append(value - 1)
        yield from (inputs | {name: other} for other in others if not torch.equal(other, value))
    yield from flipped_switches(arguments, inputs)


def flipped_switches(arguments: Sequence[Argument], inputs: Flat) -> Iterator[Flat]:
    """Yield the inputs with one boolean argument inverted."""
    for name, value in inputs.items():
        if leaf_of(arguments, name).kind == "bool":
            yield inputs | {name: ~value}


def other_values(arguments: Sequence[Argument], inputs: Flat) -> Iterator[Flat]:
    """Yield the inputs with other values in one tensor, and in all of them."""
    names = [name for name in inputs if isinstance(leaf_of(arguments, name), TensorNode)]
    generator = torch.Generator().manual_seed(SEED)
    for chosen in (*([name] for name in names), names):
        for way in WAYS:
            yield inputs | {name: way(inputs[name], generator) for name in chosen}


def _shuffled(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    order = torch.randperm(tensor.numel(), generator=generator)
    return tensor.reshape(-1)[order].view(tensor.shape)


def _scaled(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return random numbers between 0 and the tensor's elements, and random bools.

    The sign is kept, because a model may not accept the other one, or may never end with it.
    """
    if tensor.dtype is torch.uint64:  # torch has no arithmetic for it
        return _shuffled(tensor, generator)
    part = torch.rand(tensor.shape, dtype=torch.float64, generator=generator)
    if tensor.dtype is torch.bool:
        return part > 0.5
    if tensor.is_floating_point():
        return (tensor.double() * part).to(tensor.dtype)
    return (tensor.double() * part).trunc().to(torch.int64).to(tensor.dtype)


def _least(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return the smallest values: False, zeros, and 1 for positive integers."""
    if tensor.dtype is torch.bool or tensor.is_floating_point():
        return torch.zeros_like(tensor)
    return (tensor.to(torch.int64) > 0).to(tensor.dtype)


def _largest(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return True, or the largest value, everywhere."""
    if not tensor.numel():
        return tensor
    if tensor.dtype is torch.bool:
        return torch.ones_like(tensor)
    if tensor.is_floating_point():
        return torch.full_like(tensor, float(tensor.double().max()))
    return torch.full_like(tensor, int(tensor.to(torch.int64).max()))


def _padded(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return the first half along the last dimension, padded with zeros."""
    if not tensor.dim():
        return torch.zeros_like(tensor)
    padded = tensor.clone()
    padded[..., tensor.shape[-1] // 2 :] = 0
    return padded


WAYS = (_shuffled, _scaled, _least, _largest, _padded)


def mixed_rows(axes: Mapping[str, int], calls: Sequence[Flat], count: int) -> Flat:
    """Return `count` rows from calls with the same inputs but different sizes.

    First come the rows of the first call, then those of the others, resized to match, then all of
    them again, most with other values. `axes` has the batch axis of each input.
    """
    first = calls[0]
    rows: Flat = {}
    generator = torch.Generator().manual_seed(SEED)
    real = sum(row_count(call, axes) for call in calls)
    for name, tensor in first.items():
        axis = axis_of(name, axes)
        if axis is None:
            rows[name] = tensor
            continue
        parts = [_like(call[name], tensor, axis) for call in calls]
        whole = torch.cat(parts, axis).index_select(axis, torch.arange(count) % real)
        pieces = list(torch.split(whole, 1, axis))
        for place in range(min(real, count), count):
            if torch.rand((), generator=generator) > KEPT:
                way = WAYS[int(torch.randint(len(WAYS), (), generator=generator))]
                pieces[place] = way(pieces[place], generator)
        rows[name] = torch.cat(pieces, axis)
    return rows


def _like(tensor: torch.Tensor, model: torch.Tensor, axis: int) -> torch.Tensor:
    """Return a tensor with the sizes of another, except on one axis."""
    for place, size in enumerate(model.shape):
        if place != axis:
            tensor = _wrapped(tensor, place, size)
    return tensor
