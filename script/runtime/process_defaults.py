"""Settings of the whole process that an import or a factory may change.

The numbers depend on them, and no other runtime has them: C++ and a server start with torch's own.
So a module is checked with torch's own, too, and its author is told what it has changed.
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
    """A setting of this process or thread, and its value in a new process."""

    name: str
    get: Callable[[], Any]
    set: Callable[[Any], object]
    own: Any


def _set_device(device: torch.device) -> None:
    torch.set_default_device(None if device.type == "cpu" else device)


def _flushes_denormals() -> bool:
    return sys.float_info.min * float("0.5") == 0.0  # computed here and now, not by the compiler


def _product_precision() -> str:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # it was set by both of torch's interfaces, and they differ
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
)  # The general precision is set before those that it changes.


def changes() -> list[str]:
    """Return which settings differ from torch's own, and how."""
    return [
        f"{setting.name} is {value} (torch's own: {setting.own})"
        for setting in SETTINGS
        if (value := setting.get()) != setting.own
    ]


@contextmanager
def torchs_own() -> Iterator[list[str]]:
    """Use torch's own settings for the length of a `with`; give what had been changed."""
    before = [(setting, setting.get()) for setting in SETTINGS]
    told = changes()
    try:
        for setting, value in before:
            if value != setting.own:
                setting.set(setting.own)
        yield told
    finally:
        for setting, value in before:
            if setting.get() != value:
                setting.set(value)
