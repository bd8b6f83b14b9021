"""The samples of several workers, merged into those of one server."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families

from torchship.serve.telemetry.samples import MetricFamily, Totals, expose, families_of, samples_of


def counted(requests: int, seconds: list[float], waiting: int, last: float) -> list[MetricFamily]:
    """The figures of a worker."""
    registry = CollectorRegistry()
    counter = Counter("torchship_requests", "Requests.", ["code"], registry=registry)
    counter.labels("200").inc(requests)
    histogram = Histogram("torchship_queue_seconds", "Wait.", buckets=(1, 2), registry=registry)
    for value in seconds:
        histogram.observe(value)
    gauges = {
        "torchship_queue_rows": waiting,
        "torchship_live_sequences": 7,
        "torchship_last_inference_timestamp_seconds": last,
        "torchship_resident_memory_bytes": 100,
    }
    for name, value in gauges.items():
        Gauge(name, "What is now.", registry=registry).set(value)
    return families_of(registry)


def values(totals: Totals) -> dict[str, float]:
    """Every figure by its name and labels, as it is exposed."""
    text, _ = expose(totals.merged())
    return {
        sample.name + "".join(f" {k}={v}" for k, v in sample.labels.items()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_counts_are_added_and_states_are_not() -> None:
    totals = Totals(several=True)
    totals.update(10, counted(3, [0.5, 1.5], 4, last=50))
    totals.update(11, counted(4, [5], 2, last=40))
    assert values(totals) == {
        "torchship_requests_total code=200": 7,
        "torchship_queue_seconds_bucket le=1.0": 1,
        "torchship_queue_seconds_bucket le=2.0": 2,
        "torchship_queue_seconds_bucket le=+Inf": 3,
        "torchship_queue_seconds_count": 3,
        "torchship_queue_seconds_sum": 7,
        "torchship_queue_rows": 6,
        "torchship_live_sequences": 7,
        "torchship_last_inference_timestamp_seconds": 50,
        "torchship_resident_memory_bytes pid=10": 100,
        "torchship_resident_memory_bytes pid=11": 100,
    }


def test_what_a_worker_counted_stays_when_it_has_ended() -> None:
    totals = Totals(several=False)
    totals.update(10, counted(2, [0.5], 4, last=50))
    totals.update(10, counted(3, [0.5], 4, last=50))
    totals.remove(10)
    totals.remove(99)  # of which nothing was heard
    assert values(totals) == {
        "torchship_requests_total code=200": 3,
        "torchship_queue_seconds_bucket le=1.0": 1,
        "torchship_queue_seconds_bucket le=2.0": 1,
        "torchship_queue_seconds_bucket le=+Inf": 1,
        "torchship_queue_seconds_count": 1,
        "torchship_queue_seconds_sum": 0.5,
        "torchship_last_inference_timestamp_seconds": 50,
    }
    totals.update(12, counted(1, [], 1, last=0))
    found = values(totals)
    assert found["torchship_requests_total code=200"] == 4
    assert found["torchship_queue_rows"] == 1
    assert found["torchship_resident_memory_bytes"] == 100
    totals.remove(12)
    assert values(totals)["torchship_requests_total code=200"] == 4


def test_creation_is_the_earliest() -> None:
    totals = Totals(several=True)
    first, second = counted(1, [], 0, 0), counted(1, [], 0, 0)
    totals.update(1, second)
    totals.update(2, first)
    created = {f.value for f in samples_of(totals.merged()) if f.name.endswith("s_created")}
    assert created == {f.value for f in samples_of(first) if f.name.endswith("s_created")}
