"""What one engine may use."""

from __future__ import annotations

from dataclasses import dataclass, field

from torchship.serve.engine.devices import Placement

QUEUED_BATCHES = 4
QUEUED_BYTES = 256 << 20  # that may always wait: small batches must not make a small queue


@dataclass(frozen=True)
class Limits:
    """What one engine may use: intra-op threads, rows in one call, rows that wait, devices.

    Rows wait at most `delay_seconds` for others to come. A model whose largest batch takes at most
    `inline_threshold_seconds` runs on the event loop; none does when 0. One call takes at most
    `call_seconds` by the clock on the wall, and `max_batch_bytes` of inputs unless a single row has
    more.
    """

    threads: int = 1
    max_batch: int = 64
    max_queue: int = 4096
    placement: Placement = field(default_factory=Placement)
    delay_seconds: float = 0.0
    inline_threshold_seconds: float = 0.0
    call_seconds: float = 30.0
    max_batch_bytes: int = 64 << 20

    @property
    def max_queue_bytes(self) -> int:
        """Bytes of inputs that may wait."""
        return max(QUEUED_BATCHES * self.max_batch_bytes, QUEUED_BYTES)

    def rows_in_call(self, rows: int, nbytes: int) -> int:
        """Return how many rows one call takes, given the size of some rows; at least 1."""
        if not nbytes:
            return self.max_batch
        return max(1, min(self.max_batch, self.max_batch_bytes * rows // nbytes))
