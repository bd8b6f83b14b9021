"""The samples of several worker processes, merged into those of one server.

Each worker counts in its own memory. A worker that is asked for metrics has the supervisor collect
the samples of all. The counts of a worker that has ended stay in the sums, because Prometheus takes
a counter that falls for a restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

How = Literal["sum", "max", "each"]

GAUGES: Mapping[str, How] = {
    "torchship_last_inference_timestamp_seconds": "max",
    "torchship_queue_rows": "sum",
    "torchship_live_sequences": "max",  # workers share one store, and each counts all of it
    "torchship_models": "max",
    "torchship_model_failure": "max",
    "torchship_model_runtime": "max",
    "torchship_resident_memory_bytes": "each",
}
"""How the gauges of several workers are merged; `each` keeps one per process, labelled `pid`."""

LASTING = ("torchship_last_inference_timestamp_seconds",)
"""The gauges that keep the value of a worker that has ended."""


class Sample(NamedTuple):
    """One number with its name and labels."""

    name: str
    labels: dict[str, str]
    value: float


class MetricFamily(NamedTuple):
    """The samples of one Prometheus metric."""

    name: str
    kind: str
    documentation: str
    samples: list[Sample]


def families_of(registry: CollectorRegistry) -> list[MetricFamily]:
    """Return the present samples of a registry."""
    return [
        MetricFamily(
            *(metric.name, metric.type, metric.documentation),
            [Sample(sample.name, sample.labels, sample.value) for sample in metric.samples],
        )
        for metric in registry.collect()
    ]


def samples_of(families: Iterable[MetricFamily]) -> Iterator[Sample]:
    """Yield every sample."""
    return (sample for family in families for sample in family.samples)


def expose(families: Iterable[MetricFamily], accept: str = "") -> tuple[bytes, str]:
    """Return the samples as text in the format that `accept` asks for, and its content type."""
    registry = CollectorRegistry()
    registry.register(_Given(families))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Given(Collector):
    def __init__(self, families: Iterable[MetricFamily]) -> None:
        self._families = families

    def describe(self) -> list[Metric]:  # without it the registry would collect to find the names
        return []

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            metric = Metric(family.name, family.documentation, family.kind)
            for sample in family.samples:
                metric.add_sample(*sample)
            yield metric


class Totals:
    """The samples of all workers of a server."""

    def __init__(self, several: bool) -> None:
        """Start empty; with `several` workers, gauges of kind `each` get a `pid` label."""
        self._several = several
        self._last: dict[int, list[MetricFamily]] = {}  # by pid
        self._gone: list[MetricFamily] = []

    def update(self, pid: int, families: list[MetricFamily]) -> None:
        """Store the present samples of a worker."""
        self._last[pid] = families

    def remove(self, pid: int) -> None:
        """Keep the last known counts of a worker that has ended."""
        if (families := self._last.pop(pid, None)) is not None:
            lasting = [f for f in families if f.kind != "gauge" or f.name in LASTING]
            self._gone = self._merge({0: self._gone, pid: lasting})

    def merged(self) -> list[MetricFamily]:
        """Return the merged samples of all workers."""
        return self._merge({0: self._gone, **self._last})

    def _merge(self, by_pid: Mapping[int, list[MetricFamily]]) -> list[MetricFamily]:
        kinds: dict[str, tuple[str, str]] = {}
        merged: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
        for pid, families in by_pid.items():
            for family in families:
                kinds.setdefault(family.name, (family.kind, family.documentation))
                values = merged.setdefault(family.name, {})
                how = GAUGES.get(family.name, "sum")
                for name, labels, value in family.samples:
                    if how == "each" and self._several:
                        labels = {**labels, "pid": str(pid)}
                    key = (name, tuple(labels.items()))
                    if key not in values:
                        values[key] = value
                    elif name.endswith("_created"):
                        values[key] = min(values[key], value)
                    else:
                        values[key] = (
                            max(values[key], value) if how != "sum" else values[key] + value
                        )
        return [
            MetricFamily(
                *(name, *kinds[name]),
                [Sample(sample, dict(labels), value) for (sample, labels), value in values.items()],
            )
            for name, values in merged.items()
        ]
