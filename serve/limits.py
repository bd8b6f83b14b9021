"""What one engine may use."""

from __future__ import annotations

from dataclasses import dataclass, field

from torchship.serve.devices import Placement


@dataclass(frozen=True)
class Limits:
    """What one engine may use: intra-op threads, rows in one call, rows that wait, devices.

    Rows wait at most `delay_seconds` for others to come. A model whose largest batch takes at most
    `quick_seconds` runs on the event loop; none does when 0.
    """

    threads: int = 1
    max_batch: int = 64
    max_queue: int = 4096
    placement: Placement = field(default_factory=Placement)
    delay_seconds: float = 0.0
    quick_seconds: float = 0.0
