"""Where each model runs: the processor, or one of the GPUs that torch sees."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from torchship.script.errors import UsageError

DEVICE = re.compile(r"cpu|cuda(:\d+)?")


@dataclass(frozen=True)
class Placement:
    """The device of each model: the one that was said for its name, else the default."""

    default: str = "cpu"
    models: Mapping[str, str] = field(default_factory=dict)

    def of(self, name: str) -> str:
        """Return the device of a model, such as `cpu` or `cuda:0`."""
        return self.models.get(name, self.default)


def read_placement(device: str, place: Sequence[str]) -> Placement:
    """Return where models run, from the settings: a device, and `NAME=DEVICE` for some models.

    Raises:
        UsageError: text that names no device, a device that torch does not have here, or two
            devices for one model.
    """
    _check("--device", device)
    models: dict[str, str] = {}
    for text in place:
        name, _, wanted = text.partition("=")
        if not name or not wanted:
            raise UsageError(f"--place: expected NAME=DEVICE, got '{text}'")
        if models.setdefault(name, wanted) != wanted:
            raise UsageError(f"--place: model '{name}' has two devices: {models[name]}, {wanted}")
        _check(f"--place: model '{name}'", wanted)
    if any(wanted != "cpu" for wanted in (device, *models.values())):
        # As on the processor: a product of float32 is one of float32.
        torch.backends.cudnn.allow_tf32 = False
    return Placement(device, models)


def _check(what: str, device: str) -> None:
    if not DEVICE.fullmatch(device):
        raise UsageError(f"{what}: expected cpu, cuda or cuda:NUMBER, got '{device}'")
    if device != "cpu":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(device.partition(":")[2] or 0) >= count:
            has = f"{count} CUDA devices" if count else "no CUDA device"
            raise UsageError(f"{what}: torch has no '{device}': it sees {has} on this machine")
