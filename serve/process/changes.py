"""Loading and unloading over several workers: what one is asked to do, every one of them does.

A worker that is asked tells the supervisor; that tells all workers, and when each has said what
came of it, the one that was asked is told. Afterwards all workers have the model or none has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from torchship.serve.process.messages import Change, Failure, Outcome

DEATHS = 2  # of workers that make a change: then the change is at fault


class Changes:
    """The supervisor's side: every worker makes each change, one change after the other."""

    def __init__(
        self,
        wanted: Iterable[str],
        tell: Callable[[int, Change | Outcome], None],
        workers: Callable[[], Iterable[int]],
    ) -> None:
        """Take the models loaded at start, how to tell a worker, and who the workers are."""
        self._wanted = dict.fromkeys(wanted)
        self._tell = tell
        self._workers = workers
        self._lock = asyncio.Lock()
        self._now: Change | None = None
        self._awaited: set[int] = set()
        self._failures: dict[int, Failure] = {}
        self._having: dict[int, Mapping[str, str]] = {}
        self._deaths = 0
        self._fewer = asyncio.Event()

    @property
    def wanted(self) -> tuple[str, ...]:
        """The models that a new worker is to load."""
        return tuple(self._wanted)

    async def make(self, asked: int, change: Change) -> None:
        """Have a change made by all workers; then tell the one that was asked."""
        async with self._lock:
            failure = await self._by_all(change)
            if failure is None and self._differ(change.model):  # its file has changed meanwhile
                failure = await self._by_all(change)
            if failure is None and self._differ(change.model):
                text = f"the file of model '{change.model}' kept changing while it was loaded"
                failure = Failure(code="load_failed", text=text)
            if failure is None and change.what == "load":
                self._wanted[change.model] = None
            elif failure is None:
                self._wanted.pop(change.model, None)
            elif change.model not in self._wanted and self._differ(change.model):
                undo = Change(id=f"undo {change.id}", what="unload", model=change.model)
                await self._by_all(undo)
            self._tell(asked, Outcome(id=change.id, failure=failure))

    async def _by_all(self, change: Change) -> Failure | None:
        self._now, self._failures, self._having, self._deaths = change, {}, {}, 0
        for worker in self._workers():
            self.joined(worker)
        while self._awaited:
            self._fewer.clear()
            await self._fewer.wait()
        self._now = None
        return self._failures[min(self._failures)] if self._failures else None

    def _differ(self, model: str) -> bool:
        """Whether some workers have of a model what others have not."""
        of_model = [
            {key: digest for key, digest in having.items() if key.startswith(f"{model}/")}
            for having in self._having.values()
        ]
        return any(having != of_model[0] for having in of_model)

    def heard(self, worker: int, outcome: Outcome) -> None:
        """Take what came of the change at a worker."""
        if self._now is not None and self._now.id == outcome.id:
            if outcome.failure is not None:
                self._failures[worker] = outcome.failure
            self._having[worker] = outcome.digests
            self._awaited.discard(worker)
            self._fewer.set()

    def joined(self, worker: int) -> None:
        """Have a worker, which may have just begun, make the change that is being made."""
        if self._now is not None and self._deaths < DEATHS:
            self._awaited.add(worker)
            self._tell(worker, self._now)

    def left(self, worker: int, comes_back: bool) -> None:
        """Take note that a worker has died; the change is made by the one that follows it.

        A change in which workers die again and again has failed: those that follow start without.
        """
        if self._now is None or worker not in self._awaited:
            return
        self._deaths += 1
        if self._deaths >= DEATHS or not comes_back:
            text = f"a process ended while it {self._now.what}ed model '{self._now.model}'"
            self._failures[worker] = Failure(code="load_failed", text=text)
            self._having[worker] = {}
            self._awaited.discard(worker)
            self._fewer.set()
