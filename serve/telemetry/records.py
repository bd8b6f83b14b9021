"""The records of one request and one batch, from which metrics, logs and traces are made."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

SCOPE_KEY = "torchship.record"
"""The key of a request's `Record` in its ASGI scope."""


@dataclass(slots=True)  # creating a frozen one takes several times as long
class BatchReport:
    """One call of a model: its rows and requests, and how long they waited and ran."""

    method: str
    rows: int
    """Rows along `batch`; 1 for a call without that dimension."""
    requests: int
    waits: Sequence[float]
    """Seconds that each request waited in the queue."""
    seconds: float
    """Time of the model itself."""
    failed: int
    """How many requests failed: all or none."""
    input_seconds: float = 0.0
    """Time to join the requests' tensors."""
    output_seconds: float = 0.0
    """Time to split the outputs."""


Observer = Callable[[BatchReport], None]
"""Called on the event loop, once for each call of a model."""


class Timing:
    """When a request was queued and ran, as times of `time.perf_counter`; 0 for not yet."""

    __slots__ = ("began", "ended", "entered")

    def __init__(self) -> None:
        self.entered = 0.0
        self.began = 0.0
        self.ended = 0.0

    def ran(self, entered: float, began: float, ended: float) -> None:
        """Record one call; a request that was cut into parts spans all of their calls."""
        self.entered = min(self.entered or entered, entered)
        self.began = min(self.began or began, began)
        self.ended = max(self.ended, ended)


TIMING: ContextVar[Timing | None] = ContextVar("timing", default=None)
"""The timing of the current request, if it is traced; the engine fills it in."""


SOURCE: ContextVar[Hashable] = ContextVar("source", default=None)
"""The client's address and port of the current request, where known."""


class Record:
    """One HTTP request, from its first byte to its answer, with times of `time.perf_counter`."""

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
        """0 until an answer begins; 499 if the client disconnected first."""
        self.model = ""
        """The name of a model that exists; names that a client made up would add metrics labels."""
        self.version = ""
        self.decode_started = 0.0
        """When the body was complete and decoding began."""
        self.decoded = 0.0
        self.inference_finished = 0.0
        """When the model's outputs were ready and encoding began."""
        self.encoded = 0.0
        self.timing: Timing | None = None
        """Filled in by the engine if the request is traced."""


@dataclass(frozen=True, slots=True)
class RepositoryStatus:
    """The state of a repository, for the metrics."""

    waiting_rows: Mapping[tuple[str, str], int]
    """By name and version of each live model."""
    runtimes: Mapping[tuple[str, str], str]
    """What runs each live model, by name and version."""
    verified: int
    """How many archives are live."""
    failed: int
    """How many archives are refused in their present form."""
    refused: frozenset[tuple[str, str]]
    """Names and versions of the refused archives."""
