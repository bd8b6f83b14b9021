"""One loaded archive on a thread of its own: it proves itself there before it answers there."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence

from torchship.script.archive import Archive
from torchship.script.golden import Case
from torchship.script.program import Program, check_inputs
from torchship.script.torchscript import configure
from torchship.script.tree import Flat
from torchship.serve.batching import Batching, Kind
from torchship.serve.errors import NotReadyError, RequestError
from torchship.serve.frames import Given
from torchship.serve.limits import Limits
from torchship.serve.proving import Warming, prove, prove_case
from torchship.serve.reports import TIMING, Observer
from torchship.serve.running import Ran, deliver, run_jobs
from torchship.serve.signature import Signature
from torchship.serve.tensors import Packed
from torchship.serve.waiting import Answer, Job, Waiting

log = logging.getLogger(__name__)

JOIN_SECONDS = 30
SLOW = 20  # times what is quick: such a call is no chance any more
MOST_ADMITTED = 1024  # names, dtypes and shapes that are remembered as fitting


_Admission = tuple[dict[str, int], int, Kind | None]

_STARTED: weakref.WeakSet[Engine] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """End the threads in good order: one that Python kills inside LibTorch aborts the process."""
    engines = list(_STARTED)
    for engine in engines:
        engine.close()
    for engine in engines:
        engine.join()


class Engine:
    """A model and its one thread; calls may come from any task of one event loop.

    What was checked shall be what answers: the thread that has run the golden cases is the one that
    runs the requests. A model whose largest batch takes no longer than `Limits.quick_seconds`
    runs on the event loop's own thread, after it has run its golden cases there too: handing over
    to another thread, and sharing Python's lock with it, costs more than such a model does.
    Requests that come while it is busy wait, and those of one kind run together as the next batch;
    an idle engine begins at once.
    """

    def __init__(
        self, archive: Archive, limits: Limits | None = None, observer: Observer | None = None
    ) -> None:
        self._observer = observer
        self.manifest = archive.vouched
        self.digest = archive.digest
        """The SHA-256 of the archive's file."""
        self.signatures = {name: Signature(m) for name, m in self.manifest.methods.items()}
        self._batching = {name: Batching(m) for name, m in self.manifest.methods.items()}
        self._archive = archive
        self._limits = limits or Limits()
        self._program: Program | None = None
        self._stopping = threading.Event()
        self._waiting = Waiting(self._limits.max_queue)
        self._woken = False
        self._delay: asyncio.TimerHandle | None = None
        self._seen = 0  # rows that waited when the event loop was last asked for more
        self._quick = False  # measured on its thread
        self._here = False  # runs on the event loop
        self._thread: threading.Thread | None = None
        self._admitted: dict[Hashable, _Admission] = {}
        self._loop: asyncio.AbstractEventLoop | None = None  # where the calls come from
        self._holders = 0
        self._free: asyncio.Future[None] | None = None
        self._ended: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Load the archive and run its golden cases, on the engine's thread.

        Raises:
            ArchiveError: it cannot be loaded; `DisagreementError` when an output differs from
                its golden value: the message names case, step, output and the difference.
        """
        loop = asyncio.get_running_loop()
        proved: asyncio.Future[None] = loop.create_future()
        self._ended = loop.create_future()
        name = f"engine-{self.manifest.name}"
        self._thread = threading.Thread(
            target=self._work, args=(loop, proved), name=name, daemon=True
        )
        self._thread.start()
        _STARTED.add(self)
        await proved
        if self._quick:
            try:
                await self._prove_here()
            except Exception:
                self.close()
                raise

    async def _prove_here(self) -> None:
        """Run the golden cases on the event loop, others' requests between them."""
        program = self._ready()
        for number in range(len(self._archive.golden)):
            prove_case(program, self._archive, number)
            await asyncio.sleep(0)
        self._here = True

    def _work(self, loop: asyncio.AbstractEventLoop, proved: asyncio.Future[None]) -> None:
        """Prove the archive, then answer until closed. The engine's thread."""
        configure(self._limits.threads)
        error: Exception | None = None
        try:
            warming = Warming(self._batching, self._limits.max_batch, self._limits.quick_seconds)
            device = self._limits.placement.of(self.manifest.name)
            proof = prove(self._archive, warming, device, self._stopping)
            self._program, self._quick = proof
        except Exception as raised:
            error = raised
        _tell(loop, _settle, proved, error)
        if error is None:
            while jobs := self._waiting.take(self._limits.max_batch):
                ran: list[Ran] = []
                outcomes = run_jobs(self._ready, self._batching, jobs, ran)
                _tell(self._loop or loop, deliver, outcomes, ran, self._observer)
                del jobs, outcomes, ran  # they may be large, and the next may be long in coming
        if self._ended is not None:
            _tell(loop, _settle, self._ended, None)

    @property
    def golden(self) -> Sequence[Case]:
        """The cases that the archive was proved with."""
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
        batching = self._batching[method]
        symbols, rows, kind = self._admit(method, inputs)
        create_future = asyncio.get_running_loop().create_future
        deadline = None if timeout is None else time.monotonic() + timeout
        futures: list[asyncio.Future[Mapping[str, Packed]]] = []

        def job(part: Flat, rows: int) -> Job:
            futures.append(create_future())
            return Job(
                *(method, part, rows, kind, futures[-1], symbols, wanted, priority, deadline, gone),
                entered=time.perf_counter(),
                timing=TIMING.get(),
            )

        if kind is None or rows <= self._limits.max_batch:
            self._enter([job(inputs, rows)])
            return _tensors(await futures[0])
        parts = batching.cut(inputs, self._limits.max_batch)
        self._enter([job(part, batching.rows(part)) for part in parts])
        return batching.merge([_tensors(part) for part in await asyncio.gather(*futures)])

    def enter(
        self,
        method: str,
        inputs: Mapping[str, Packed],
        done: Answer,
        *,
        wanted: frozenset[str] | None = None,
        priority: int = 2,
        timeout: float | None = None,
        gone: Callable[[], bool] | None = None,
        alone: bool = False,
    ) -> bool:
        """Do as `call`, and tell `done` instead of returning; False for what only `call` can.

        That is more rows than one call takes, and inputs whose values must be looked at. `alone`
        says that nobody else can ask: then `done` may be told before this returns.

        Raises:
            RequestError: an unknown input, or a string for what is none.
            InputError, NotReadyError, QueueFullError: as `call`; `done` is told the others.
        """
        key = _key(method, inputs)
        known = self._admitted.get(key)
        if known is None:
            if not self._batching[method].follows_from_shapes(inputs):
                return False
            tensors = {name: value.tensor() for name, value in inputs.items()}
            known = self._admit(method, self.signature(method).to_flat(tensors))
        self._ready()
        symbols, rows, kind = known
        if kind is not None and rows > self._limits.max_batch:
            return False
        deadline = None if timeout is None else time.monotonic() + timeout
        entered = time.perf_counter()
        marks = (symbols, wanted, priority, deadline, gone, entered)
        job = Job(method, inputs, rows, kind, done, *marks)
        idle = not (self._woken or self._waiting.rows or self._limits.delay_seconds)
        if alone and idle and self._here:
            self._run([job])
        else:
            self._enter([job])
        return True

    def _admit(self, method: str, inputs: Flat) -> _Admission:
        """Check inputs; return their symbols, rows and kind. What was seen before is known."""
        program = self._ready()
        key = _key(method, inputs)
        known = self._admitted.get(key)
        if known is not None:
            return known
        symbols = check_inputs(program.method(method), inputs)
        batching = self._batching[method]
        admission = (symbols, batching.rows(inputs), batching.kind(inputs))
        if batching.follows_from_shapes(inputs):
            if len(self._admitted) >= MOST_ADMITTED:
                self._admitted.clear()
            self._admitted[key] = admission
        return admission

    @property
    def waiting_rows(self) -> int:
        """How many rows wait now."""
        return self._waiting.rows

    def _ready(self) -> Program:
        if self._program is None or self._stopping.is_set():
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
        jobs = self._waiting.batch(self._limits.max_batch)
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
        deliver(run_jobs(self._ready, self._batching, jobs, ran), ran, self._observer)
        seconds = time.thread_time() - began
        if seconds > SLOW * self._limits.quick_seconds:
            log.warning(
                "model '%s' took %.3f s on the event loop: it goes on in a thread",
                *(self.manifest.name, seconds),
            )
            self._here = False

    def close(self) -> None:
        """Take no more calls; what runs now runs to its end, a check to the end of its case."""
        self._stopping.set()
        closed = NotReadyError(f"model '{self.manifest.name}' is closed")
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody listens
            deliver([(job, closed) for job in self._waiting.close()])

    def __enter__(self) -> Engine:
        """Hold the engine: from its event loop, until the calls made with it are answered."""
        self._holders += 1
        return self

    def __exit__(self, *_: object) -> None:
        """Let it go."""
        self._holders -= 1
        if not self._holders and self._free is not None and not self._free.done():
            self._free.set_result(None)

    async def retire(self) -> None:
        """Close it when nobody holds it any more; return when its thread has ended.

        Whoever has it already may go on to call it; nobody new shall be given it.
        """
        if self._holders:
            self._free = asyncio.get_running_loop().create_future()
            await self._free
        self.close()
        if self._ended is not None:
            await self._ended
            await asyncio.to_thread(self.join)

    def join(self, seconds: float = JOIN_SECONDS) -> bool:
        """Wait until the thread of a closed engine has ended; return whether it has."""
        if self._thread is None:
            return True
        self._thread.join(seconds)
        return not self._thread.is_alive()


def _key(method: str, inputs: Given) -> Hashable:
    return (method, *[(name, value.dtype, value.shape) for name, value in inputs.items()])


def _tensors(outputs: Mapping[str, Packed]) -> Flat:
    return {name: value.tensor() for name, value in outputs.items()}


def _tell(loop: asyncio.AbstractEventLoop, what: Callable[..., None], *news: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop was closed: nobody listens
        loop.call_soon_threadsafe(what, *news)


def _settle(proved: asyncio.Future[None], error: Exception | None) -> None:
    if not proved.done():
        proved.set_result(None) if error is None else proved.set_exception(error)
