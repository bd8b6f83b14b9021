"""The metrics of models in the format of Triton's statistics extension."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from torchship.serve.telemetry.samples import Sample

PHASES = {"compute_input": "input", "compute_infer": "infer", "compute_output": "output"}

Json = dict[str, object]


def statistics(samples: Iterable[Sample], models: Iterable[tuple[str, str]]) -> Json:
    """Return the statistics of these models (name and version), in this order."""
    of: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        of[sample.labels.get("model", ""), sample.labels.get("version", "")].append(sample)
    return {"model_stats": [_one(name, version, of[name, version]) for name, version in models]}


def _one(name: str, version: str, samples: Iterable[Sample]) -> Json:
    plain: dict[str, float] = defaultdict(float)
    codes: dict[bool, float] = defaultdict(float)
    phases: dict[str, float] = defaultdict(float)
    executions: dict[int, float] = {}
    seconds: dict[tuple[int, str], float] = {}
    for sample in samples:
        labels, value = sample.labels, sample.value
        match sample.name.removeprefix("torchship_"):
            case "requests_total":
                codes[int(labels["code"]) < 400] += value
            case "phase_seconds_total":
                phases[labels["phase"]] += value
            case "executions_total":
                executions[int(labels["batch_size"])] = value
            case "execution_seconds_total":
                seconds[int(labels["batch_size"]), labels["phase"]] = value
            case other:
                plain[other] += value
    failed = plain["failed_request_seconds_total"]
    success = codes[True]
    return {
        "name": name,
        "version": version,
        "last_inference": int(plain["last_inference_timestamp_seconds"] * 1000),
        "inference_count": int(sum(size * number for size, number in executions.items())),
        "execution_count": int(sum(executions.values())),
        "inference_stats": {
            "success": _duration(success, plain["request_seconds_sum"] - failed),
            "fail": _duration(codes[False], failed),
            "queue": _duration(plain["queue_seconds_count"], plain["queue_seconds_sum"]),
            **{key: _duration(success, phases[phase]) for key, phase in PHASES.items()},
            "cache_hit": _duration(0, 0),
            "cache_miss": _duration(0, 0),
        },
        "batch_stats": [
            {
                "batch_size": size,
                **{key: _duration(number, seconds[size, phase]) for key, phase in PHASES.items()},
            }
            for size, number in sorted(executions.items())
        ],
    }


def _duration(count: float, seconds: float) -> dict[str, int]:
    return {"count": int(count), "ns": max(0, round(seconds * 1e9))}
