"""One server for the tests of this folder, and connections to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rpc import Connection, calling
from served import launched, make


@pytest.fixture(scope="session")
def grpc_server(
    archives: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """Return a server of every hand-made model, with a second version of one."""
    newer = make(tmp_path_factory.mktemp("newer"), "tiny", "9")
    options = ("--grpc-port", 0, "--max-body-bytes", 1 << 20, "--access-log", "all")
    with launched(*options, *archives.values(), newer) as process:
        assert process.line().startswith("ready: tiny/1, nested/1, ")
        yield process


@pytest.fixture(scope="module")
def connection(grpc_server: Any) -> Iterator[Connection]:
    with calling(grpc_server) as found:
        yield found
