"""What reloads cost those who ask meanwhile, and what a loaded model leaves: `bench/reload.py`.

One model, reloaded every second while a few connections ask for it without a pause: requests,
failures, and latency while a reload ran and while none did. Then the model is loaded and unloaded
again and again, and the server's memory is read each time.
"""

from __future__ import annotations

import http.client
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import httpx
import orjson
import typer
from rich.console import Console
from rich.table import Table

from torchship.models.moba import observation
from torchship.script.exporting.export import Options, export
from torchship.script.exporting.target import find_target
from torchship.script.format.atomic_write import write_atomic
from torchship.serve.client.local_server import running_server

MODEL = "moba"
psutil: Any = import_module("psutil")  # it has no types


@dataclass
class Seen:
    """What one connection saw: when each request began, how long it took, and what failed."""

    begun: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def main(
    seconds: Annotated[float, typer.Option(help="How long the load lasts.")] = 30,
    every: Annotated[float, typer.Option(help="Seconds from one reload to the next.")] = 1,
    connections: Annotated[int, typer.Option(help="That ask without a pause.")] = 8,
    cycles: Annotated[int, typer.Option(help="Of loading and unloading.")] = 50,
) -> None:
    """Print both tables; exit with 1 if a request failed."""
    os.environ["TORCHSHIP_SERVE_MODE"] = "explicit"
    os.environ["TORCHSHIP_SERVE_LOAD"] = orjson.dumps([MODEL]).decode()
    with tempfile.TemporaryDirectory() as folder:
        archives = []  # a file whose very bytes are live is not loaded again
        for name in ("one", "other"):
            file = Path(folder) / f"{name}.pt"
            export(find_target(MODEL, None, {}), file, Options(description=name))
            archives.append(file.read_bytes())
            file.unlink()
        served = Path(folder) / f"{MODEL}.pt"
        served.write_bytes(archives[0])
        with running_server([Path(folder)]) as url:
            seen, reloads = _under_load(url, served, archives, seconds, every, connections)
            _print_load(seen, reloads)
            _print_memory(url, cycles)
    raise typer.Exit(any(one.failures for one in seen))


def _under_load(
    url: str,
    served: Path,
    archives: Sequence[bytes],
    seconds: float,
    every: float,
    connections: int,
) -> tuple[list[Seen], list[tuple[float, float]]]:
    """Return what each connection saw, and when each reload began and ended."""
    address = url.removeprefix("http://")
    row = observation(1, 1).flatten().tolist()
    tensor = {"name": "obs", "shape": [1, len(row)], "datatype": "UINT8", "data": row}
    body = orjson.dumps({"inputs": [tensor]})
    end = time.perf_counter() + seconds

    def ask(mine: Seen) -> None:
        connection = http.client.HTTPConnection(address)
        while (begun := time.perf_counter()) < end:
            try:
                connection.request("POST", f"/v2/models/{MODEL}/infer", body)
                answer = connection.getresponse()
                text = answer.read()
                if answer.status != 200:
                    mine.failures.append(f"{answer.status} {text[:200]!r}")
            except (OSError, http.client.HTTPException) as error:
                mine.failures.append(repr(error))
                connection.close()
            mine.begun.append(begun)
            mine.took.append(time.perf_counter() - begun)
        connection.close()

    seen = [Seen() for _ in range(connections)]
    threads = [threading.Thread(target=ask, args=(mine,)) for mine in seen]
    for thread in threads:
        thread.start()
    reloads: list[tuple[float, float]] = []
    while (begun := time.perf_counter()) < end:
        write_atomic(served, archives[(len(reloads) + 1) % 2])
        _change(url, "load")
        reloads.append((begun, time.perf_counter()))
        time.sleep(max(0.0, begun + every - time.perf_counter()))
    for thread in threads:
        thread.join()
    return seen, reloads


def _change(url: str, what: str) -> None:
    path = f"{url}/v2/repository/models/{MODEL}/{what}"
    httpx.post(path, timeout=60, trust_env=False).raise_for_status()


def _print_load(seen: Sequence[Seen], reloads: Sequence[tuple[float, float]]) -> None:
    during: list[float] = []
    between: list[float] = []
    for one in seen:
        for begun, took in zip(one.begun, one.took, strict=True):
            inside = any(begun < stop and begun + took > start for start, stop in reloads)
            (during if inside else between).append(took)
    table = Table(title=f"{MODEL}, {len(seen)} connections")
    for name in ("requests", "count", "p50 ms", "p99 ms", "largest ms"):
        table.add_column(name)
    for name, times in (("while a reload ran", during), ("otherwise", between)):
        if len(times) > 1:
            hundredths = statistics.quantiles(times, n=100)
            figures = (hundredths[49], hundredths[98], max(times))
            table.add_row(name, f"{len(times):,}", *(f"{1000 * f:.1f}" for f in figures))
    console = Console()
    console.print(table)
    lasted = statistics.median(stop - start for start, stop in reloads)
    failures = [failure for one in seen for failure in one.failures]
    console.print(f"{len(reloads)} reloads of {lasted:.2f} s (median), {len(failures)} failures")
    for failure in failures[:5]:
        console.print(failure, markup=False)


def _print_memory(url: str, cycles: int) -> None:
    processes = psutil.Process().children(recursive=True)
    (child,) = (process for process in processes if process.name() == "torchship-w0")
    sizes: list[tuple[int, int]] = []
    for _ in range(cycles):
        _change(url, "load")
        loaded = child.memory_info().rss
        _change(url, "unload")
        sizes.append((loaded, child.memory_info().rss))
    table = Table(title="resident memory, MB")
    for name in ("cycle", "loaded", "unloaded"):
        table.add_column(name)
    for cycle in sorted({0, 1, cycles // 5, cycles // 2, cycles - 1}):
        table.add_row(str(cycle + 1), *(f"{size / 1e6:.1f}" for size in sizes[cycle]))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
