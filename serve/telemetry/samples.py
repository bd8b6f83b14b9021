"""The figures of several processes as those of one server.

Each worker counts for itself, in memory. Whoever is asked for the figures has the supervisor
collect them from all workers; what a worker that has ended had counted stays in the sums, since a
counter that falls looks like a restart to Prometheus.
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
    "torchship_live_sequences": "max",  # several workers share one store, and each counts it
    "torchship_models": "max",
    "torchship_model_failure": "max",
    "torchship_resident_memory_bytes": "each",
}
"""How the gauges of several workers become one; `each` gives every process its own `pid`."""

LASTING = ("torchship_last_inference_timestamp_seconds",)
"""The gauges that a worker which has ended still counts for."""


class Sample(NamedTuple):
    """One number: its name, its labels, its value."""

    name: str
    labels: dict[str, str]
    value: float


class MetricFamily(NamedTuple):
    """The figures of one metric, as Prometheus knows it."""

    name: str
    kind: str
    documentation: str
    figures: list[Sample]


def families_of(registry: CollectorRegistry) -> list[MetricFamily]:
    """Return what a registry holds now."""
    return [
        MetricFamily(
            *(metric.name, metric.type, metric.documentation),
            [Sample(sample.name, sample.labels, sample.value) for sample in metric.samples],
        )
        for metric in registry.collect()
    ]


def figures_of(families: Iterable[MetricFamily]) -> Iterator[Sample]:
    """Yield every figure."""
    return (figure for family in families for figure in family.figures)


def expose(families: Iterable[MetricFamily], accept: str = "") -> tuple[bytes, str]:
    """Return figures as text, and its content type, in the form that `accept` asks for."""
    registry = CollectorRegistry()
    registry.register(_Given(families))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Given(Collector):
    def __init__(self, families: Iterable[MetricFamily]) -> None:
        self._families = families

    def describe(self) -> list[Metric]:  # or the registry would collect to find the names
        return []

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            metric = Metric(family.name, family.documentation, family.kind)
            for figure in family.figures:
                metric.add_sample(*figure)
            yield metric


class Totals:
    """The figures of all workers of a server."""

    def __init__(self, several: bool) -> None:
        """Begin with nothing; `several` workers each have their `pid` where `each` counts."""
        self._several = several
        self._last: dict[int, list[MetricFamily]] = {}  # by pid
        self._gone: list[MetricFamily] = []

    def heard(self, pid: int, families: list[MetricFamily]) -> None:
        """Take the figures of a worker as they are now."""
        self._last[pid] = families

    def left(self, pid: int) -> None:
        """Keep what a worker that has ended had counted, as far as it was heard."""
        if (families := self._last.pop(pid, None)) is not None:
            lasting = [f for f in families if f.kind != "gauge" or f.name in LASTING]
            self._gone = self._merge({0: self._gone, pid: lasting})

    def merged(self) -> list[MetricFamily]:
        """Return the figures of all."""
        return self._merge({0: self._gone, **self._last})

    def _merge(self, by_pid: Mapping[int, list[MetricFamily]]) -> list[MetricFamily]:
        kinds: dict[str, tuple[str, str]] = {}
        merged: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
        for pid, families in by_pid.items():
            for family in families:
                kinds.setdefault(family.name, (family.kind, family.documentation))
                values = merged.setdefault(family.name, {})
                how = GAUGES.get(family.name, "sum")
                for name, labels, value in family.figures:
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
                [Sample(figure, dict(labels), value) for (figure, labels), value in values.items()],
            )
            for name, values in merged.items()
        ]
