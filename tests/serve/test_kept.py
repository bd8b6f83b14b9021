"""An engine keeps no reference to a request that it has answered."""

import asyncio
import threading
import weakref
from pathlib import Path

import torch

from engine_calls import call_engine
from torchship.script.runtime.archive import open_archive
from torchship.serve.engine.engine import Engine


def test_an_idle_engine_does_not_keep_its_last_batch(archives: dict[str, Path]) -> None:
    freed = threading.Event()

    async def ask() -> None:
        engine = Engine(open_archive(archives["tiny"]))
        await engine.start()
        obs = torch.zeros(1, 510, dtype=torch.uint8)
        weakref.finalize(obs, freed.set)
        await call_engine(engine, "act", {"obs": obs})
        del obs
        assert await asyncio.to_thread(freed.wait, 60)
        await engine.retire()

    asyncio.run(ask())
