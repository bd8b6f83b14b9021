"""Inputs checked before they enter the queue; their symbols, rows, kind and size."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import NamedTuple

from torchship.script.format.manifest import Method
from torchship.script.runtime.batch import BATCH
from torchship.script.runtime.program import check_inputs
from torchship.serve.engine.batching import Batching, Kind
from torchship.serve.engine.limits import Limits
from torchship.serve.protocol.tensors import RawTensor

MOST_ADMITTED = 256  # combinations of names, dtypes and shapes that are remembered as valid


class Admitted(NamedTuple):
    """What the engine needs to know of a request's inputs, or of a part of them."""

    symbols: Mapping[str, int]
    """The sizes of the signature's symbols, such as `batch`."""
    rows: int
    kind: Kind | None
    nbytes: int
    rows_in_call: int
    """How many rows of this size one call takes."""
    whole: bool
    """Whether one call takes all of them."""


class Admissions:
    """Checks the inputs of one method's requests; remembers which shapes are valid."""

    def __init__(self, method: Method, batching: Batching, limits: Limits) -> None:
        self._method = method
        self._batching = batching
        self._limits = limits
        self._known: dict[Hashable, Admitted] = {}

    def admit(self, inputs: Mapping[str, RawTensor]) -> Admitted:
        """Check inputs and return what follows from them.

        Raises:
            InputError: they do not fit the signature.
        """
        key = tuple([(name, value.dtype, value.shape) for name, value in inputs.items()])
        admitted = self._known.get(key)
        if admitted is not None:
            return admitted
        symbols = check_inputs(self._method, inputs)
        rows, kind, nbytes = self._batching.rows(inputs), self._batching.kind(inputs), _size(inputs)
        most = self._limits.rows_in_call(rows, nbytes)
        admitted = Admitted(symbols, rows, kind, nbytes, most, kind is None or rows <= most)
        if self._batching.follows_from_shapes(inputs):
            if len(self._known) >= MOST_ADMITTED:
                self._known.clear()
            self._known[key] = admitted
        return admitted

    def parts(
        self, inputs: Mapping[str, RawTensor], whole: Admitted
    ) -> Iterator[tuple[Mapping[str, RawTensor], Admitted]]:
        """Cut a request that is too large for one call; yield parts with what is known of them."""
        for part in self._batching.cut(inputs, whole.rows_in_call):
            rows = self._batching.rows(part)
            symbols = {**whole.symbols, BATCH: rows}
            nbytes = _size(part)
            yield part, whole._replace(symbols=symbols, rows=rows, nbytes=nbytes, whole=True)


def _size(inputs: Mapping[str, RawTensor]) -> int:
    return sum([raw.nbytes for raw in inputs.values()])
