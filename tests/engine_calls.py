"""Calls of an engine with tensors, which requests bring as bytes."""

from collections.abc import Mapping
from typing import Any

import torch

from torchship.script.format.tree import Flat
from torchship.serve.engine.request_entry import RequestEntry
from torchship.serve.protocol.tensors import RawTensor, pack_all


def tensors_of(raw: Mapping[str, RawTensor]) -> Flat:
    return {name: value.tensor() for name, value in raw.items()}


async def call_engine(
    engine: RequestEntry, method: str, inputs: Mapping[str, torch.Tensor], **options: Any
) -> Flat:
    """Do as `Engine.call`."""
    return tensors_of(await engine.call(method, pack_all(inputs), **options))
