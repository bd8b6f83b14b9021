"""`torchship verify` of a live archive, for a client: who may have it run, and its lines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import orjson

from torchship.serve.engine.engine import Engine
from torchship.serve.errors import ForbiddenError
from torchship.serve.service.api_keys import KeyRing
from torchship.serve.service.turns import Turn
from torchship.serve.settings import Settings, is_loopback
from torchship.serve.system.child_process import child_process
from torchship.serve.system.interpreter import command

ADMIN = "admin"
"""The name of the API key that may have `verify` run."""

KEY_VARIABLE = "TORCHSHIP_API_KEY"
MOST_SECONDS = 900.0  # for all runtimes of one archive
SILENT_SECONDS = 5.0  # after which an empty line is sent


@dataclass(frozen=True)
class Server:
    """The server as `verify` reaches it: where its client did, and with the same key."""

    url: str
    key: bytes | None


class Verification:
    """Has golden cases of a live archive run in every runtime; over HTTP on this very server."""

    def __init__(self, settings: Settings, keys: KeyRing | None, turn: Turn | None) -> None:
        """Take the turn of all processes of the server; without one, `verify` cannot be run."""
        self._settings = settings
        self._keys = keys
        self._turn = turn

    @property
    def available(self) -> bool:
        """Whether anybody may have it run: without keys any client, with keys that named admin."""
        return not self._refusal()

    def _refusal(self) -> str:
        """Return why nobody may have it run, or ""."""
        settings = self._settings
        if self._turn is None:
            return "verify cannot be run on Ray: use `torchship verify`"
        if settings.ui_verify is False:
            return "verify is turned off (--no-ui-verify)"
        if self._keys is not None:
            if ADMIN not in self._keys.names:
                return f"verify needs the API key named '{ADMIN}', and --api-keys has none"
        elif settings.ui_verify is None and not _is_private(settings):
            return (
                "verify is off, since other machines reach this server and it asks for no API "
                "keys: give --api-keys, or --ui-verify to let every client run it"
            )
        return ""

    def check(self, key_name: str | None) -> None:
        """Refuse a client who may not have it run.

        Raises:
            ForbiddenError: it may not; the message says why, and names the key that may.
        """
        refusal = self._refusal()
        if not refusal and self._keys is not None and key_name != ADMIN:
            refusal = f"API key '{key_name}' may not run verify: expected the key named '{ADMIN}'"
        if refusal:
            raise ForbiddenError(refusal)

    @asynccontextmanager
    async def run(
        self, engine: Engine, runtimes: Sequence[str], server: Server
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Run `verify` until the block ends; yield its lines of JSON, the last with the verdict.

        Raises:
            BusyError: it runs already, on this server.
        """
        assert self._turn is not None
        environment = {} if server.key is None else {KEY_VARIABLE: server.key.decode("latin-1")}
        with self._turn.taken("verify"):
            arguments = self._arguments(engine, runtimes, server.url)
            program = command("torchship.__main__", "verify", *arguments)
            async with child_process(program, environment) as process:
                assert process.stdout is not None
                yield _lines(process.stdout)

    def _arguments(self, engine: Engine, runtimes: Sequence[str], url: str) -> list[str]:
        settings = self._settings
        arguments = ["--json-lines", "--skip-foreign"]
        arguments += [f"--sha256={engine.digest}", f"--url={url}"]
        files = {"certificate": settings.tls_cert, "trusted-keys": settings.trusted_keys}
        arguments += [f"--{name}={file.absolute()}" for name, file in files.items() if file]
        arguments += [f"--operators={folder.absolute()}" for folder in settings.operators]
        arguments += [f"--runtime={name}" for name in runtimes]
        return [*arguments, "--", str(engine.path.absolute())]


async def _lines(output: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield the lines of `verify`; the last says why there is no verdict, if there is none.

    An empty line is yielded while there is nothing to say. A client that has left and one that has
    only closed its sending side look the same until something is sent to them, and proxies close
    connections on which nothing is sent.
    """
    end = time.monotonic() + MOST_SECONDS
    event = None
    while (left := end - time.monotonic()) > 0:
        try:
            line = await asyncio.wait_for(output.readline(), min(left, SILENT_SECONDS))
        except asyncio.TimeoutError:
            yield b"\n"
            continue
        if not line:
            why = "verify was ended before its verdict, perhaps because there was no memory for it"
            break
        event = orjson.loads(line)["event"]
        yield line
    else:
        why = f"verify did not end in {MOST_SECONDS:.0f} seconds"
    if event not in ("verdict", "error"):
        yield orjson.dumps({"event": "error", "error": why}) + b"\n"


def _is_private(settings: Settings) -> bool:
    """Return whether only this machine reaches the server; a proxy would speak for others."""
    behind_proxy = settings.root_path or settings.forwarded_allow_ips
    return is_loopback(settings.host) and not behind_proxy
