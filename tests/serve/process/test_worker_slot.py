"""A place whose worker is let go before it has ended."""

from __future__ import annotations

import subprocess
import sys

LET_GO = """
import asyncio, os, signal
from torchship.serve.process.fork_server import Nursery
from torchship.serve.process.worker_slot import Place
from torchship.serve.system.shared_memory import shared_file
from torchship.serve.http.rate_limit import TABLE_BYTES

async def main():
    nursery, place = Nursery(), Place(0, (0,))
    await place.begin(nursery, shared_file(TABLE_BYTES), None, lambda data: None)
    ended = asyncio.ensure_future(place.ended())
    await asyncio.sleep(0)
    place.leave()
    place.signal(signal.SIGTERM)  # to nobody: 0 would be all processes of this group
    print(await ended)
    nursery.close()

asyncio.run(main())
"""


def test_a_worker_that_is_let_go_is_ended_and_no_other_process_is() -> None:
    """As happens when it cannot be told what to do."""
    done = subprocess.run(
        [sys.executable, "-c", LET_GO],
        capture_output=True,
        text=True,
        timeout=60,
        start_new_session=True,
    )
    assert (done.returncode, done.stdout) == (0, "-9\n"), done.stderr
