"""The server's metrics, which Prometheus and Triton's statistics extension read.

Every process has its own registry in memory. With several workers, `gather` collects the samples of
all of them, so that any worker can answer for the whole server; see `samples`.
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
    """The metrics of one application; used from its event loop only."""

    def __init__(self) -> None:
        self.live_sequences: Callable[[], Awaitable[int]] = _none
        """Counts the sequences that have state; set by the application."""
        self.gather: Callable[[], Awaitable[list[MetricFamily]]] | None = None
        """Collects the samples of all workers; None if this process is the only one."""
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
        self._runtimes = Gauge(
            "torchship_model_runtime",
            "1 for what runs the model: LibTorch, or compiled code (native).",
            (*MODEL, "runtime"),
            registry=own,
        )
        self._known_failures: set[tuple[str, str]] = set()
        self._memory = Gauge(
            "torchship_resident_memory_bytes",
            "Memory of the process.",
            registry=own,
        )

    def model(self, name: str, version: str) -> ModelMetrics:
        """Return the metrics of a model version; `("", "")` counts requests without a model."""
        known = self._models.get((name, version))
        if known is None:
            known = self._models[name, version] = ModelMetrics(self, name, version)
        return known

    def observer(self, name: str, version: str) -> Observer:
        """Return the function that an engine of this model calls after each batch."""
        return self.model(name, version).batch

    async def refresh(self, repository: RepositoryStatus) -> None:
        """Set the gauges to their present values."""
        self._flush()
        waiting = dict.fromkeys((key for key in self._models if key[0]), 0)
        for (name, version), rows in {**waiting, **repository.waiting_rows}.items():
            self._waiting.labels(name, version).set(rows)
        self._runtimes.clear()
        for key, runtime in repository.runtimes.items():
            self._runtimes.labels(*key, runtime).set(1)
        self._states.labels("verified").set(repository.verified)
        self._states.labels("failed").set(repository.failed)
        refused = repository.refused
        for failure in self._known_failures | refused:
            self._failures.labels(*failure).set(failure in refused)
        self._known_failures |= refused
        try:
            self._sequences.set(await self.live_sequences())
        except TorchShipError as error:  # the other metrics do not need the sequence store
            log.warning("counting the sequences: %s", error)
        for family in self._memory_source.collect():
            if family.name == "process_resident_memory_bytes":
                self._memory.set(family.samples[0].value)

    def _flush(self) -> None:
        for model in self._models.values():
            model.flush()

    async def own(self, repository: RepositoryStatus) -> list[MetricFamily]:
        """Return the present samples of this process.

        With hundreds of models, collecting takes long enough to need a thread.
        """
        await self.refresh(repository)
        return await asyncio.to_thread(families_of, self._registry)

    async def all(self, repository: RepositoryStatus) -> list[MetricFamily]:
        """Return the samples of all workers."""
        return await (self.own(repository) if self.gather is None else self.gather())


async def _none() -> int:
    return 0


class ModelMetrics:
    """The metrics of one model version, with the labels looked up once."""

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
        """Count one call of the model."""
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
        # Each request of a batch took as long as the whole batch.
        self._decoding += report.input_seconds * report.requests
        self._encoding += report.output_seconds * report.requests
        self._infer.inc(report.seconds * report.requests)
        self._last.set_to_current_time()
        self.flush()

    def flush(self) -> None:
        """Add the sums to the counters; doing so once per batch is cheaper than per request."""
        if self._decoding or self._encoding:
            self._input.inc(self._decoding)
            self._output.inc(self._encoding)
            self._decoding = self._encoding = 0.0
