"""Who runs the jobs of a queue: the engine's thread only after it has been woken."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import torch

from torchship.script.runtime.archive import open_archive
from torchship.serve.engine.batching import Batching
from torchship.serve.engine.call_watchdog import CallWatchdog
from torchship.serve.engine.execution import BatchRunner
from torchship.serve.engine.executors import Pipeline, ThreadExecutor
from torchship.serve.engine.limits import Limits
from torchship.serve.engine.queue import Job, RequestQueue
from torchship.serve.protocol.tensors import pack
from torchship.serve.system.thread_clock import SystemThreadClock

MakeArchive = Callable[..., Path]


class ObservedQueue(RequestQueue):
    """Tells when a thread has come to the queue, to wait for a wake-up or to take a batch."""

    def __init__(self) -> None:
        super().__init__(limit=8, byte_limit=1 << 20)
        self.reached = threading.Event()

    def wait_for_wake_up(self) -> None:
        self.reached.set()
        super().wait_for_wake_up()

    def take(self, most: int, most_bytes: int) -> list[Job] | None:
        batch = super().take(most, most_bytes)
        self.reached.set()
        return batch


def test_the_thread_takes_no_job_before_it_is_woken(make_archive: MakeArchive) -> None:
    """A job that waits when the warm-up ends may be one for the event loop."""

    async def check() -> None:
        archive = open_archive(make_archive("picky"))
        program = archive.program()
        queue = ObservedQueue()
        batchings = {"forward": Batching(archive.require_manifest().methods["forward"])}
        pipeline = Pipeline(
            queue=queue,
            runner=BatchRunner(batchings, 1, SystemThreadClock()),
            program=lambda: program,
            limits=Limits(),
            observer=None,
        )
        thread = ThreadExecutor(pipeline, "engine", CallWatchdog(1, 60))
        answer = asyncio.get_running_loop().create_future()
        x = {"x": pack(torch.ones(1, 1))}
        queue.put([Job(method="forward", inputs=x, rows=1, kind=None, answer=answer)])

        class Failures:
            def note(self, what: str) -> None:
                answer.set_exception(RuntimeError(what))

        failures = Failures()
        await thread.start(lambda: None, failures.note)
        assert await asyncio.to_thread(queue.reached.wait, 60)
        assert queue.rows == 1
        thread.begin_batch()
        assert (await asyncio.wait_for(answer, 60))["y"].tensor().item() == 2
        queue.close()
        await thread.ended()
        assert thread.join(60)

    asyncio.run(check())
