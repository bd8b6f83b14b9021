"""Throughput and latency of `torchship serve` beside a plain endpoint: `make bench-server`.

`moba`, one row a request, JSON and binary, at 1, 16 and 64 connections, loaded by wrk. Every round
measures each server once, in turn, so that a noisy moment of the machine hits all of them; the
table shows medians over the rounds, and ratios to the plain endpoint in the same form.
"""

from __future__ import annotations

import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import orjson
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from torchship.models.moba import observation
from torchship.script.exporting.export import export
from torchship.script.exporting.target import find_target
from torchship.serve.client.local_server import running_server

HEADER = "Inference-Header-Content-Length"
REPORT = """
done = function(summary, latency)
  local errors = summary.errors
  io.write(string.format('{"rps": %f, "p50_us": %f, "p99_us": %f, "errors": %d}',
    summary.requests / summary.duration * 1e6, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


@dataclass(frozen=True)
class Load:
    """A server's endpoint, and the request that wrk repeats."""

    form: str
    server: str
    url: str
    body: bytes
    headers: dict[str, str]

    def script(self, folder: Path) -> Path:
        """Write the request as a wrk script."""
        body = "".join(f"\\{byte:03d}" for byte in self.body)
        headers = "".join(f'wrk.headers["{k}"] = "{v}"\n' for k, v in self.headers.items())
        path = folder / f"{self.form}-{self.server}.lua"
        path.write_text(f'wrk.method = "POST"\nwrk.body = "{body}"\n{headers}{REPORT}')
        return path


def main(
    seconds: int = 4, rounds: int = 5, connections: str = "1,16,64", json_output: Path | None = None
) -> None:
    """Print the table; write the figures as JSON too if a path is given."""
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed: sudo apt-get install -y wrk")
    figures: dict[tuple[int, str, str], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        archive = export(find_target("moba", None, {}), folder / "moba.pt").path
        ours = stack.enter_context(running_server([archive]))
        two = stack.enter_context(
            running_server([archive], options=["--workers", "2", "--state", "none"])
        )
        native = stack.enter_context(running_server([archive], options=["--native", "auto"]))
        plain = stack.enter_context(plain_server(archive))
        loads = requests(ours, two, native, plain)
        scripts = [load.script(folder) for load in loads]
        for load in loads:
            answer = httpx.post(load.url, content=load.body, headers=load.headers, trust_env=False)
            answer.raise_for_status()
        for count in map(int, connections.split(",")):
            for _ in track(range(rounds), f"{count} connections", transient=True):
                for load, script in zip(loads, scripts, strict=True):
                    result = wrk(script, load.url, count, seconds)
                    figures.setdefault((count, load.form, load.server), []).append(result)
    medians = {
        key: {name: statistics.median(r[name] for r in results) for name in results[0]}
        for key, results in figures.items()
    }
    Console().print(table(medians, rounds))
    if json_output:
        json_output.write_text(json.dumps({"/".join(map(str, k)): v for k, v in medians.items()}))


def requests(ours: str, two: str, native: str, plain: str) -> list[Load]:
    """Return the loads; the first server of each form is the one that others are compared with."""
    obs = observation(1, 1).numpy()
    entry: dict[str, object] = {"name": "obs", "datatype": "UINT8", "shape": [1, 510]}
    as_json = {"inputs": [entry | {"data": obs[0].tolist()}], "outputs": [{"name": "logits"}]}
    head = orjson.dumps(
        {
            "inputs": [entry | {"parameters": {"binary_data_size": 510}}],
            "outputs": [{"name": "logits", "parameters": {"binary_data": True}}],
        }
    )
    json_type, binary_type = (
        {"Content-Type": f"application/{kind}"} for kind in ("json", "octet-stream")
    )
    infer, infer_two, infer_native = (
        f"{server}/v2/models/moba/infer" for server in (ours, two, native)
    )
    body, packed = orjson.dumps(as_json), head + obs.tobytes()
    listed = orjson.dumps({"obs": obs.tolist()})
    binary_headers = {**binary_type, HEADER: str(len(head))}
    return [
        Load("json", "plain", f"{plain}/json", listed, json_type),
        Load("json", "plain, async", f"{plain}/json-async", listed, json_type),
        Load("json", "torchship", infer, body, json_type),
        Load("json", "torchship, 2 workers", infer_two, body, json_type),
        Load("json", "torchship, native", infer_native, body, json_type),
        Load("binary", "plain", f"{plain}/binary", obs.tobytes(), binary_type),
        Load("binary", "plain, async", f"{plain}/binary-async", obs.tobytes(), binary_type),
        Load("binary", "torchship", infer, packed, binary_headers),
        Load("binary", "torchship, 2 workers", infer_two, packed, binary_headers),
        Load("binary", "torchship, native", infer_native, packed, binary_headers),
    ]


def wrk(script: Path, url: str, connections: int, seconds: int) -> dict[str, float]:
    """Return requests per second, p50 and p99 in µs; no answer may be an error."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout[done.stdout.rindex("{") :])
    if result.pop("errors"):
        sys.exit(f"{url}: errors under load:\n{done.stdout}")
    return result


@contextmanager
def plain_server(archive: Path) -> Iterator[str]:
    """Run `plain_server.py` until the block ends; yield its URL when it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = Path(__file__).with_name("plain_server.py")
    process = subprocess.Popen([sys.executable, str(script), str(archive), str(port)])
    try:
        transport = httpx.HTTPTransport(retries=10)  # with growing pauses
        with httpx.Client(transport=transport, trust_env=False) as client:
            client.get(f"http://127.0.0.1:{port}/docs", timeout=60)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def table(medians: dict[tuple[int, str, str], dict[str, float]], rounds: int) -> Table:
    """Return the figures with their ratios to the plain endpoint's."""
    found = Table(
        *("connections", "form", "server", "req/s", "ratio", "p50 ms", "ratio", "p99 ms"),
        title=f"moba, one row a request; medians of {rounds} rounds; ratios to plain",
        title_justify="left",
    )
    for (count, form, server), figure in medians.items():
        base = medians[count, form, "plain"]
        found.add_row(
            *(str(count), form, server, f"{figure['rps']:,.0f}"),
            f"{figure['rps'] / base['rps']:.2f}",
            f"{figure['p50_us'] / 1000:.2f}",
            f"{figure['p50_us'] / base['p50_us']:.2f}",
            f"{figure['p99_us'] / 1000:.1f}",
        )
    return found


if __name__ == "__main__":
    typer.run(main)
