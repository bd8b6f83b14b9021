"""The HTTP runtime of `verify`: golden cases through a real server, over a real socket."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import torch

from torchship.script.exporting.runtimes import Result, median_us
from torchship.script.format.golden import Call, Case
from torchship.script.format.tree import Flat
from torchship.script.runtime.agreement import check_case
from torchship.script.runtime.archive import Archive
from torchship.script.runtime.batch import batch_inputs
from torchship.serve.client.client import Client
from torchship.serve.client.local_server import Addresses, LocalServer

# JSON has no FP16 and BF16 (Open Inference Protocol V2, binary tensor extension) and no NaN.
NOT_IN_JSON = (torch.float16, torch.bfloat16)


class HttpRuntime:
    """`torchship serve` in its own process; each case is sent as JSON and as binary tensors."""

    name = "HTTP"

    def __init__(
        self,
        trusted_keys: Path | None = None,
        url: str | None = None,
        server: LocalServer | None = None,
    ) -> None:
        """Check archives on the server at `url`, on `server`, or on one for each archive."""
        self._server = server or LocalServer(trusted_keys)
        self._url = url

    def check(self, archive: Archive) -> Result:
        """Run the golden cases over HTTP.

        Raises:
            TorchShipError: the server refuses the archive; the message says why.
        """
        manifest = archive.require_manifest()
        served = (
            self._server.serving(archive.path)
            if self._url is None
            else nullcontext(Addresses(self._url))
        )
        with served as addresses, Client(addresses.http) as client:

            def caller(binary: bool) -> Call:
                def call(method: str, inputs: Mapping[str, torch.Tensor]) -> Flat:
                    signature = manifest.methods[method]
                    return client.infer(manifest.name, signature, inputs, method, binary)

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
