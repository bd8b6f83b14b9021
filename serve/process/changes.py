"""Loads and unloads a model in all workers when a client asks one of them to.

The worker that a client asked informs the supervisor, which sends the change to all workers and
collects their outcomes, and then answers the first worker. Afterwards all workers have the model or
none has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from torchship.serve.process.messages import Change, Failure, Outcome

DEATHS = 2  # of workers during one change, after which the change counts as the cause


class Changes:
    """The supervisor's side: applies one change after the other to every worker."""

    def __init__(
        self,
        wanted: Iterable[str],
        send: Callable[[int, Change | Outcome], None],
        workers: Callable[[], Iterable[int]],
    ) -> None:
        """Take the models loaded at start, a function to send to a worker, and the live workers."""
        self._wanted = dict.fromkeys(wanted)
        self._send = send
        self._workers = workers
        self._lock = asyncio.Lock()
        self._current: Change | None = None
        self._awaited: set[int] = set()
        self._failures: dict[int, Failure] = {}
        self._digests: dict[int, Mapping[str, str]] = {}
        self._deaths = 0
        self._progress = asyncio.Event()

    @property
    def wanted(self) -> tuple[str, ...]:
        """The models that a new worker must load."""
        return tuple(self._wanted)

    async def apply(self, asked: int, change: Change) -> None:
        """Apply a change to all workers, then send the outcome to the worker that was asked."""
        async with self._lock:
            failure = await self._apply_to_all(change)
            if failure is None and self._differ(change.model):  # the file changed between two loads
                failure = await self._apply_to_all(change)
            if failure is None and self._differ(change.model):
                text = f"the file of model '{change.model}' kept changing while it was loaded"
                failure = Failure(code="load_failed", text=text)
            if failure is None and change.what == "load":
                self._wanted[change.model] = None
            elif failure is None:
                self._wanted.pop(change.model, None)
            elif change.model not in self._wanted and self._differ(change.model):
                undo = Change(id=f"undo {change.id}", what="unload", model=change.model)
                await self._apply_to_all(undo)
            self._send(asked, Outcome(id=change.id, failure=failure))

    async def _apply_to_all(self, change: Change) -> Failure | None:
        self._current, self._failures, self._digests, self._deaths = change, {}, {}, 0
        for worker in self._workers():
            self.joined(worker)
        while self._awaited:
            self._progress.clear()
            await self._progress.wait()
        self._current = None
        return self._failures[min(self._failures)] if self._failures else None

    def _differ(self, model: str) -> bool:
        """Return whether workers have different archives of a model."""
        of_model = [
            {key: digest for key, digest in digests.items() if key.startswith(f"{model}/")}
            for digests in self._digests.values()
        ]
        return any(digests != of_model[0] for digests in of_model)

    def finished(self, worker: int, outcome: Outcome) -> None:
        """Record the outcome of the current change in one worker."""
        if self._current is not None and self._current.id == outcome.id:
            if outcome.failure is not None:
                self._failures[worker] = outcome.failure
            self._digests[worker] = outcome.digests
            self._awaited.discard(worker)
            self._progress.set()

    def joined(self, worker: int) -> None:
        """Send the current change to a worker, which may have just started."""
        if self._current is not None and self._deaths < DEATHS:
            self._awaited.add(worker)
            self._send(worker, self._current)

    def left(self, worker: int, comes_back: bool) -> None:
        """Record that a worker died; the worker that replaces it applies the change.

        A change during which several workers die has failed, and later workers start without it.
        """
        if self._current is None or worker not in self._awaited:
            return
        self._deaths += 1
        if self._deaths >= DEATHS or not comes_back:
            text = f"a process ended while it {self._current.what}ed model '{self._current.model}'"
            self._failures[worker] = Failure(code="load_failed", text=text)
            self._digests[worker] = {}
            self._awaited.discard(worker)
            self._progress.set()
