"""A worker slot that is cleared before its worker has ended."""

from __future__ import annotations

import subprocess
import sys

RELEASE = """
import asyncio, os, signal
from torchship.serve.process.fork_server import ForkServer
from torchship.serve.process.worker_slot import WorkerSlot
from torchship.serve.system.shared_memory import shared_file
from torchship.serve.service.rate_limit import TABLE_BYTES

async def main():
    fork_server, slot = ForkServer(), WorkerSlot(0, (0,))
    await slot.start(fork_server, shared_file(TABLE_BYTES), None, lambda data: None)
    ended = asyncio.ensure_future(slot.wait())
    await asyncio.sleep(0)
    slot.release()
    slot.signal(signal.SIGTERM)  # to nobody: 0 would be all processes of this group
    print(await ended)
    fork_server.close()

asyncio.run(main())
"""


def test_releasing_a_slot_ends_its_worker_and_no_other_process() -> None:
    """As happens when the worker cannot be started properly."""
    done = subprocess.run(
        [sys.executable, "-c", RELEASE],
        capture_output=True,
        text=True,
        timeout=60,
        start_new_session=True,
    )
    assert (done.returncode, done.stdout) == (0, "-9\n"), done.stderr
