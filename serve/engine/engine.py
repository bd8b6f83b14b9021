"""One loaded archive behind a queue: warmed up where it answers, then answering requests."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence

from torchship.native.running.program import NativeProgram
from torchship.script.format.golden import Case
from torchship.script.runtime.agreement import Difference
from torchship.script.runtime.archive import Archive
from torchship.script.runtime.torchscript import configure
from torchship.serve.engine.batching import Batching
from torchship.serve.engine.call_watchdog import CallWatchdog
from torchship.serve.engine.delivery import GuardedObserver, deliver
from torchship.serve.engine.dispatcher import Dispatcher
from torchship.serve.engine.execution import BatchRunner
from torchship.serve.engine.executors import LoopExecutor, Pipeline, ThreadExecutor
from torchship.serve.engine.golden_requests import GoldenRequests
from torchship.serve.engine.lifecycle import Lifecycle, State
from torchship.serve.engine.limits import Limits
from torchship.serve.engine.loop_calls import LoopCallMonitor
from torchship.serve.engine.proof import Proof
from torchship.serve.engine.queue import RequestQueue
from torchship.serve.engine.reference_count import ReferenceCounted
from torchship.serve.engine.request_entry import RequestEntry
from torchship.serve.engine.runnable import Runnable, Runtime
from torchship.serve.engine.thread_exit import JOIN_SECONDS, note_started
from torchship.serve.engine.warmup import WarmupContext, check_golden_case, warm_up
from torchship.serve.errors import (
    DisagreementError,
    NotReadyError,
    OutOfServiceError,
    out_of_service,
)
from torchship.serve.system.heartbeat import Heartbeat
from torchship.serve.system.thread_clock import SystemThreadClock, ThreadClock
from torchship.serve.telemetry.records import Observer

log = logging.getLogger(__name__)

EXAMPLE_BYTES = 4 << 20  # of golden cases that are kept; one digit of JSON may stand for 8 bytes


class Engine(RequestEntry, ReferenceCounted):
    """A model, its queue, and what runs its batches; called from any task of one event loop.

    Requests that come while the model is busy wait, and those of one kind run together as the next
    batch; an idle engine begins at once. Batches run in the engine's own thread, or on the event
    loop if the largest batch takes no longer than `Limits.inline_threshold_seconds`.

    A call cannot be interrupted. If one takes longer than `Limits.call_seconds` in the engine's
    thread, the engine goes out of service: the requests that wait for it fail at once, and its
    thread is not waited for any more. On the event loop only another process can notice this.
    """

    _numbers: Iterator[int] = itertools.count(1)

    def __init__(
        self,
        archive: Archive,
        limits: Limits | None = None,
        observer: Observer | None = None,
        *,
        heartbeat: Heartbeat | None = None,
        hung: Callable[[Engine, str], None] = lambda engine, why: None,
        load: Callable[[Archive, str], Runnable] = Archive.program,
        clock: ThreadClock | None = None,
    ) -> None:
        """Take an archive; nothing of it is run yet.

        Args:
            archive: what to load.
            limits: what the engine may use.
            observer: receives a report of each call of the model.
            heartbeat: the process's heartbeat, which shows the calls that run on the event loop.
            hung: called once, on the event loop, if the engine went out of service after it had
                become ready, with the reason.
            load: makes the program of an archive, on a device such as `cpu`; in the engine's
                thread. LibTorch takes the place of compiled code that fails a golden case.
            clock: measures calls.
        """
        manifest = archive.require_manifest()
        limits = limits or Limits()
        clock = clock or SystemThreadClock()
        batchings = {name: Batching(method) for name, method in manifest.methods.items()}
        self.number = next(Engine._numbers)
        """Above 0 and unique in the process: shown in heartbeats."""
        self.digest = archive.digest
        """The SHA-256 of the archive's file."""
        self.runtime: Runtime = "libtorch"
        """What runs the model; known once it is ready."""
        self.proof: Proof | None = None
        """What its golden cases showed where it answers; known once it is ready."""
        self.path, self.size = archive.path, archive.size
        """The archive's file, which may have changed since it was read, and its bytes."""
        self._archive = archive
        self._heartbeat = heartbeat or Heartbeat()
        self._hung = hung
        self._load = load
        self._clock = clock
        lifecycle = Lifecycle(manifest.name)
        self._queue = RequestQueue(limits.max_queue, limits.max_queue_bytes)
        self._pipeline = Pipeline(
            queue=self._queue,
            runner=BatchRunner(batchings, self.number, clock),
            program=lifecycle.program,
            limits=limits,
            observer=None if observer is None else GuardedObserver(observer),
        )
        self._watchdog = CallWatchdog(self.number, limits.call_seconds)
        self._thread = ThreadExecutor(self._pipeline, f"engine-{manifest.name}", self._watchdog)
        dispatcher = Dispatcher(self._queue, limits, self._thread)
        RequestEntry.__init__(self, manifest, batchings, limits, lifecycle, dispatcher, clock)
        ReferenceCounted.__init__(self)

    async def start(self) -> None:
        """Load the archive, run its golden cases and warm it up; on the engine's thread first.

        Raises:
            ArchiveError: it cannot be loaded; `DisagreementError` when an output differs from
                its golden value, or when a call takes too long: the message names case, step,
                output and the difference.
            NotReadyError: the engine was closed.
        """
        self._lifecycle.start()
        try:
            warmed_up = self._thread.start(self._warm_up, self._take_out)
            note_started(self)
            program, is_short, self.proof = await warmed_up
            if is_short:
                self.proof = await self._move_to_loop(program)
            self._lifecycle.finish_warm_up(program)
        except BaseException:
            self.close()
            raise
        self._archive.release(EXAMPLE_BYTES)

    def _warm_up(self) -> tuple[Runnable, bool, Proof]:
        """Return the program, whether its calls are short enough for the event loop, and its proof.

        Runs in the engine's thread.
        """
        archive, limits, watchdog = self._archive, self._limits, self._watchdog
        if not archive.golden:
            raise DisagreementError("it has no golden cases: nothing shows that it is right")
        configure(limits.threads)
        device = limits.placement.of(self.manifest.name)
        program = self._load(archive, device)
        context = WarmupContext(
            batchings=self._batchings,
            limits=limits,
            watchdog=watchdog,
            golden_requests=self._golden_requests(),
            check_wanted=self._lifecycle.check_warming_up,
        )
        try:
            is_short, proof = warm_up(archive, program, context)
        except DisagreementError as error:
            if not isinstance(program, NativeProgram):
                raise
            log.warning("model '%s' is served by LibTorch: %s", self.manifest.name, error)
            program = archive.program(device)
            is_short, proof = warm_up(archive, program, context)
        if isinstance(program, NativeProgram):
            self.runtime = "native"
            log.info("model '%s' is served by compiled code", self.manifest.name)
        watchdog.doing = "a call"
        return program, is_short and device == "cpu", proof

    async def _move_to_loop(self, program: Runnable) -> Proof:
        """Run the golden cases on the event loop, other tasks between them; then batches there."""
        call = self._golden_requests().calls(program, self._heartbeat)
        differences: list[Difference] = []
        for number in range(len(self._archive.golden)):
            self._lifecycle.check_warming_up()
            differences += check_golden_case(call, self._archive, number)
            await asyncio.sleep(0)
        monitor = LoopCallMonitor(self._limits.inline_threshold_seconds, self._clock)
        self._dispatcher.executor = LoopExecutor(
            self._pipeline, self._heartbeat, monitor, self._thread, self.manifest.name
        )
        return Proof.now(differences)

    def _golden_requests(self) -> GoldenRequests:
        return GoldenRequests(self.manifest, self._batchings, self._limits, self._pipeline.runner)

    def _take_out(self, what: str) -> None:
        """Answer nobody any more: the thread may never come back from what it does."""
        reason = out_of_service(self.manifest.name, what)
        if not self._lifecycle.take_out(reason):
            return
        waiting = self._queue.close()  # first: what the thread has taken by now is `running`
        jobs = (*self._thread.running, *waiting)
        deliver([(job, OutOfServiceError(reason)) for job in jobs])
        if self._thread.abandon(DisagreementError(f"{what}, the setting call_seconds")):
            return  # whoever waits for the warm-up is told
        log.error("%s", reason)
        try:
            self._hung(self, reason)
        except Exception:
            log.exception("telling that model '%s' is out of service", self.manifest.name)

    @property
    def golden(self) -> Sequence[Case]:
        """The cases that the archive was checked with; the smallest, once it is ready."""
        return self._archive.golden

    def close(self) -> None:
        """Take no more calls. A call that runs goes on to its end, a warm-up to its case's end."""
        self._lifecycle.close()
        left = self._queue.close()
        loop = self._queue.loop
        if loop is not None and not loop.is_closed():  # else nobody listens
            closed = NotReadyError(f"model '{self.manifest.name}' is closed")
            deliver([(job, closed) for job in left])

    async def retire(self) -> None:
        """Close the engine when nobody holds it any more; return when its thread has ended.

        Whoever holds it may go on to call it until then; nobody new may be given it.
        """
        await self.free()
        self.close()
        await self._thread.ended()
        await asyncio.to_thread(self.join)

    def join(self, seconds: float = JOIN_SECONDS) -> bool:
        """Wait until the thread of a closed engine has ended; return whether it has.

        The thread of an engine that is out of service is not waited for.
        """
        out = self._lifecycle.state is State.OUT_OF_SERVICE
        return self._thread.join(0 if out else seconds)
