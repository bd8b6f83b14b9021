"""What all gRPC methods have in common: keys, memory, errors, an account of each call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from typing import Any, TypeAlias, TypeVar

from google.protobuf.message import Message

from torchship.serve.grpc.call import Call, CallContext, Headers, client_of, fail, headers_of
from torchship.serve.grpc.conversion import parse
from torchship.serve.grpc.ordered import OrderedAnswers
from torchship.serve.service.accounting import CLIENT_LEFT, UPGRADED, RequestAccounting
from torchship.serve.service.api_keys import KeyRing, digest_of
from torchship.serve.service.failures import Failure, failure_of, shutting_down
from torchship.serve.system.body_memory import BodyHold, BodyMemory
from torchship.serve.telemetry.records import SOURCE, Record

M = TypeVar("M", bound=Message)
R = TypeVar("R", bound=Message)

Client: TypeAlias = "tuple[str, int] | None"
WhoAsks = Callable[[Client, Headers], Client]
Work = Callable[[M, Call, Record], Awaitable[R]]
Needs = Callable[[Message], AbstractAsyncContextManager[None]]
"""Returns a context in which what a message asks for is there."""
Answers = Callable[[Call], OrderedAnswers[Any, R]]

OPEN = frozenset({"ServerLive", "ServerReady"})  # a load balancer has no key
LATE = 408  # the status of a call whose deadline has passed
LOOK_SECONDS = 0.1
CANCEL_SECONDS = 1.0


class Calls:
    """Answers calls, each once; knows those that run."""

    def __init__(
        self,
        accounting: RequestAccounting,
        keys: KeyRing | None,
        memory: BodyMemory,
        who_asks: WhoAsks | None = None,
        needs: Needs | None = None,
    ) -> None:
        """See `InferenceServicer`."""
        self._accounting = accounting
        self._keys = keys
        self._memory = memory
        self._who_asks = who_asks or (lambda peer, headers: peer)
        self._needs = needs or (lambda message: nullcontext())
        self._running: set[asyncio.Task[Any]] = set()
        self._streams: set[OrderedAnswers[Any, Any]] = set()
        self._closed = False
        self._given_up = False

    async def answer(
        self, method: str, kind: type[M], request: M | bytes, context: CallContext, work: Work[M, R]
    ) -> R:
        """Answer a call with one message, whatever becomes of it."""
        call = self._begin(method, context)
        record = call.record
        self._accounting.trace(record)
        SOURCE.set(call.client)
        self._note_task()
        try:
            if method not in OPEN:
                if self._closed:
                    raise shutting_down()
                self._admission(call)()
            answer = await self._run(kind, request, call, record, work)
            record.status = 200
            return answer
        except asyncio.CancelledError:
            if not self._given_up:
                record.status = LATE if call.late() else CLIENT_LEFT
                raise
            failure = failure_of(shutting_down(), record)
        except Exception as error:
            failure = failure_of(error, record)
        finally:
            if record.status:
                self._accounting.end(call.scope, record)
        record.status = failure.status.http
        self._accounting.end(call.scope, record)
        await fail(context, failure, record.request_id)

    async def stream(
        self, method: str, context: CallContext, answers_of: Answers[R]
    ) -> AsyncIterator[R]:
        """Answer a call with many messages; its messages are what is counted."""
        call = self._begin(method, context)
        self._note_task()
        answers = answers_of(call)
        self._streams.add(answers)
        try:
            if self._closed:
                raise shutting_down()
            call.admit = self._admission(call)
            call.admit()
            call.record.status = UPGRADED
            async for answer in answers:
                yield answer
            if not answers.ended_early:
                return
            failure = failure_of(shutting_down(), call.record)
        except asyncio.CancelledError:
            call.record.status = call.record.status or CLIENT_LEFT
            if not self._given_up:
                raise
            failure = failure_of(shutting_down(), call.record)
        except Exception as error:
            failure = failure_of(error, call.record)
        finally:
            self._streams.discard(answers)
            if call.record.status:
                self._accounting.end(call.scope, call.record)
        if not call.record.status:
            call.record.status = failure.status.http
            self._accounting.end(call.scope, call.record)
        await fail(context, failure, call.record.request_id)

    async def answer_message(
        self, call: Call, kind: type[M], request: M | bytes, work: Work[M, R]
    ) -> tuple[R | None, Failure | None]:
        """Return the answer to one message of a stream, or what its client is told instead."""
        record = self._accounting.begin_message(call.record.request_id)
        try:
            call.admit()
            answer = await self._run(kind, request, call, record, work)
            record.status = 200
            return answer, None
        except Exception as error:
            failure = failure_of(error, record)
            record.status = failure.status.http
            return None, failure
        finally:
            record.status = record.status or CLIENT_LEFT
            self._accounting.end(call.scope, record)

    def close(self) -> None:
        """Refuse new calls, and end streams when what they have sent is answered."""
        self._closed = True
        for stream in self._streams:
            stream.end()

    async def finish(self, seconds: float, force: Callable[[], bool]) -> None:
        """Wait for the calls that run; tell those that are left that the server ends."""
        until = time.monotonic() + seconds
        while self._running and not force() and (left := until - time.monotonic()) > 0:
            await asyncio.wait(self._running, timeout=min(left, LOOK_SECONDS))
        self._given_up = True
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=CANCEL_SECONDS)

    def _note_task(self) -> None:
        """Take note of the present task until it has ended: it also sends what it answers."""
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _begin(self, method: str, context: CallContext) -> Call:
        headers = headers_of(context)
        client = self._who_asks(client_of(context.peer()), headers)
        return Call(method, context, headers, client, self._accounting.begin(headers))

    async def _run(
        self, kind: type[M], request: M | bytes, call: Call, record: Record, work: Work[M, R]
    ) -> R:
        hold = BodyHold(self._memory)
        try:
            hold.grow(len(request) if isinstance(request, bytes) else request.ByteSize())
            message = parse(kind, request) if isinstance(request, bytes) else request
            async with self._needs(message):
                return await work(message, call, record)
        finally:
            hold.release()

    def _admission(self, call: Call) -> Callable[[], object]:
        """Return what lets one message pass if its key is known then and is within its rate.

        Raises:
            UnauthorizedError: the call brings no key.
        """
        if self._keys is None:
            return lambda: None
        return partial(self._keys.admit, digest_of(call.headers))
