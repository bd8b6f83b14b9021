"""What the server counts and measures, and how Prometheus and Triton's statistics read it.

Every process has a registry of its own, in memory. Where several serve together, `gather` gets the
figures of all, so that whichever is asked answers for all; see `figures`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector

from torchship.script.errors import TorchShipError
from torchship.serve.telemetry.records import BatchReport, Observer, Record, RepositoryStatus
from torchship.serve.telemetry.samples import MetricFamily, families_of

log = logging.getLogger(__name__)

MODEL = ("model", "version")
SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The figures of one application; used from its event loop only."""

    def __init__(self) -> None:
        self.live_sequences: Callable[[], Awaitable[int]] = _none
        """How many sequences have state now; set by who keeps them."""
        self.gather: Callable[[], Awaitable[list[MetricFamily]]] | None = None
        """Gets the figures of all processes that serve together; None where this is the only."""
        self._registry = own = CollectorRegistry()
        self._models: dict[tuple[str, str], ModelMetrics] = {}
        self._memory_source = ProcessCollector(registry=None)

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"torchship_{name}", what, (*MODEL, *labels), registry=own)

        def histogram(name: str, what: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
            return Histogram(f"torchship_{name}", what, MODEL, buckets=buckets, registry=own)

        self.requests = counter("requests", "HTTP requests by the status they ended with.", "code")
        self.request = histogram("request_seconds", "Whole requests, from head to answer.")
        self.failed = counter("failed_request_seconds", "Time of requests that failed.")
        self.queue = histogram("queue_seconds", "The wait for the model.")
        self.rows = histogram("batch_rows", "Rows in one call of the model.", ROWS)
        self.inference = histogram("inference_seconds", "One call of the model.")
        self.phases = counter("phase_seconds", "Time of requests that succeeded.", "phase")
        self.executions = counter("executions", "Calls that succeeded.", "batch_size")
        self.execution = counter(
            "execution_seconds", "Time of calls that succeeded.", "batch_size", "phase"
        )
        self.last = Gauge(
            "torchship_last_inference_timestamp_seconds",
            "When the model last answered, since the epoch.",
            MODEL,
            registry=own,
        )
        self._waiting = Gauge(
            "torchship_queue_rows",
            "Rows that wait for the model now.",
            MODEL,
            registry=own,
        )
        self._sequences = Gauge(
            "torchship_live_sequences",
            "Sequences that have state on the server now.",
            registry=own,
        )
        self._states = Gauge(
            "torchship_models",
            "Archives, by what became of them.",
            ["state"],
            registry=own,
        )
        self._failures = Gauge(
            "torchship_model_failure",
            "1 while an archive is refused; the index and the log say why.",
            MODEL,
            registry=own,
        )
        self._known_failures: set[tuple[str, str]] = set()
        self._memory = Gauge(
            "torchship_resident_memory_bytes",
            "Memory of the process.",
            registry=own,
        )

    def model(self, name: str, version: str) -> ModelMetrics:
        """Return the figures of a model that the server has; of "" and "" for everything else."""
        known = self._models.get((name, version))
        if known is None:
            known = self._models[name, version] = ModelMetrics(self, name, version)
        return known

    def observer(self, name: str, version: str) -> Observer:
        """Return what an engine of that model tells its batches."""
        return self.model(name, version).batch

    async def refresh(self, repository: RepositoryStatus) -> None:
        """Set what is a state rather than a count to what it is now."""
        self._flush()
        waiting = dict.fromkeys((key for key in self._models if key[0]), 0)
        for (name, version), rows in {**waiting, **repository.waiting_rows}.items():
            self._waiting.labels(name, version).set(rows)
        self._states.labels("verified").set(repository.verified)
        self._states.labels("failed").set(repository.failed)
        refused = repository.refused
        for failure in self._known_failures | refused:
            self._failures.labels(*failure).set(failure in refused)
        self._known_failures |= refused
        try:
            self._sequences.set(await self.live_sequences())
        except TorchShipError as error:  # the store is away; the other figures are not
            log.warning("counting the sequences: %s", error)
        for family in self._memory_source.collect():
            if family.name == "process_resident_memory_bytes":
                self._memory.set(family.samples[0].value)

    def _flush(self) -> None:
        for model in self._models.values():
            model.flush()

    async def own(self, repository: RepositoryStatus) -> list[MetricFamily]:
        """Return the figures of this process as they are now.

        Of hundreds of models they are collected for a long time: elsewhere than on the event loop.
        """
        await self.refresh(repository)
        return await asyncio.to_thread(families_of, self._registry)

    async def all(self, repository: RepositoryStatus) -> list[MetricFamily]:
        """Return the figures of all processes that serve together."""
        return await (self.own(repository) if self.gather is None else self.gather())


async def _none() -> int:
    return 0


class ModelMetrics:
    """The figures of one model and version, their labels looked up once."""

    def __init__(self, metrics: Metrics, name: str, version: str) -> None:
        self._labels = (name, version)
        self._metrics = metrics
        self._codes: dict[int, Counter] = {}
        self._decoding = self._encoding = 0.0
        self._sizes: dict[int, tuple[Counter, ...]] = {}
        self._request = metrics.request.labels(name, version)
        self._failed = metrics.failed.labels(name, version)
        if name:
            self._queue = metrics.queue.labels(name, version)
            self._rows = metrics.rows.labels(name, version)
            self._inference = metrics.inference.labels(name, version)
            self._last = metrics.last.labels(name, version)
            self._input, self._infer, self._output = (
                metrics.phases.labels(name, version, phase)
                for phase in ("input", "infer", "output")
            )

    def request(self, record: Record, seconds: float) -> None:
        """Count a request that has ended."""
        code = record.status
        counter = self._codes.get(code)
        if counter is None:
            counter = self._metrics.requests.labels(*self._labels, code)
            self._codes[code] = counter
        counter.inc()
        self._request.observe(seconds)
        if code >= 400:
            self._failed.inc(seconds)
            return
        self._decoding += record.decoded - record.decode_started
        if record.inference_finished:
            self._encoding += record.encoded - record.inference_finished

    def batch(self, report: BatchReport) -> None:
        """Count a call of the model."""
        for seconds in report.waits:
            self._queue.observe(seconds)
        self._rows.observe(report.rows)
        self._inference.observe(report.seconds)
        if report.failed:
            return
        counters = self._sizes.get(report.rows)
        if counters is None:
            size = (*self._labels, report.rows)
            seconds_of = self._metrics.execution.labels
            counters = self._sizes[report.rows] = (
                self._metrics.executions.labels(*size),
                *(seconds_of(*size, phase) for phase in ("input", "infer", "output")),
            )
        executions, joining, running, splitting = counters
        executions.inc()
        joining.inc(report.input_seconds)
        running.inc(report.seconds)
        splitting.inc(report.output_seconds)
        # To a request, its batch took as long as the whole batch did.
        self._decoding += report.input_seconds * report.requests
        self._encoding += report.output_seconds * report.requests
        self._infer.inc(report.seconds * report.requests)
        self._last.set_to_current_time()
        self.flush()

    def flush(self) -> None:
        """Hand over what was summed up since the last batch, to be quick for each request."""
        if self._decoding or self._encoding:
            self._input.inc(self._decoding)
            self._output.inc(self._encoding)
            self._decoding = self._encoding = 0.0
