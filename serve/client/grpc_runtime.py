"""The gRPC runtime of `verify`: golden cases through a real server, over a real socket."""

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
from torchship.serve.client.http_runtime import NOT_IN_JSON
from torchship.serve.client.local_server import Addresses, LocalServer


class GrpcRuntime:
    """`torchship serve` in its own process; each case is sent as raw and as typed contents."""

    name = "gRPC"

    def __init__(
        self,
        trusted_keys: Path | None = None,
        address: str | None = None,
        server: LocalServer | None = None,
    ) -> None:
        """Check archives on the server at `address`, on `server`, or on one for each archive."""
        self._server = server or LocalServer(trusted_keys)
        self._address = address

    def check(self, archive: Archive) -> Result:
        """Run the golden cases over gRPC.

        Raises:
            TorchShipError: the server refuses the archive; the message says why.
        """
        # Only here: the library has threads, and most users of the package need none of it.
        from torchship.serve.client.grpc_client import GrpcClient

        manifest = archive.require_manifest()
        served = (
            self._server.serving(archive.path)
            if self._address is None
            else nullcontext(Addresses("", self._address))
        )
        with served as addresses, GrpcClient(addresses.grpc) as client:

            def caller(raw: bool) -> Call:
                def call(method: str, inputs: Mapping[str, torch.Tensor]) -> Flat:
                    signature = manifest.methods[method]
                    return client.infer(manifest.name, signature, inputs, method, raw)

                return call

            differences = []
            for number, case in enumerate(archive.golden):
                differences += check_case(manifest, number, case, caller(raw=True))
                if fits_typed(case):
                    differences += check_case(manifest, number, case, caller(raw=False))
            method, inputs = batch_inputs(manifest, archive.golden, 1)
            p50 = median_us(lambda: caller(raw=True)(method, inputs))
            return Result(self.name, differences, p50)


def fits_typed(case: Case) -> bool:
    """Whether typed contents can carry every tensor of a case."""
    return not any(
        tensor.dtype in NOT_IN_JSON
        for step in case.steps
        for flat in (step.inputs, step.outputs)
        for tensor in flat.values()
    )
