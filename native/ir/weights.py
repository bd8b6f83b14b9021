"""The constants of a program: what the model holds, and what is computed of it once."""

from __future__ import annotations

from collections.abc import Callable

import torch

from torchship.native.ir.dtypes import NAMES
from torchship.native.ir.layout import contiguous_strides
from torchship.native.ir.names import identifier
from torchship.native.ir.program import Storage, View


def weight_value(view: View) -> torch.Tensor:
    """Return the constant that a view of a weight shows."""
    assert view.storage.value is not None
    shape, strides = [int(n) for n in view.shape], [int(n) for n in view.strides]
    return torch.as_strided(view.storage.value, shape, strides, int(view.offset))


class Weights:
    """The constants of all methods, by the path in the module or by what was computed of them."""

    def __init__(self) -> None:
        self.storages: list[Storage] = []
        self._names: set[str] = set()
        self._packed: dict[tuple[object, ...], View] = {}

    def add(self, name: str, tensor: torch.Tensor) -> View:
        """Return a tensor as a weight; the same tensor under the same name is the same weight."""
        value = tensor.detach().cpu().contiguous()
        shape = tuple(value.shape)
        for known in self.storages:
            if (
                known.wish == name
                and known.value is not None
                and known.dtype == NAMES[value.dtype]
                and known.value.numel() == value.numel()
                and known.value.equal(value.reshape(-1))
            ):
                return View(known, 0, shape, contiguous_strides(shape))
        storage = Storage(
            identifier(name, self._names),
            NAMES[value.dtype],
            value.numel(),
            "weight",
            value.reshape(-1).clone(),
            name,
        )
        self.storages.append(storage)
        return View(storage, 0, shape, contiguous_strides(shape))

    def packed(self, view: View, form: str, pack: Callable[[torch.Tensor], torch.Tensor]) -> View:
        """Return `pack(view)` as a weight, made once."""
        key = (view.storage.name, view.offset, view.shape, view.strides, form)
        if key not in self._packed:
            self._packed[key] = self.add(f"{view.storage.name}_{form}", pack(weight_value(view)))
        return self._packed[key]
