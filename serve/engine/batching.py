"""Which requests may run as one call, and how their tensors are put together and taken apart.

Rows are independent along `batch` (the exporter has checked that), so a call of many requests' rows
gives each request the outputs that it would have had alone, up to the rounding of another kernel.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence

import torch

from torchship.script.format.manifest import Method
from torchship.script.format.nodes import Dimension, Leaf, ScalarNode, TensorNode, leaves
from torchship.script.format.tree import Flat, matches
from torchship.script.runtime.batch import BATCH, axis_of, batch_axes
from torchship.script.runtime.output_check import (
    OutputCheck,
    input_symbols,
    sizes_follow_from_shapes,
)
from torchship.script.runtime.program import initial_state
from torchship.serve.engine.input_buffers import InputBufferPool, InputBuffers, fits
from torchship.serve.protocol.tensors import (
    RawTensor,
    aligned_tensor,
    concatenate,
    pack,
    split_packed,
)

Kind = Hashable
"""What is equal for requests that may run as one call."""


class Batching:
    """The batch dimension of one method: what is joined, and what must be equal."""

    def __init__(self, method: Method) -> None:
        self._method = method
        self._inputs = batch_axes(method)
        self._outputs = {
            leaf.name: leaf.shape.index(BATCH)
            for leaf in leaves(method.outputs)
            if isinstance(leaf, TensorNode) and BATCH in leaf.shape
        }
        # A tensor with the batch in two dimensions can be neither cut nor joined along both. If the
        # size of an output depended on values, it would depend on other requests' values too.
        self.possible = (
            bool(self._inputs)
            and all(leaf.name in self._outputs for leaf in leaves(method.outputs))
            and all(_shape(leaf).count(BATCH) <= 1 for leaf in _leaves(method))
            and sizes_follow_from_shapes(method)
        )
        self._starts = {state.input for state in method.state if state.start == "zeros"}
        self._allowed: set[frozenset[str]] | None = None
        known = input_symbols(method.inputs)
        used = {size for leaf in leaves(method.outputs) for size in _shape(leaf)}
        self._sources = [known[size] for size in used & known.keys() if isinstance(size, str)]
        self._fixed = all(
            isinstance(leaf, TensorNode)
            and all(isinstance(size, int) or size == BATCH for size in leaf.shape)
            for argument in method.inputs
            for leaf in leaves(argument.value)
        )
        self._numbers = frozenset(
            leaf.name
            for argument in method.inputs
            for leaf in leaves(argument.value)
            if isinstance(leaf, ScalarNode)
        )

        self.check = OutputCheck(method).check
        self.buffers = InputBufferPool()
        # Rows along a later dimension are not contiguous in memory.
        self._buffered = self.possible and not any(self._inputs.values())

    def allow(self, calls: Iterable[Iterable[str]]) -> None:
        """Join only requests with the names of one of these calls' inputs, apart from state.

        State that is left out starts with zeros, so it may be given or not.
        """
        self._allowed = {frozenset(call) - self._starts for call in calls}

    def forbid(self) -> None:
        """Run every request alone from now on. To be called before any request waits."""
        self.possible = False

    @property
    def only(self) -> bool:
        """Whether calls differ in the batch only, so that the longest call is known."""
        return self.possible and self._fixed

    def follows_from_shapes(self, inputs: Collection[str]) -> bool:
        """Return whether names, dtypes and shapes of these inputs decide their rows and kind."""
        return not self._numbers or self._numbers.isdisjoint(inputs)

    def rows(self, inputs: Mapping[str, RawTensor]) -> int:
        """Return how many rows the inputs have; 0 if they have no batch."""
        for name, raw in inputs.items():
            axis = axis_of(name, self._inputs)
            if axis is not None:
                return raw.shape[axis]
        return 0

    def kind(self, inputs: Mapping[str, RawTensor]) -> Kind | None:
        """Return what must be equal for requests to run together; None for one that runs alone.

        It is the names and the sizes beside the batch, and the values of numbers and strings.
        Another tensor that has no batch dimension belongs to its own request alone.
        """
        if not self.possible or not self.rows(inputs):
            return None
        if self._allowed is not None and frozenset(inputs) - self._starts not in self._allowed:
            return None  # the warm-up has not shown that such rows are independent
        parts: list[Hashable] = []
        for name in sorted(inputs):
            raw = inputs[name]
            axis = axis_of(name, self._inputs)
            if axis is not None:
                shape = raw.shape
                parts.append((name, shape[:axis], shape[axis + 1 :]))
            elif name in self._numbers:
                parts.append((name, raw.dtype, bytes(raw.data)))
            else:
                return None
        for sources in self._sources:
            if not any(matches(source, name) for source in sources for name in inputs):
                return None  # the size of an output would come from an input that is missing
        return tuple(parts)

    def prepare(
        self,
        requests: Sequence[Mapping[str, RawTensor]],
        kind: Kind | None,
        symbols: Mapping[str, int],
    ) -> Flat:
        """Do as `join`, with the input tensors of an earlier small call if there are some.

        One call at a time of a method. `symbols` are the sizes in the whole call.
        """
        if kind is None or not self._buffered or not self.follows_from_shapes(requests[0]):
            return self.join(requests)
        key = kind, symbols[BATCH]
        if (filled := self.buffers.fill(key, requests)) is not None:
            return filled
        inputs = self.join(requests)
        if fits(inputs):
            state = initial_state(self._method, inputs, symbols)
            self.buffers.keep(key, InputBuffers(inputs, state))
        return inputs

    def join(self, requests: Sequence[Mapping[str, RawTensor]]) -> Flat:
        """Return the inputs of one call with the rows of all requests, which are of one kind.

        They are copies, with the allocator's alignment: the model may not write into a request,
        and the rounding of some kernels depends on where their input starts.
        """
        joined: Flat = {}
        for name, first in requests[0].items():
            axis = axis_of(name, self._inputs)
            if axis is None:  # one request's value for all
                joined[name] = aligned_tensor(first)
            elif axis and len(requests) > 1:
                joined[name] = torch.cat([inputs[name].tensor() for inputs in requests], axis)
            else:
                joined[name] = aligned_tensor(concatenate([inputs[name] for inputs in requests]))
        return joined

    def cut(self, inputs: Mapping[str, RawTensor], most: int) -> Iterator[dict[str, RawTensor]]:
        """Cut a large request into requests of at most `most` rows; `kind` was not None."""
        rows = self.rows(inputs)
        axes = {name: axis_of(name, self._inputs) for name in inputs}
        tensors = {name: inputs[name].tensor() for name, axis in axes.items() if axis}
        for start in range(0, rows, most):
            count = min(most, rows - start)
            part = dict(inputs)
            for name, axis in axes.items():
                if axis:
                    part[name] = pack(tensors[name].narrow(axis, start, count))
                elif axis == 0:
                    part[name] = split_packed(inputs[name], (start, count))[1]
            yield part

    def merge(self, outputs: Sequence[Mapping[str, RawTensor]]) -> dict[str, RawTensor]:
        """Return the outputs of a request that was cut, joined again."""
        merged: dict[str, RawTensor] = {}
        for name in outputs[0]:
            axis = axis_of(name, self._outputs)
            assert axis is not None, "a method that is cut has the batch in every output"
            parts = [part[name] for part in outputs]
            if axis:
                merged[name] = pack(torch.cat([part.tensor() for part in parts], axis))
            else:
                merged[name] = concatenate(parts)
        return merged

    def split(
        self,
        outputs: Flat,
        rows: Sequence[int],
        symbols: Mapping[str, int],
        wanted: frozenset[str] | None = None,
    ) -> list[dict[str, RawTensor]]:
        """Return each request's outputs, given how many rows each had.

        They are copies, since the model might write into its own again. `symbols` are the sizes in
        the call, of all rows. Outputs that are not `wanted` are left out; all are when None.

        Raises:
            SignatureError: an output, wanted or not, has another dtype or shape than the signature
                says, such as another number of rows, so that it cannot be split.
        """
        asked = outputs if wanted is None else {n: o for n, o in outputs.items() if n in wanted}
        if len(rows) == 1:
            packed = {name: pack(tensor) for name, tensor in asked.items()}
            # Reading the shapes of tensors again takes longer than reading those of the copies.
            self.check(packed if len(packed) == len(outputs) else outputs, symbols)
            return [packed]
        self.check(outputs, symbols)
        parts: list[dict[str, RawTensor]] = [{} for _ in rows]
        for name, tensor in asked.items():
            axis = axis_of(name, self._outputs)
            assert axis is not None, "a method that is joined has the batch in every output"
            if axis:
                pieces = [pack(piece) for piece in torch.split(tensor, list(rows), axis)]
            else:
                pieces = split_packed(pack(tensor), rows)
            for part, piece in zip(parts, pieces, strict=True):
                part[name] = piece
        return parts


def _leaves(method: Method) -> Iterator[Leaf]:
    for argument in method.inputs:
        yield from leaves(argument.value)
    yield from leaves(method.outputs)


def _shape(leaf: Leaf) -> tuple[Dimension, ...]:
    return leaf.shape if isinstance(leaf, TensorNode) else ()
