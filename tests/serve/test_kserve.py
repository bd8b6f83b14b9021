"""KServe's own REST client, in a process of its own.

It registers messages for gRPC under the names that Triton's client has for its own, and one process
cannot have both.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_kserves_rest_client_in_a_process_of_its_own() -> None:
    own = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "kserve_rest_client.py"],
        cwd=Path(__file__).parent,
        env=own,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
