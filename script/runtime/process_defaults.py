"""Process-wide torch settings that an import or a factory may have changed.

Results depend on them, and other runtimes do not have the changes: C++ and a server start with
torch's defaults. A module is therefore checked with the defaults, and its author gets a warning.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

PRECISIONS = ("highest", "high", "medium")
EXACT = "ieee"


@dataclass(frozen=True)
class Setting:
    """A setting of this process or thread; `own` is its value in a new process."""

    name: str
    get: Callable[[], Any]
    set: Callable[[Any], object]
    own: Any


def _set_device(device: torch.device) -> None:
    torch.set_default_device(None if device.type == "cpu" else device)


def _flushes_denormals() -> bool:
    return sys.float_info.min * float("0.5") == 0.0  # not a constant, so it is computed now


def _product_precision() -> str:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # torch's two interfaces were both used, and their values differ
        return str(_onednn.matmul.fp32_precision)


def _set_product_precision(value: str) -> None:
    if value in PRECISIONS:
        torch.set_float32_matmul_precision(value)
    else:
        _onednn.matmul.fp32_precision = value


def _precision(name: str, backend: Any) -> Setting:
    def get() -> str:
        value = str(backend.fp32_precision)
        return EXACT if value == "none" else value

    return Setting(name, get, lambda value: setattr(backend, "fp32_precision", value), EXACT)


def _autocast(device: str) -> Setting:
    return Setting(
        f"autocast on {device}",
        lambda: torch.is_autocast_enabled(device),
        lambda on: torch.set_autocast_enabled(device, on),
        False,
    )


_backends: Any = torch.backends
_onednn: Any = torch.backends.mkldnn

SETTINGS = (
    Setting("default dtype", torch.get_default_dtype, torch.set_default_dtype, torch.float32),
    Setting("default device", torch.get_default_device, _set_device, torch.device("cpu")),
    Setting("grad mode", torch.is_grad_enabled, torch.set_grad_enabled, True),
    Setting("flush-to-zero of denormals", _flushes_denormals, torch.set_flush_denormal, False),
    Setting("threads", torch.get_num_threads, torch.set_num_threads, 1),
    Setting(
        "deterministic algorithms",
        torch.get_deterministic_debug_mode,
        torch.set_deterministic_debug_mode,
        0,
    ),
    _precision("float32 precision", _backends),
    Setting("float32 matmul precision", _product_precision, _set_product_precision, "highest"),
    _precision("float32 precision of convolutions", _onednn.conv),
    _precision("float32 precision of recurrent layers", _onednn.rnn),
    Setting(
        "oneDNN",
        lambda: bool(_onednn.enabled),
        lambda on: setattr(_onednn, "enabled", on),
        True,
    ),
    _autocast("cpu"),
    _autocast("cuda"),
)  # The general precision comes before the settings that it changes.


def changes() -> list[str]:
    """Return the settings that differ from torch's defaults, as text."""
    return [
        f"{setting.name} is {value} (torch's own: {setting.own})"
        for setting in SETTINGS
        if (value := setting.get()) != setting.own
    ]


@contextmanager
def torch_defaults() -> Iterator[list[str]]:
    """Use torch's defaults during the block; yield which settings had been changed."""
    before = [(setting, setting.get()) for setting in SETTINGS]
    changed = changes()
    try:
        for setting, value in before:
            if value != setting.own:
                setting.set(setting.own)
        yield changed
    finally:
        for setting, value in before:
            if setting.get() != value:
                setting.set(value)
