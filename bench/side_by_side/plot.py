"""The plot of latency against batch size, for one model in every runtime."""

from __future__ import annotations

from pathlib import Path

from side_by_side.results import Results
from side_by_side.targets import runtime_of

LEFT_OUT = ("native in the runner",)


def plot(results: Results, model: str, path: Path) -> None:
    """Draw the median latency of every runtime at every batch size, on logarithmic axes.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "torchship"  # the same figures give the same file
    lines = latencies(results, model)
    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for name, points in sorted(lines.items(), key=lambda line: -line[1][max(line[1])]):
        own = name == "native"
        axes.plot(
            *(list(points), list(points.values())),
            marker="o",
            linewidth=2.5 if own else 1.2,
            color="black" if own else None,
            label=name,
        )
    batches = sorted({batch for points in lines.values() for batch in points})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.set_xlabel("batch size (rows)")
    axes.set_ylabel("latency of a call (µs)")
    cores = f"{results.machine['processor']}, 1 thread"
    axes.set_title(f"{model}, {cores}", loc="left", fontsize="medium")
    axes.grid(True, which="major", alpha=0.3)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def latencies(results: Results, model: str) -> dict[str, dict[int, float]]:
    """Return median latencies in µs by runtime and batch size, of the faster variant of each."""
    lines: dict[str, dict[int, float]] = {}
    for key in results.figures:
        work, _, _ = key.rpartition("/")
        name, _, batch = work.partition("/")
        if name != model or not batch.isdigit() or runtime_of(key) in LEFT_OUT:
            continue
        value = results.median(key)
        if value is not None:
            line = lines.setdefault(runtime_of(key), {})
            line[int(batch)] = min(value, line.get(int(batch), value))
    return {name: dict(sorted(points.items())) for name, points in lines.items()}
