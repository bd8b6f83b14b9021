"""Throughput of archives on Ray Serve beside one `torchship serve` process and plain Ray Serve.

`moba`, one row a request, JSON, loaded by wrk: `python bench/ray_serve.py`. Every round measures
each server once, in turn, so that a noisy moment of the machine hits all of them; the table shows
medians over the rounds, and ratios to plain Ray Serve with as many replicas.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import orjson
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from server import Load, wrk

from torchship.models.moba import observation
from torchship.script.exporting.export import export
from torchship.script.exporting.target import find_target
from torchship.serve.client.local_server import running_server

PLAIN, REPLICAS, ONE = "plain Ray Serve", "torchship ray deploy", "torchship serve, one process"
ENVIRONMENT = {
    **os.environ,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # the cluster listens on 127.0.0.1 only
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
}


def main(
    seconds: int = 4,
    rounds: int = 5,
    connections: str = "1,16,64",
    replicas: int = 1,
    cluster_port: int = 6381,
    port: int = 8011,
) -> None:
    """Print the table, in Markdown too."""
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed: sudo apt-get install -y wrk")
    figures: dict[tuple[int, str], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        archive = export(find_target("moba", None, {}), folder / "moba.pt").path
        ours = stack.enter_context(running_server([archive]))
        address = stack.enter_context(cluster(cluster_port, 2 * replicas))
        on_ray = deploy(address, archive, port, replicas)
        loads = requests(ours, on_ray)
        scripts = [load.script(folder) for load in loads]
        for load in loads:
            answer = httpx.post(load.url, content=load.body, headers=load.headers, trust_env=False)
            answer.raise_for_status()
        for count in map(int, connections.split(",")):
            for _ in track(range(rounds), f"{count} connections", transient=True):
                for load, script in zip(loads, scripts, strict=True):
                    result = wrk(script, load.url, count, seconds)
                    figures.setdefault((count, load.server), []).append(result)
    show(figures, rounds, replicas)


@contextmanager
def cluster(port: int, cpus: int) -> Iterator[str]:
    """Run a cluster of one node until the block ends; yield its address."""
    address = f"127.0.0.1:{port}"
    start = ["ray", "start", "--head", "--port", str(port), "--num-cpus", str(cpus)]
    start += ["--include-dashboard", "false", "--block"]
    with subprocess.Popen(start, env=ENVIRONMENT, stdout=subprocess.DEVNULL) as process:
        try:
            check = ["ray", "health-check", "--address", address]
            while subprocess.run(check, env=ENVIRONMENT, capture_output=True).returncode:
                if process.poll() is not None:
                    sys.exit("the Ray cluster did not start")
            yield address
        finally:
            process.terminate()


def deploy(address: str, archive: Path, port: int, replicas: int) -> str:
    """Run both applications on a cluster; return the address of its proxy."""
    number = str(replicas)
    command = ["torchship", "ray", "deploy", str(archive), "--address", address]
    options = ["--port", str(port), "--replicas", number, "--state", "none"]
    subprocess.run([*command, *options], env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    plain = Path(__file__).with_name("plain_ray_serve.py")
    subprocess.run(
        [sys.executable, str(plain), address, str(archive), number], env=ENVIRONMENT, check=True
    )
    return f"http://127.0.0.1:{port}"


def requests(ours: str, on_ray: str) -> list[Load]:
    """Return the loads, of which the first is the one that the others are compared with."""
    obs = observation(1, 1).numpy()
    entry = {"name": "obs", "datatype": "UINT8", "shape": [1, 510], "data": obs[0].tolist()}
    body = orjson.dumps({"inputs": [entry], "outputs": [{"name": "logits"}]})
    headers = {"Content-Type": "application/json"}
    path = "/v2/models/moba/infer"
    return [
        Load("json", PLAIN, f"{on_ray}/plain", orjson.dumps({"obs": obs.tolist()}), headers),
        Load("json", REPLICAS, f"{on_ray}{path}", body, headers),
        Load("json", ONE, f"{ours}{path}", body, headers),
    ]


def show(
    figures: dict[tuple[int, str], list[dict[str, float]]], rounds: int, replicas: int
) -> None:
    """Print the medians with their ratios, as a table and as Markdown."""
    medians = {
        key: {name: statistics.median(r[name] for r in results) for name in results[0]}
        for key, results in figures.items()
    }
    columns = ("connections", "server", "req/s", "ratio", "p50 ms", "p99 ms")
    title = f"moba, one row a request, JSON; {replicas} replica(s); medians of {rounds} rounds"
    table = Table(*columns, title=title, title_justify="left")
    lines = ["| " + " | ".join(columns) + " |", "|---|---|" + "--:|" * 4]
    for (count, server), figure in medians.items():
        ratio = figure["rps"] / medians[count, PLAIN]["rps"]
        row = (
            *(str(count), server, f"{figure['rps']:,.0f}", f"{ratio:.2f}"),
            *(f"{figure['p50_us'] / 1000:.2f}", f"{figure['p99_us'] / 1000:.1f}"),
        )
        table.add_row(*row)
        lines.append("| " + " | ".join(row) + " |")
    Console().print(table)
    print("\n".join(lines))


if __name__ == "__main__":
    typer.run(main)
