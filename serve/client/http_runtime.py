"""The HTTP runtime of `verify`: golden cases through a real server, over a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from torchship.script.exporting.runtimes import Result
from torchship.script.format.golden import Case
from torchship.script.runtime.archive import Archive
from torchship.serve.client.both_forms import (
    WITHOUT_READABLE_FORM,
    check_both_forms,
    tensors_of,
)
from torchship.serve.client.client import Client
from torchship.serve.client.local_server import LocalServer


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
        version = None if self._running is None else archive.require_manifest().version
        with self._client(archive) as client:
            return check_both_forms(self.name, archive, client, version, fits_json)

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
    """Whether JSON, which has no NaN either, can carry every tensor of a case."""
    return all(
        tensor.dtype not in WITHOUT_READABLE_FORM
        and not (tensor.is_floating_point() and not torch.isfinite(tensor).all())
        for tensor in tensors_of(case)
    )
