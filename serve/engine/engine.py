"""One loaded archive on a thread of its own: it proves itself there before it answers there."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

from torchship.script.format.golden import Case
from torchship.script.format.tree import Flat
from torchship.script.runtime.archive import Archive
from torchship.script.runtime.program import Program
from torchship.script.runtime.torchscript import configure
from torchship.serve.engine.admission import Admissions, Admitted
from torchship.serve.engine.batching import Batching
from torchship.serve.engine.call_watchdog import CallWatchdog
from torchship.serve.engine.execution import BatchExecutor, GuardedObserver, Ran, deliver, tell
from torchship.serve.engine.golden_requests import GoldenRequests
from torchship.serve.engine.limits import Limits
from torchship.serve.engine.queue import Answer, Job, RequestQueue
from torchship.serve.engine.reference_count import ReferenceCounted
from torchship.serve.engine.thread_exit import JOIN_SECONDS, note_started, settle
from torchship.serve.engine.warmup import Warmup, prove, prove_case
from torchship.serve.errors import (
    DisagreementError,
    NotReadyError,
    OutOfServiceError,
    RequestError,
    out_of_service,
)
from torchship.serve.protocol.tensors import RawTensor, tensors_of
from torchship.serve.protocol.wire_signature import Signature
from torchship.serve.system.heartbeat import Heartbeat
from torchship.serve.telemetry.records import SOURCE, TIMING, Observer

log = logging.getLogger(__name__)

SLOW = 20  # times what is quick: such a call is no chance any more
EXAMPLE_BYTES = 4 << 20  # of golden cases that are kept; one digit of JSON may stand for 8 bytes


class Engine(ReferenceCounted):
    """A model and its one thread; calls may come from any task of one event loop.

    What was checked shall be what answers: the thread that has run the golden cases is the one that
    runs the requests. A model whose largest batch takes no longer than
    `Limits.inline_threshold_seconds` runs on the event loop's own thread, after it has run its
    golden cases there too: handing over to another thread, and sharing Python's lock with it, costs
    more than such a model does.
    Requests that come while it is busy wait, and those of one kind run together as the next batch;
    an idle engine begins at once.

    A call cannot be interrupted. If one takes longer than `Limits.call_seconds` in the engine's
    thread, the engine is out of service: whoever waits for it is told so at once, and nobody waits
    for its thread any more. On the event loop it is another process that must notice.
    """

    _numbers: Iterator[int] = itertools.count(1)

    def __init__(
        self,
        archive: Archive,
        limits: Limits | None = None,
        observer: Observer | None = None,
        *,
        pulse: Heartbeat | None = None,
        hung: Callable[[Engine, str], None] = lambda engine, why: None,
    ) -> None:
        """Take an archive; nothing of it is run yet.

        Args:
            archive: what to load.
            limits: what the engine may use.
            observer: is told each call of the model.
            pulse: the process's, which shows the calls that run on the event loop.
            hung: is told once, on the event loop, if the engine went out of service after it had
                answered, and why.
        """
        self.number = next(Engine._numbers)  # above 0 and unique in the process, for pulses
        self._pulse = pulse or Heartbeat()
        self._hung = hung
        super().__init__()
        self._observer = None if observer is None else GuardedObserver(observer)
        self.manifest = archive.require_manifest()
        self.digest = archive.digest
        """The SHA-256 of the archive's file."""
        self.signatures = {name: Signature(m) for name, m in self.manifest.methods.items()}
        self._batching = {name: Batching(m) for name, m in self.manifest.methods.items()}
        self._archive = archive
        self._limits = limits or Limits()
        self._admissions = {
            name: Admissions(method, self._batching[name], self._limits)
            for name, method in self.manifest.methods.items()
        }
        self._program: Program | None = None
        self._stopping = threading.Event()
        self._waiting = RequestQueue(self._limits.max_queue, self._limits.max_queue_bytes)
        self._runner = BatchExecutor(self._batching, self.number)
        self._rehearsal = GoldenRequests(self.manifest, self._batching, self._limits, self.number)
        self._watch = CallWatchdog(self.number, self._limits.call_seconds)
        self._running: Sequence[Job] = ()  # in the engine's thread
        self._out = ""  # why it is out of service
        self._woken = False
        self._delay: asyncio.TimerHandle | None = None
        self._seen = 0  # rows that waited when the event loop was last asked for more
        self._quick = False  # measured on its thread
        self._here = False  # runs on the event loop
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # where the calls come from
        self._proved: asyncio.Future[None] | None = None
        self._ended: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Load the archive and run its golden cases, on the engine's thread.

        Raises:
            ArchiveError: it cannot be loaded; `DisagreementError` when an output differs from
                its golden value, or when a call takes too long: the message names case, step,
                output and the difference.
        """
        loop = asyncio.get_running_loop()
        self._proved = loop.create_future()
        self._ended = loop.create_future()
        name = f"engine-{self.manifest.name}"
        self._thread = threading.Thread(target=self._work, args=(loop,), name=name, daemon=True)
        self._thread.start()
        note_started(self)
        self._watch.start(self._take_out)
        await self._proved
        if self._quick:
            try:
                await self._prove_here()
            except Exception:
                self.close()
                raise
        self._archive.release(EXAMPLE_BYTES)

    async def _prove_here(self) -> None:
        """Run the golden cases on the event loop, others' requests between them."""
        call = self._rehearsal.of(self._ready(), self._pulse)
        for number in range(len(self._archive.golden)):
            prove_case(call, self._archive, number)
            await asyncio.sleep(0)
        self._here = True

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        """Prove the archive, then answer until closed. The engine's thread."""
        error: Exception | None = None
        try:
            configure(self._limits.threads)
            device = self._limits.placement.of(self.manifest.name)
            warming = Warmup(self._batching, self._limits, self._watch, self._rehearsal)
            proof = prove(self._archive, warming, device, self._stopping)
            self._program, self._quick = proof
            self._watch.doing = "a call"
        except Exception as raised:
            error = raised
        except BaseException as raised:  # it would end the process where the load is waited for
            error = DisagreementError(f"it ended its thread: {type(raised).__name__}: {raised}")
        tell(loop, settle, self._proved, error)
        if error is None:
            try:
                self._answer(loop)
            except BaseException as raised:  # nobody would be told of those that wait
                log.exception("the thread of model '%s' has ended", self.manifest.name)
                tell(loop, self._take_out, f"its thread has ended: {type(raised).__name__}")
        tell(loop, self._watch.stop)
        tell(loop, settle, self._ended, None)

    def _answer(self, loop: asyncio.AbstractEventLoop) -> None:
        limits = self._limits
        self._waiting.sleep()  # a quick model's jobs are for the event loop, from the first one on
        while jobs := self._waiting.take(limits.max_batch, limits.max_batch_bytes):
            self._running = jobs
            ran: list[Ran] = []
            outcomes = self._runner.run(jobs, self._ready, self._watch.pulse, ran)
            tell(self._loop or loop, deliver, outcomes, ran, self._observer)
            self._running = ()
            del jobs, outcomes, ran  # they may be large, and the next may be long in coming

    def _take_out(self, what: str) -> None:
        """Answer nobody any more: the thread may never come back from what it does."""
        if self._out:
            return
        self._out = out_of_service(self.manifest.name, what)
        self._stopping.set()
        waiting = self._waiting.close()  # first: what the thread has taken by now is `_running`
        deliver([(job, OutOfServiceError(self._out)) for job in (*self._running, *waiting)])
        self._watch.stop()
        settle(self._ended, None)
        if self._proved is not None and not self._proved.done():
            settle(self._proved, DisagreementError(f"{what}, the setting call_seconds"))
            return
        log.error("%s", self._out)
        try:
            self._hung(self, self._out)
        except Exception:
            log.exception("telling that model '%s' is out of service", self.manifest.name)

    @property
    def golden(self) -> Sequence[Case]:
        """The cases that the archive was proved with; the smallest, once it is live."""
        return self._archive.golden

    def signature(self, method: str) -> Signature:
        """Return a method's signature.

        Raises:
            RequestError: there is no such method.
        """
        if method not in self.signatures:
            names = ", ".join(f"'{name}'" for name in self.signatures)
            raise RequestError(
                f"model '{self.manifest.name}' has no method '{method}': expected {names}"
            )
        return self.signatures[method]

    async def call(
        self,
        method: str,
        inputs: Flat,
        *,
        wanted: frozenset[str] | None = None,
        priority: int = 2,
        timeout: float | None = None,
        gone: Callable[[], bool] | None = None,
    ) -> Flat:
        """Run a method on the engine's thread, together with others that wait.

        Args:
            method: its name.
            inputs: by flat name.
            wanted: names of outputs; others may be left out. All when None.
            priority: 1 is served before 2.
            timeout: seconds after which a request that still waits is given up.
            gone: whether the caller has left; asked once, on the engine's thread, when the
                request's turn comes.

        Raises:
            InputError, ModelError: as `Program.call`.
            NotReadyError: the engine has not proved itself, or is closed.
            QueueFullError: too many rows wait already.
            DeadlineError: the timeout passed.
            ClientGoneError: the caller had left.
        """
        self._ready()
        admissions = self._admissions[method]
        admitted = admissions.admit(inputs)
        create_future = asyncio.get_running_loop().create_future
        deadline = None if timeout is None else time.monotonic() + timeout
        futures: list[asyncio.Future[Mapping[str, RawTensor]]] = []

        def job(part: Flat, known: Admitted) -> Job:
            futures.append(create_future())
            marks = (known.symbols, wanted, priority, deadline, gone, time.perf_counter())
            about = (TIMING.get(), known.nbytes, SOURCE.get())
            return Job(method, part, known.rows, known.kind, futures[-1], *marks, *about)

        if admitted.whole:
            self._enter([job(inputs, admitted)])
            return tensors_of(await futures[0])
        outputs: list[Flat] = []
        merge = self._batching[method].merge
        parts = admissions.parts(inputs, admitted)
        # Of more than may wait half of that at once: others have room while it runs.
        room = self._limits.max_queue
        room = room if admitted.rows <= room else room // 2
        most = max(1, room // admitted.rows_in_call)
        while group := list(itertools.islice(parts, most)):
            self._ready()
            futures.clear()
            self._enter([job(part, known) for part, known in group])
            try:
                outputs.append(merge([*map(tensors_of, await asyncio.gather(*futures))]))
            except BaseException:
                for future in futures:  # nobody wants the others any more
                    future.cancel()
                raise
        return merge(outputs)

    def enter(
        self,
        method: str,
        inputs: Mapping[str, RawTensor],
        done: Answer,
        *,
        wanted: frozenset[str] | None = None,
        priority: int = 2,
        timeout: float | None = None,
        gone: Callable[[], bool] | None = None,
        alone: bool = False,
        source: Hashable = None,
    ) -> bool:
        """Do as `call`, and tell `done` instead of returning; False for what only `call` can.

        That is more rows or bytes than one call takes, and inputs whose values must be looked at.
        `alone` says that nobody else can ask: then `done` may be told before this returns. `source`
        is the client, where it is known.

        Raises:
            RequestError: an unknown input, or a string for what is none.
            InputError, NotReadyError, QueueFullError: as `call`; `done` is told the others.
        """
        self._ready()
        known = self._admissions[method].admit_packed(inputs)
        if known is None or not known.whole:
            return False
        deadline = None if timeout is None else time.monotonic() + timeout
        entered = time.perf_counter()
        symbols, rows, kind, nbytes, _, _ = known
        marks = (symbols, wanted, priority, deadline, gone, entered, None, nbytes, source)
        job = Job(method, inputs, rows, kind, done, *marks)
        idle = not (self._woken or self._waiting.rows or self._limits.delay_seconds)
        if alone and idle and self._here:
            self._run([job])
        else:
            self._enter([job])
        return True

    @property
    def waiting_rows(self) -> int:
        """How many rows wait now."""
        return self._waiting.rows

    def _ready(self) -> Program:
        if self._program is None or self._stopping.is_set():
            if self._out:
                raise OutOfServiceError(self._out)
            raise NotReadyError(f"model '{self.manifest.name}' is not ready")
        return self._program

    def _enter(self, jobs: list[Job]) -> None:
        """Let jobs wait; wake the engine once for all that this turn of the event loop brings."""
        self._loop = asyncio.get_running_loop()
        self._waiting.put(jobs)
        full = self._waiting.rows >= self._limits.max_batch
        if self._delay is not None and full:
            self._delay.cancel()
            self._delay = None
            self._loop.call_soon(self._wake)
        elif not self._woken:
            self._woken = True
            if self._limits.delay_seconds and not full:
                self._delay = self._loop.call_later(self._limits.delay_seconds, self._wake)
            else:
                self._loop.call_soon(self._wake)

    def _wake(self) -> None:
        self._woken = False
        self._delay = None
        if not self._here:
            self._waiting.wake()
            return
        rows, seen, self._seen = self._waiting.rows, self._seen, 0
        if max(seen, 1) < rows < self._limits.max_batch:
            # More may be about to come: the event loop accepts one connection a turn, and would
            # take the time of a whole batch for each.
            self._seen = rows
            self._woken = True
            asyncio.get_running_loop().call_soon(self._wake)
        else:
            self._run_here()

    def _run_here(self) -> None:
        """Run the next batch on the event loop, and let others have their turn before another."""
        jobs = self._waiting.batch(self._limits.max_batch, self._limits.max_batch_bytes)
        try:
            if jobs:
                self._run(jobs)
        finally:  # whatever becomes of these, others wait
            if self._waiting.rows and not self._woken:
                self._woken = True
                asyncio.get_running_loop().call_soon(self._wake)

    def _run(self, jobs: list[Job]) -> None:
        began = time.thread_time()
        ran: list[Ran] = []
        deliver(self._runner.run(jobs, self._ready, self._pulse, ran), ran, self._observer)
        slow = SLOW * self._limits.inline_threshold_seconds
        # The thread's own clock leaves out what others do to a busy machine; asking it costs more.
        if time.perf_counter() - jobs[0].entered > slow and time.thread_time() - began > slow:
            log.warning(
                "model '%s' took longer than %g s on the event loop: it goes on in a thread",
                *(self.manifest.name, slow),
            )
            self._here = False

    def close(self) -> None:
        """Take no more calls; what runs now runs to its end, a check to the end of its case."""
        self._stopping.set()
        left = self._waiting.close()
        if self._loop is not None and not self._loop.is_closed():  # else nobody listens
            closed = NotReadyError(f"model '{self.manifest.name}' is closed")
            deliver([(job, closed) for job in left])

    async def retire(self) -> None:
        """Close it when nobody holds it any more; return when its thread has ended.

        Whoever has it already may go on to call it; nobody new shall be given it.
        """
        await self.free()
        self.close()
        if self._ended is not None:
            await self._ended
            await asyncio.to_thread(self.join)

    def join(self, seconds: float = JOIN_SECONDS) -> bool:
        """Wait until the thread of a closed engine has ended; return whether it has.

        Of an engine that is out of service the thread is not waited for.
        """
        if self._thread is None:
            return True
        self._thread.join(0 if self._out else seconds)
        return not self._thread.is_alive()
