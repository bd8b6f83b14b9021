"""Archives for stores, and what a test asks the server that follows one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from object_store import BUCKET
from served import Process, make
from torchship.script.format.tree import Flat

ADDRESS = f"s3://{BUCKET}/models"
POLL = ("--mode", "poll", "--poll-seconds", 0.1, "--max-batch", 2)


def shifted(number: int) -> Any:
    """Make an archive of other bytes for each number, which still agrees with its model."""

    def edit(outputs: Flat) -> Flat:
        return {name: value + number * 1e-7 for name, value in outputs.items()}

    return edit


def archive_bytes(folder: Path, number: int, name: str = "memory", version: str = "1") -> bytes:
    path = make(folder, name, version, edit=shifted(number))
    data = path.read_bytes()
    path.unlink()
    return data


def is_live(server: Process, model: str = "memory") -> bool:
    url = f"{server.url}/v2/models/{model}/ready"
    return httpx.get(url, trust_env=False, timeout=60).status_code == 200
