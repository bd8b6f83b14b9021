"""Casts of numbers that keep their values.

A silent `int64 -> uint8` or `3.7 -> 3` would give outputs that look right and are not. The only
thing that a cast may do to a value is to round it to a float of fewer digits, since most tables
hold float64 and most models take float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from torchship.script.format.dtypes import BY_NAME

Numbers = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

KINDS = "biuf"  # numpy's kinds of dtypes that are numbers


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return numpy's dtype of a manifest's; float32 for bfloat16, which numpy does not have."""
    return np.dtype("float32" if name == "bfloat16" else name)


def cast(values: Numbers, name: str) -> tuple[Numbers, Mask]:
    """Cast numbers to a manifest's dtype, and return which of them cannot be.

    A float may be rounded, but a finite one stays finite. Everything else must be equal after the
    cast: whole numbers in range, and floats that hold an integer exactly. `bfloat16` gives float32
    values that `to_tensor` rounds.

    Args:
        values: numbers of any shape.
        name: the manifest's name of the dtype.

    Returns:
        The numbers in the new dtype, 0 where they cannot be cast, and a mask of those.
    """
    target = numpy_dtype(name)
    bad = _unfit(values, target)
    if name == "bfloat16":
        bad = bad | _unfit_for_bfloat16(values)
    if values.dtype == target and not bad.any():
        return values, bad
    with np.errstate(all="ignore"):  # what would warn is in the mask
        return np.where(bad, values.dtype.type(0), values).astype(target), bad


def _unfit(values: Numbers, target: np.dtype[Any]) -> Mask:
    source = values.dtype
    if source == target or source.kind == "b":
        return np.zeros(values.shape, dtype=bool)
    if target.kind == "b":
        return np.asarray((values != 0) & (values != 1))
    with np.errstate(all="ignore"):
        if target.kind == "f":
            cast = values.astype(target).astype(np.float64)
            if source.kind == "f":
                return np.asarray(np.isfinite(values) & ~np.isfinite(cast))
            own = np.iinfo(source)
            # The largest integers of 64 bits round up to a number that the source cannot hold.
            held = np.isfinite(cast) & (cast < float(own.max) + (own.bits < 64))
            return np.asarray(~(held & (np.where(held, cast, 0).astype(source) == values)))
        limits = np.iinfo(target)
        if source.kind == "f":
            whole = np.isfinite(values) & (values == np.trunc(values))
            wide = values.astype(np.float64)
            inside = (wide >= float(limits.min)) & (wide < float(limits.max) + 1.0)
            return np.asarray(~(whole & inside))
        own = np.iinfo(source)
        least, most = max(own.min, limits.min), min(own.max, limits.max)
        return np.asarray((values < source.type(least)) | (values > source.type(most)))


def _unfit_for_bfloat16(values: Numbers) -> Mask:
    with np.errstate(all="ignore"):
        single = torch.from_numpy(np.array(values, dtype=np.float32))
    rounded = single.bfloat16().double().numpy()
    if values.dtype.kind == "f":
        return np.asarray(np.isfinite(values) & ~np.isfinite(rounded))
    return np.asarray(rounded != values.astype(np.float64))


def to_tensor(values: Numbers, name: str) -> torch.Tensor:
    """Return a tensor of its own memory with a manifest's dtype, of numbers that `cast` gave."""
    tensor = torch.from_numpy(np.array(values, order="C"))
    return tensor.to(BY_NAME[name].torch)
