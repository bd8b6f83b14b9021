"""The sequence store in Redis, which several servers can share.

Redis holds for each sequence: its state; a mark that outlives the state, to distinguish an expired
sequence from an unknown one, with the token of the last turn that wrote; and a queue of tokens, one
per waiting process. The first token in the queue has the turn. The token of a process that has died
is skipped when its lease has run out. One sorted set holds all sequences by the time when they
expire, for the limit on their number.

Scripts (`EVALSHA`) make each change atomic; a step takes two. Any reply may be lost, so each
script can be sent again: a token enters the queue once, and a write leaves a receipt under its
token. If a server gives up on a write and answers its client with an error, it reverts the write
before the sequence's next turn, and Redis refuses the write if it arrives after its deadline.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from redis import asyncio as redis
from redis.exceptions import AuthenticationError, AuthorizationError, ReadOnlyError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from torchship.script.errors import UsageError
from torchship.serve.errors import RequestError, StateStoreError
from torchship.serve.sequences.redis_scripts import (
    ENTER,
    FULL,
    LEAVE,
    PREFIX,
    RENEW,
    TAKE_BACK,
    TURN,
)
from torchship.serve.sequences.store import (
    SequenceKey,
    SequenceState,
    Store,
    Turn,
    TurnQueue,
    too_many,
)

log = logging.getLogger(__name__)

LIVE = PREFIX + "live"
CONNECTIONS = 64
LEASE_MS = 10_000  # after which the queue skips a process that has died
POLL_SECONDS = 0.01  # between two attempts to get a turn that another process has
MARKED_MS = 3_600_000  # for which an expired sequence is remembered
RECEIPT_MS = 30_000  # for which a write is recognised after other turns have written
END_RECEIPT_MS = 600_000  # the same for an end, which leaves no mark to recognise it by
REPLY_SECONDS = 2.0  # limit for Redis to accept a connection, and to reply
WRITE_SECONDS = 3.0  # for which a write is retried before its client gets an error
RETRY_SECONDS = 0.05
MOST_ABANDONED = 4096  # limit on turns to revert that wrote nothing; their leases expire anyway
CLOSE_SECONDS = 1.0  # limit at shutdown for turns that are still to be reverted

# Temporary errors: another connection may work, or another Redis may have become the primary.
PASSING = (RedisConnectionError, RedisTimeoutError, ReadOnlyError)
LASTING = (AuthenticationError, AuthorizationError)  # subclasses of ConnectionError, but permanent


@dataclass(frozen=True)
class _GrantedTurn:
    """A turn that Redis granted."""

    keys: list[str]
    token: str
    before: bytes = b""
    """The stored state at that time; empty for none."""
    marked: bool = False
    ahead_ms: float = 0
    """How far Redis's clock is ahead of this process's."""


class RedisStore(Store):
    """The sequences in the Redis at a URL; used from one event loop.

    The requests of one process keep their order; between processes, turns are granted in the order
    in which they are asked for.
    """

    def __init__(self, url: str, idle_seconds: float, most: int, lease_ms: int = LEASE_MS) -> None:
        """Do not connect yet; the URL's query may set options such as `socket_timeout`.

        Raises:
            UsageError: the URL is not a valid Redis URL.
        """
        self.most = most
        self._idle_ms = max(1, round(idle_seconds * 1000))
        self._lease_ms = lease_ms
        try:
            pool = redis.BlockingConnectionPool.from_url(
                url,
                max_connections=CONNECTIONS,
                timeout=WRITE_SECONDS,
                socket_timeout=REPLY_SECONDS,
                socket_connect_timeout=REPLY_SECONDS,
            )
            # Create a connection now: otherwise the first request would report an invalid option.
            pool.connection_class(**pool.connection_kwargs)
        except (ValueError, TypeError) as error:
            raise UsageError(
                f"setting 'state': expected a URL like redis://host:port/db: {error}"
            ) from None
        self._redis = redis.Redis.from_pool(pool)
        self._enter = self._redis.register_script(ENTER)
        self._leave = self._redis.register_script(LEAVE)
        self._renew = self._redis.register_script(RENEW)
        self._revert_script = self._redis.register_script(TAKE_BACK)
        self._queue = TurnQueue()
        self._turns = 0
        self._failing = False
        # Turns that may have begun or written, although their clients got an error.
        self._to_revert: dict[SequenceKey, _GrantedTurn] = {}
        self._reverting: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def turn(self, key: SequenceKey, opening: bool) -> AsyncIterator[Turn]:
        """See `Store.turn`."""
        self._turns += 1
        try:
            async with self._queue.wait(key):
                await self._revert(key)
                async with self._shared_turn(key, opening) as turn:
                    yield turn
        finally:
            self._turns -= 1

    @asynccontextmanager
    async def _shared_turn(self, key: SequenceKey, opening: bool) -> AsyncIterator[Turn]:
        token = uuid.uuid4().hex
        keys = _keys(key, token)
        try:
            granted = await self._begin(keys, token, opening)
        except (asyncio.CancelledError, StateStoreError):
            # The script may still arrive, and others would wait for this turn until its lease ends.
            if len(self._to_revert) < MOST_ABANDONED:
                self._revert_later(key, _GrantedTurn(keys, token))
            raise
        renewing = asyncio.create_task(self._keep_lease(keys, token))
        turn = _turn(granted)
        try:
            yield turn
        finally:
            try:
                await self._finish(key, granted, turn)
            finally:
                renewing.cancel()

    async def _begin(self, keys: list[str], token: str, opening: bool) -> _GrantedTurn:
        arguments: list[str | int] = [token, self._lease_ms, self._idle_ms, int(opening), self.most]
        while True:
            reply = await self._ask(lambda: self._enter(keys, arguments))
            if reply[0] == FULL:
                raise too_many(self.most)
            if reply[0] == TURN:
                return _GrantedTurn(keys, token, reply[1], bool(reply[2]), reply[3] - _now_ms())
            await asyncio.sleep(POLL_SECONDS)

    async def _finish(self, key: SequenceKey, granted: _GrantedTurn, turn: Turn) -> None:
        if not turn.changed:
            with suppress(StateStoreError):  # nothing is lost: the lease expires by itself
                await self._write(granted, turn)
            return
        try:
            made = await self._write(granted, turn)
        except BaseException:  # cancellation too can come between a write and its reply
            self._revert_later(key, granted)
            raise
        if not made:
            raise StateStoreError(f"{key} went on without this request, which took too long")

    async def _write(self, granted: _GrantedTurn, turn: Turn) -> bool:
        """End the turn; return whether its change is written."""
        change, data, receipt, patience = "none", b"", RECEIPT_MS, 0.0
        if turn.changed:
            patience = WRITE_SECONDS
            change, receipt = ("keep", RECEIPT_MS) if turn.state else ("end", END_RECEIPT_MS)
            data = turn.state.to_bytes() if turn.state else b""
        until = int(_now_ms() + granted.ahead_ms + patience * 1000)
        times = (self._idle_ms, MARKED_MS, receipt, until)
        arguments: list[str | int | bytes] = [granted.token, change, *times, data]
        return bool(await self._ask(lambda: self._leave(granted.keys, arguments), patience))

    def _revert_later(self, key: SequenceKey, granted: _GrantedTurn) -> None:
        """Revert a turn as soon as the store can be reached."""
        self._to_revert[key] = granted
        if self._reverting is None or self._reverting.done():
            self._reverting = asyncio.create_task(self._revert_all())

    async def _revert(self, key: SequenceKey) -> None:
        """Revert the last turn of a sequence if its client got an error.

        Raises:
            StateStoreError: the store still cannot be reached.
        """
        granted = self._to_revert.get(key)
        if granted is None:
            return
        arguments: list[str | int | bytes] = [
            granted.token,
            self._idle_ms,
            MARKED_MS,
            granted.before,
        ]
        await self._ask(lambda: self._revert_script(granted.keys, arguments))
        if self._to_revert.get(key) is granted:
            del self._to_revert[key]

    async def _revert_all(self) -> None:
        """Revert turns without waiting for the next one, which another server may get."""
        while self._to_revert:
            await asyncio.sleep(RETRY_SECONDS)
            with suppress(StateStoreError):
                for key in list(self._to_revert):
                    await self._revert(key)

    async def _keep_lease(self, keys: list[str], token: str) -> None:
        """Renew the lease for as long as the turn lasts."""
        while True:
            await asyncio.sleep(self._lease_ms / 3000)
            try:
                await self._renew(keys, [token, self._lease_ms, self._idle_ms])
            except RedisError:
                continue  # if the error persists, the write at the end of the turn reports it

    async def _ask(self, ask: Callable[[], Awaitable[Any]], patience: float = 0) -> Any:
        """Return Redis's reply; after a temporary error retry once, or for `patience` seconds.

        Args:
            ask: sends an idempotent command.
            patience: for how many seconds to retry.

        Raises:
            StateStoreError: Redis gave no reply, or refused.
        """
        until, again = time.monotonic() + patience, False
        while True:
            try:
                reply = await ask()
                break
            except RedisError as error:
                passing = isinstance(error, PASSING) and not isinstance(error, LASTING)
                if not passing or (again and time.monotonic() >= until):
                    if not self._failing:
                        log.warning("the store of sequences failed: %s", error)
                    self._failing = True
                    # Redis's own message may contain an address.
                    raise StateStoreError(
                        f"the store of sequences failed: {type(error).__name__}"
                    ) from error
            # Idle connections may lead to a Redis that has gone or is no longer the primary.
            await self._redis.connection_pool.disconnect(inuse_connections=False)
            if again:
                await asyncio.sleep(RETRY_SECONDS)
            again = True
        if self._failing:
            log.warning("the store of sequences is back")
        self._failing = False
        return reply

    async def live(self) -> int:
        """See `Store.live`."""
        seconds, microseconds = await self._ask(self._redis.time)
        now = seconds * 1000 + microseconds // 1000
        return int(await self._ask(lambda: self._redis.zcount(LIVE, f"({now}", "+inf")))

    async def close(self) -> None:
        """See `Store.close`; turns that were just cancelled are reverted."""
        until = time.monotonic() + CLOSE_SECONDS
        while (self._turns or self._to_revert) and time.monotonic() < until:
            await asyncio.sleep(RETRY_SECONDS)
        if self._reverting is not None:
            self._reverting.cancel()
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()


def _now_ms() -> float:
    return time.monotonic() * 1000


def _keys(key: SequenceKey, token: str) -> list[str]:
    name = f"{PREFIX}{quote(key.model, safe='')}:{quote(key.id, safe='')}"
    return [LIVE, f"{name}:state", f"{name}:mark", f"{name}:line", f"{PREFIX}alive:{token}"]


def _turn(granted: _GrantedTurn) -> Turn:
    if not granted.before:
        return Turn(None, expired=granted.marked)
    try:
        return Turn(SequenceState.from_bytes(granted.before))
    except RequestError:
        return Turn(None, damaged=True)
