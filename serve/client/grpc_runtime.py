"""The gRPC runtime of `verify`: golden cases through a real server, over a real socket."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from torchship.script.exporting.runtimes import Result
from torchship.script.format.golden import Case
from torchship.script.runtime.archive import Archive
from torchship.serve.client.both_forms import (
    WITHOUT_READABLE_FORM,
    check_both_forms,
    tensors_of,
)
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

        served = (
            self._server.serving(archive.path)
            if self._address is None
            else nullcontext(Addresses("", self._address))
        )
        with served as addresses, GrpcClient(addresses.grpc) as client:
            return check_both_forms(self.name, archive, client, None, fits_typed)


def fits_typed(case: Case) -> bool:
    """Whether typed contents can carry every tensor of a case."""
    return not any(tensor.dtype in WITHOUT_READABLE_FORM for tensor in tensors_of(case))
