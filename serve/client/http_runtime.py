"""The HTTP runtime of `verify`: golden cases through a real server, over a real socket."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from torchship.script.exporting.runtimes import Result, median_us
from torchship.script.format.golden import Call, Case
from torchship.script.format.tree import Flat
from torchship.script.runtime.agreement import check_case
from torchship.script.runtime.archive import Archive
from torchship.script.runtime.batch import batch_inputs
from torchship.serve.client.client import Client
from torchship.serve.client.local_server import LocalServer

# JSON has no FP16 and BF16 (Open Inference Protocol V2, binary tensor extension) and no NaN.
NOT_IN_JSON = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class RunningServer:
    """A server that has the archive live; key and certificate are as for `Client`."""

    url: str
    api_key: str | None = None
    certificate: Path | None = None


class HttpRuntime:
    """`torchship serve` in its own process; each case is sent as JSON and as binary tensors."""

    name = "HTTP"

    def __init__(
        self,
        trusted_keys: Path | None = None,
        running: RunningServer | None = None,
        server: LocalServer | None = None,
    ) -> None:
        """Check archives on a server that is running, on `server`, or on one for each archive."""
        self._server = server or LocalServer(trusted_keys)
        self._running = running

    def check(self, archive: Archive) -> Result:
        """Run the golden cases over HTTP.

        Raises:
            TorchShipError: the server refuses the archive; the message says why.
        """
        manifest = archive.require_manifest()
        version = None if self._running is None else manifest.version
        with self._client(archive) as client:

            def caller(binary: bool) -> Call:
                def call(method: str, inputs: Mapping[str, torch.Tensor]) -> Flat:
                    signature = manifest.methods[method]
                    return client.infer(manifest.name, signature, inputs, method, binary, version)

                return call

            differences = []
            for number, case in enumerate(archive.golden):
                differences += check_case(manifest, number, case, caller(binary=True))
                if fits_json(case):
                    differences += check_case(manifest, number, case, caller(binary=False))
            method, inputs = batch_inputs(manifest, archive.golden, 1)
            return Result(
                self.name, differences, median_us(lambda: caller(binary=True)(method, inputs))
            )

    @contextmanager
    def _client(self, archive: Archive) -> Iterator[Client]:
        running = self._running
        if running is None:
            with self._server.serving(archive.path) as addresses, Client(addresses.http) as client:
                yield client
            return
        with Client(
            running.url, api_key=running.api_key, certificate=running.certificate
        ) as client:
            yield client


def fits_json(case: Case) -> bool:
    """Whether JSON can carry every tensor of a case."""
    tensors = [
        tensor
        for step in case.steps
        for flat in (step.inputs, step.outputs)
        for tensor in flat.values()
    ]
    return not any(tensor.dtype in NOT_IN_JSON for tensor in tensors) and all(
        bool(torch.isfinite(tensor).all()) for tensor in tensors if tensor.is_floating_point()
    )
