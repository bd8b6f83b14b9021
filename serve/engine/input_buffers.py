"""Input tensors of small calls, kept from one call to the next and filled again.

For a small model, making the input tensors takes a considerable part of the call.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch

from torchship.script.format.tree import Flat
from torchship.serve.protocol.tensors import RawTensor

LARGEST = 1 << 16  # bytes of one call's inputs; making larger ones is a small part of their call
MOST_BYTES = 1 << 20  # of all buffers of one method


class InputBuffers:
    """The inputs of calls with certain names, dtypes and shapes; used by one call at a time.

    They hold what came until the next call, and may be returned as outputs: those must be copied
    before it. A model that writes to them in place may have changed more than their values, such as
    their shape: then they are not used again.
    """

    def __init__(self, inputs: Flat, started: Flat) -> None:
        """Keep the tensors that requests fill, and those with which the state starts, zeros."""
        self.inputs = {**inputs, **started}
        self.nbytes = sum([tensor.nbytes for tensor in self.inputs.values()])
        self._versions = [(tensor, tensor._version) for tensor in self.inputs.values()]
        self._filled = [(name, _bytes_of(tensor)) for name, tensor in inputs.items()]
        self._zeros = [(view, bytes(len(view))) for view in map(_bytes_of, started.values())]

    def fill(self, requests: Sequence[Mapping[str, RawTensor]]) -> Flat | None:
        """Return the inputs with the rows of all requests; None if a call has written to them."""
        for tensor, version in self._versions:
            if tensor._version != version:
                return None
        if len(requests) == 1:
            only = requests[0]
            for name, view in self._filled:
                view[:] = only[name].data
        else:
            for name, view in self._filled:
                view[:] = b"".join([inputs[name].data for inputs in requests])
        for view, zeros in self._zeros:
            view[:] = zeros
        return self.inputs


class InputBufferPool:
    """The buffers of one method, by the kind and the rows of the calls that they are for.

    Clients choose sizes and numbers, so there may be any number of kinds: the oldest buffers make
    room for new ones.
    """

    def __init__(self) -> None:
        self.nbytes = 0
        """Of all buffers."""
        self._buffers: dict[Hashable, InputBuffers] = {}

    def fill(self, key: Hashable, requests: Sequence[Mapping[str, RawTensor]]) -> Flat | None:
        """Return the inputs of a call with the rows of all requests; None without a buffer."""
        buffers = self._buffers.get(key)
        return None if buffers is None else buffers.fill(requests)

    def keep(self, key: Hashable, buffers: InputBuffers) -> None:
        """Use these buffers for such calls from now on."""
        self._drop(key)
        self._buffers[key] = buffers
        self.nbytes += buffers.nbytes
        while self.nbytes > MOST_BYTES:
            self._drop(next(iter(self._buffers)))

    def _drop(self, key: Hashable) -> None:
        dropped = self._buffers.pop(key, None)
        self.nbytes -= 0 if dropped is None else dropped.nbytes


def fits(inputs: Flat) -> bool:
    """Return whether a call is small enough to keep its buffers."""
    sizes = [tensor.nbytes for tensor in inputs.values()]
    return min(sizes, default=0) > 0 and sum(sizes) <= LARGEST


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    return tensor.view(-1).view(torch.uint8).numpy().data
