"""Whether a server's memory grows under load that never repeats itself: `bench/memory.py`.

All our models behind one server, asked for ten minutes by a few connections: batches of any size as
JSON and as binary data, golden cases, steps of sequences, mistakes, metrics and lists. The worker's
anonymous memory is read every 20 s; a cache without a bound shows as growth that goes on.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import httpx
import orjson
import typer
from rich.console import Console

from torchship.models.registry import names
from torchship.script.errors import TorchShipError
from torchship.script.exporting.export import export
from torchship.script.exporting.target import find_target
from torchship.script.runtime.archive import Archive, open_archive
from torchship.script.runtime.batch import batch_inputs
from torchship.serve.client.client import Client
from torchship.serve.client.local_server import running_server
from torchship.serve.errors import ServerError
from torchship.serve.protocol.messages import InferRequest, encode_request
from torchship.serve.protocol.wire_signature import Signature

psutil: Any = import_module("psutil")  # it has no types

MOST_ROWS = 100
ROUTES = ("/metrics", "/v2/repository/index", "/v2/models/stats", "/openapi.json", "/v2")


class Clients:
    """Threads that ask a server for one thing after another until they are told to end."""

    def __init__(self, url: str, archives: Sequence[Archive]) -> None:
        self._url = url
        self._archives = archives
        self._over = threading.Event()
        self.answered = 0
        self.refused = 0
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def start(self, count: int) -> None:
        """Start so many threads."""
        self._threads = [
            threading.Thread(target=self._ask, args=(random.Random(seed),)) for seed in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Let each finish its request."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, chance: random.Random) -> None:
        kinds: list[Callable[..., None]] = [self._batch, self._case, self._sequence]
        kinds += [self._mistake, self._route]
        with Client(self._url) as client, httpx.Client(base_url=self._url, trust_env=False) as http:
            while not self._over.is_set():
                (kind,) = chance.choices(kinds, (5, 2, 2, 1, 0.05))
                try:
                    kind(chance, chance.choice(self._archives), client, http)
                    answered, refused = 1, 0
                except (ServerError, httpx.HTTPStatusError):
                    answered, refused = 0, 1
                with self._lock:
                    self.answered += answered
                    self.refused += refused

    def _batch(self, chance: random.Random, archive: Archive, client: Client, _: object) -> None:
        manifest = archive.require_manifest()
        rows = chance.randint(1, MOST_ROWS)
        method, inputs = batch_inputs(manifest, archive.golden, rows)
        binary = chance.random() < 0.5
        client.infer(manifest.name, manifest.methods[method], inputs, method, binary)

    def _case(self, chance: random.Random, archive: Archive, client: Client, _: object) -> None:
        case = chance.choice(archive.golden)
        inputs = chance.choice(case.steps).inputs
        signature = archive.require_manifest().methods[case.method]
        binary = chance.random() < 0.5
        with suppress(TorchShipError):  # JSON cannot carry everything
            client.infer(archive.require_manifest().name, signature, inputs, case.method, binary)

    def _sequence(
        self, chance: random.Random, archive: Archive, _: object, http: httpx.Client
    ) -> None:
        case = next(
            (c for c in archive.golden if archive.require_manifest().methods[c.method].state), None
        )
        if case is None:
            return
        method = archive.require_manifest().methods[case.method]
        states = {state.input for state in method.state}
        steps = [
            {name: value for name, value in step.inputs.items() if name not in states}
            for step in case.steps
        ]
        number = chance.randrange(1 << 60)
        for place, step in enumerate(steps):
            said: dict[str, object] = {"sequence_id": number, "method": case.method}
            said |= {"sequence_start": place == 0, "sequence_end": chance.random() < 0.2}
            request = InferRequest(Signature(method).to_wire(step), parameters=said)
            content, _length = encode_request(request, lambda name: False)
            answer = http.post(
                f"/v2/models/{archive.require_manifest().name}/infer", content=content
            )
            answer.raise_for_status()
            if said["sequence_end"]:
                break

    def _mistake(
        self, chance: random.Random, archive: Archive, _: object, http: httpx.Client
    ) -> None:
        name = archive.require_manifest().name
        number = chance.randrange(1 << 60)
        entry = {"name": f"x{number}", "datatype": "FP32", "shape": [number % 7, 3], "data": [1.0]}
        path, content = chance.choice(
            [
                (f"/v2/models/{number}/infer", b"{}"),
                (f"/v2/models/{name}/infer", orjson.dumps({"inputs": [entry]})),
                (f"/v2/models/{name}/infer", b"{" * (number % 1000)),
                (f"/v2/models/{name}/versions/{number}/infer", b"{}"),
                (f"/v2/{number}", b"nothing"),
            ]
        )
        answer = http.post(path, content=content, headers={"x-request-id": str(number)})
        answer.raise_for_status()

    def _route(self, chance: random.Random, _: object, __: object, http: httpx.Client) -> None:
        http.get(chance.choice(ROUTES))


def main(
    minutes: Annotated[float, typer.Option(help="How long the load lasts.")] = 10,
    connections: Annotated[int, typer.Option(help="That ask without a pause.")] = 4,
    models: Annotated[str, typer.Option(help="Names, separated by commas; all of ours.")] = "",
    every: Annotated[float, typer.Option(help="Seconds between two looks.")] = 20,
) -> None:
    """Print the worker's anonymous memory as it goes, and how fast it grew in the second half."""
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for name in models.split(",") if models else names():
            paths.append(Path(folder) / f"{name}.pt")
            export(find_target(name, None, {}), paths[-1])
        archives = [open_archive(path) for path in paths]
        with running_server(paths) as url:
            children = psutil.Process().children(recursive=True)
            (worker,) = (child for child in children if child.name() == "torchship-w0")
            clients = Clients(url, archives)
            clients.start(connections)
            looks: list[tuple[float, float]] = []
            begun = time.monotonic()
            while (passed := time.monotonic() - begun) < 60 * minutes:
                looks.append((passed / 60, anonymous(worker.pid)))
                console.print(
                    f"{passed:5.0f} s  {looks[-1][1]:7.1f} MB  {clients.answered:,} answered, "
                    f"{clients.refused:,} refused"
                )
                time.sleep(every)
            clients.end()
    half = looks[len(looks) // 2 :]
    growth = statistics.linear_regression(*zip(*half, strict=True)).slope
    console.print(f"{len(archives)} models; second half: {growth:+.2f} MB a minute")


def anonymous(pid: int) -> float:
    """Return a process's anonymous memory in MB: what it has allocated and written to."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon:")).split()[1]) / 1000


if __name__ == "__main__":
    typer.run(main)
