"""gRPC beside HTTP, and beside Triton's: `make bench-protocols`.

One row a request with every input and output, over HTTP/1.1 as JSON and as binary data, and over
gRPC with raw contents, at 1 and 64 connections. h2load (C, one thread) sends all of them, so that
the client is the same and costs the same. Every round measures each server once, in turn, so that a
noisy moment of the machine hits all of them; the table shows medians over the rounds, and ratios to
our binary HTTP.

`--triton` measures Triton's server too, where pip finds nvidia-pytriton, whose wheel carries it.
There the same TorchScript file runs in Triton's Python backend, in a process beside the server,
since its PyTorch backend is not on PyPI: it is Triton's gRPC, but not its fastest model.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from triton_server import triton_servers

from torchship.script.exporting.export import export
from torchship.script.exporting.target import find_target
from torchship.script.format.tree import Flat
from torchship.script.runtime.archive import Archive, open_archive
from torchship.script.runtime.batch import batch_inputs
from torchship.serve.client.local_server import GRPC, running_servers
from torchship.serve.grpc.call import SERVICE
from torchship.serve.grpc.conversion import write_request
from torchship.serve.protocol.messages import InferRequest, encode_request
from torchship.serve.protocol.wire_signature import Signature

LENGTH = "Inference-Header-Content-Length"
INFER = f"/{SERVICE}/ModelInfer"
BASE = "HTTP binary"


@dataclass(frozen=True)
class Load:
    """What h2load sends to a server: a body, its header fields, and the protocol."""

    model: str
    form: str
    url: str
    body: bytes
    headers: dict[str, str]
    http1: bool

    def command(self, folder: Path, connections: int, seconds: int) -> list[str]:
        """Return the command that sends it for so long; the log has each request's duration."""
        body = folder / f"{self.model}-{self.form}"
        if not body.exists():
            body.write_bytes(self.body)
        fields = [part for k, v in self.headers.items() for part in ("-H", f"{k}: {v}")]
        return [
            *("h2load", "-t1", f"-c{connections}", "-m1", f"-D{seconds}", "--warm-up-time=1"),
            *(["--h1"] if self.http1 else []),
            *("-d", str(body), *fields, f"--log-file={folder / 'log'}", self.url),
        ]


def main(
    models: str = "moba,charlstm",
    seconds: int = 4,
    rounds: int = 5,
    connections: str = "1,64",
    triton: bool = False,
    json_output: Path | None = None,
) -> None:
    """Print the table; write the figures as JSON too if a path is given."""
    if shutil.which("h2load") is None:
        sys.exit("h2load is not installed: sudo apt-get install -y nghttp2-client")
    figures: dict[tuple[str, int, str], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        archives = [
            open_archive(export(find_target(model, None, {}), folder / f"{model}.pt").path)
            for model in models.split(",")
        ]
        ours = stack.enter_context(running_servers([a.path for a in archives], options=GRPC))
        theirs = stack.enter_context(triton_servers(archives)) if triton else None
        loads = [load for a in archives for load in loads_of(a, ours.http, ours.grpc, "")]
        if theirs is not None:
            loads += [load for a in archives for load in loads_of(a, *theirs, "Triton ")]
        for load in loads:
            check(load)
        for count in map(int, connections.split(",")):
            for _ in track(range(rounds), f"{count} connections", transient=True):
                for load in loads:
                    result = measured(load, folder, count, seconds)
                    figures.setdefault((load.model, count, load.form), []).append(result)
    medians = {
        key: {name: statistics.median(r[name] for r in results) for name in results[0]}
        for key, results in figures.items()
    }
    Console().print(table(medians, rounds))
    if json_output:
        json_output.write_text(json.dumps({"/".join(map(str, k)): v for k, v in medians.items()}))


def example(archive: Archive) -> Flat:
    """Return one row of a golden case, with a state of zeros where the case has none."""
    manifest = archive.require_manifest()
    _, inputs = batch_inputs(manifest, archive.golden, 1)
    for state in manifest.methods["forward"].state:
        if state.input not in inputs:
            known = next(c for c in archive.golden if state.input in c.steps[0].inputs)
            inputs[state.input] = torch.zeros_like(known.steps[0].inputs[state.input][:1])
    return inputs


def loads_of(archive: Archive, http: str, grpc_address: str, whose: str) -> list[Load]:
    """Return the same request in each form."""
    manifest = archive.require_manifest()
    name, signature = manifest.name, Signature(manifest.methods["forward"])
    inputs = signature.to_wire(example(archive))
    url = f"{http}/v2/models/{name}/infer"
    as_json, _ = encode_request(InferRequest(inputs), lambda _: False)
    binary = InferRequest(inputs, parameters={"binary_data_output": True})
    packed, length = encode_request(binary, lambda _: True)
    message = write_request(name, None, InferRequest(inputs)).SerializeToString()
    framed = b"\0" + len(message).to_bytes(4, "big") + message  # as gRPC has a message in HTTP/2
    fields = {"content-type": "application/grpc", "te": "trailers"}
    address = grpc_address.replace("grpc://", "http://")
    return [
        Load(name, f"{whose}HTTP JSON", url, as_json, {"Content-Type": "application/json"}, True),
        Load(name, f"{whose}{BASE}", url, packed, {LENGTH: str(length)}, True),
        Load(name, f"{whose}gRPC", address + INFER, framed, fields, False),
    ]


def check(load: Load) -> None:
    """Send a request once, since h2load does not see the status of a gRPC call."""
    if load.http1:
        answer = httpx.post(load.url, content=load.body, headers=load.headers, trust_env=False)
        if answer.status_code != 200:
            raise RuntimeError(f"{load.form}: {answer.text}")
        return
    address = load.url.removeprefix("http://").removesuffix(INFER)
    with grpc.insecure_channel(address) as channel:
        infer: Callable[..., bytes] = channel.unary_unary(INFER)
        infer(load.body[5:], timeout=60)


def measured(load: Load, folder: Path, connections: int, seconds: int) -> dict[str, float]:
    """Return requests per second, and p50 and p99 in µs; every answer must be 200."""
    log = folder / "log"
    log.unlink(missing_ok=True)
    command = load.command(folder, connections, seconds)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.split("\t") for line in log.read_text().splitlines()]
    if not lines or any(status != "200" for _, status, _ in lines):
        sys.exit(f"{load.url}: errors under load:\n{done.stdout}")
    return figures_of([float(took) for _, _, took in lines], seconds)


def figures_of(durations: Sequence[float], seconds: float) -> dict[str, float]:
    """Return the figures of requests that took so many µs, within so many seconds."""
    cuts = statistics.quantiles(durations, n=100) if len(durations) > 1 else [durations[0]] * 99
    return {"rps": len(durations) / seconds, "p50_us": cuts[49], "p99_us": cuts[98]}


def table(medians: dict[tuple[str, int, str], dict[str, float]], rounds: int) -> Table:
    """Return the figures with their ratios to our binary HTTP."""
    found = Table(
        *("model", "connections", "form", "req/s", "ratio", "p50 ms", "ratio", "p99 ms"),
        title=f"one row a request; medians of {rounds} rounds; ratios to {BASE}; client: h2load",
        title_justify="left",
    )
    for (model, count, form), figure in sorted(medians.items(), key=lambda item: item[0][:2]):
        base = medians[model, count, BASE]
        found.add_row(
            *(model, str(count), form, f"{figure['rps']:,.0f}"),
            f"{figure['rps'] / base['rps']:.2f}",
            f"{figure['p50_us'] / 1000:.2f}",
            f"{figure['p50_us'] / base['p50_us']:.2f}",
            f"{figure['p99_us'] / 1000:.1f}",
        )
    return found


if __name__ == "__main__":
    typer.run(main)
