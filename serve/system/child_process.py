"""Our own programs in processes below a worker: their lines are read, none outlives its reader."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio

LONGEST_LINE = 8 << 20  # bytes that a program may write on one line
NICE = 10  # requests have priority over what runs here
OURS = "TORCHSHIP_SERVE_"  # settings of this server, not of one that the program may start


@asynccontextmanager
async def child_process(
    command: Sequence[str], environment: Mapping[str, str] | None = None
) -> AsyncIterator[Process]:
    """Run a program, whose standard output is read, until the block ends; then end all it started.

    It runs in an empty folder, from which nothing can be imported, and has a folder for temporary
    files, which is removed. `environment` is added to this process's own, which lacks our settings.
    """
    with tempfile.TemporaryDirectory(prefix="torchship-", ignore_cleanup_errors=True) as folder:
        empty, temporary = Path(folder) / "empty", Path(folder) / "temporary"
        empty.mkdir()
        temporary.mkdir()
        own = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=DEVNULL,
            cwd=empty,
            env={**own, "TMPDIR": str(temporary), **(environment or {})},
            limit=LONGEST_LINE,
            start_new_session=True,
        )
        with suppress(OSError):
            os.setpriority(os.PRIO_PGRP, process.pid, NICE)
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with anyio.CancelScope(shield=True):
                await process.wait()
