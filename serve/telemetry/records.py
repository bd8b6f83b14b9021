"""What one request and one batch tell of themselves, for whoever counts, logs or traces them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

SCOPE_KEY = "torchship.record"
"""Where the front leaves a request's record in the ASGI scope."""


@dataclass(slots=True)  # a frozen one takes several times as long to make
class BatchReport:
    """One call of a model: what it was of, and how long it and the wait for it took."""

    method: str
    rows: int
    """Rows along `batch`; 1 for a call that has no such dimension."""
    requests: int
    waits: Sequence[float]
    """Seconds that each of the requests waited."""
    seconds: float
    """Of the model itself."""
    failed: int
    """How many of the requests failed in it: all or none."""
    input_seconds: float = 0.0
    """For putting the requests' tensors together."""
    output_seconds: float = 0.0
    """For taking the outputs apart."""


Observer = Callable[[BatchReport], None]
"""Called on the event loop, once for each call of a model."""


class Timing:
    """When a request waited and ran, on `time.perf_counter`'s clock; 0 for what has not been."""

    __slots__ = ("began", "ended", "entered")

    def __init__(self) -> None:
        self.entered = 0.0
        self.began = 0.0
        self.ended = 0.0

    def ran(self, entered: float, began: float, ended: float) -> None:
        """Take in one call; of a request that was cut, from its first to its last."""
        self.entered = min(self.entered or entered, entered)
        self.began = min(self.began or began, began)
        self.ended = max(self.ended, ended)


TIMING: ContextVar[Timing | None] = ContextVar("timing", default=None)
"""Of the request that is traced here; engines fill it in, through whatever lies between."""


SOURCE: ContextVar[Hashable] = ContextVar("source", default=None)
"""Who sent the request that is answered here: the client's address and port, where known."""


class Record:
    """One HTTP request, from its first byte to its answer; times on `time.perf_counter`'s clock."""

    __slots__ = (
        "decode_started",
        "decoded",
        "encoded",
        "inference_finished",
        "model",
        "request_id",
        "started",
        "status",
        "timing",
        "version",
    )

    def __init__(self, request_id: bytes = b"", started: float = 0.0) -> None:
        self.request_id = request_id
        self.started = started
        self.status = 0
        """0 until an answer begins; 499 when the client left first."""
        self.model = ""
        """Of the model that was found, never a name that only the client knows."""
        self.version = ""
        self.decode_started = 0.0
        """When the body was there and decoding began."""
        self.decoded = 0.0
        self.inference_finished = 0.0
        """When the model's outputs were there and encoding began."""
        self.encoded = 0.0
        self.timing: Timing | None = None
        """Filled in by the engine, for a request that is traced."""


@dataclass(frozen=True, slots=True)
class RepositoryStatus:
    """What a repository is now, for the metrics."""

    waiting_rows: Mapping[tuple[str, str], int]
    """By name and version of each live model."""
    verified: int
    """How many archives are live."""
    failed: int
    """How many files are refused as they are."""
    refused: frozenset[tuple[str, str]]
    """Names and versions of what is refused."""
