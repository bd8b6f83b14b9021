"""Sequences in Redis, which several servers share.

Of each sequence there are: its state; a mark that outlives it, to tell an expired sequence from
one that never was, with the token of the turn that wrote last; and the line of the requests that
want it, one from each server at a time, as tokens. The first in line has the turn. A token whose
server has died is passed over when its lease has run out. All sequences are in one sorted set by
the time when they expire, for the cap.

Scripts (`EVALSHA`) make each change in one piece; a step is two of them. Any reply may be lost, so
each script may be sent again: a token enters once, and a write leaves a receipt under its token. A
server that gives a write up, and so answers its client with an error, takes the write back before
the sequence's next turn; and Redis refuses a write that reaches it after it was given up.
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
LEASE_MS = 10_000  # for which a line waits for a server that has died
POLL_SECONDS = 0.01  # between looks at a line that another server leads
MARKED_MS = 3_600_000  # for which an expired sequence is remembered
RECEIPT_MS = 30_000  # for which a write is known by its token when others have followed it
END_RECEIPT_MS = 600_000  # the same of an end, after which no mark is left to know it by
REPLY_SECONDS = 2.0  # for Redis to take a connection, and to reply
WRITE_SECONDS = 3.0  # for which a write is tried again, before its client is told that it failed
RETRY_SECONDS = 0.05
MOST_ABANDONED = 4096  # turns to take back that have written nothing: their leases end too
CLOSE_SECONDS = 1.0  # at the end, for what is still to be taken back

# Errors that may pass: on another connection, or when another Redis has become the first.
PASSING = (RedisConnectionError, RedisTimeoutError, ReadOnlyError)
LASTING = (AuthenticationError, AuthorizationError)  # Redis's package takes them for the former


@dataclass(frozen=True)
class _Begun:
    """A turn as Redis gave it."""

    keys: list[str]
    token: str
    before: bytes = b""
    """The state then, as it was stored; empty for none."""
    marked: bool = False
    ahead_ms: float = 0
    """How far Redis's clock was ahead of this process's."""


class RedisStore(Store):
    """Sequences in the Redis at a URL, for use from one event loop.

    Requests that come to one process keep their order; among processes, the order is that in which
    their turns are asked for.
    """

    def __init__(self, url: str, idle_seconds: float, most: int, lease_ms: int = LEASE_MS) -> None:
        """Connect to nothing yet; a query of the URL may set `socket_timeout` and others.

        Raises:
            UsageError: the URL is none of Redis.
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
            # The settings in the URL are looked at when a connection is made, which is too late.
            pool.connection_class(**pool.connection_kwargs)
        except (ValueError, TypeError) as error:
            raise UsageError(
                f"setting 'state': expected a URL like redis://host:port/db: {error}"
            ) from None
        self._redis = redis.Redis.from_pool(pool)
        self._enter = self._redis.register_script(ENTER)
        self._leave = self._redis.register_script(LEAVE)
        self._renew = self._redis.register_script(RENEW)
        self._take_back = self._redis.register_script(TAKE_BACK)
        self._lines = TurnQueue()
        self._turns = 0
        self._failing = False
        # Turns that may have come, or written, though their clients were told that they failed.
        self._doubtful: dict[SequenceKey, _Begun] = {}
        self._settling: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def turn(self, key: SequenceKey, opening: bool) -> AsyncIterator[Turn]:
        """See `Store.turn`."""
        self._turns += 1
        try:
            async with self._lines.wait(key):
                await self._settle(key)
                async with self._shared_turn(key, opening) as turn:
                    yield turn
        finally:
            self._turns -= 1

    @asynccontextmanager
    async def _shared_turn(self, key: SequenceKey, opening: bool) -> AsyncIterator[Turn]:
        token = uuid.uuid4().hex
        keys = _keys(key, token)
        try:
            begun = await self._begin(keys, token, opening)
        except (asyncio.CancelledError, StateStoreError):
            # What was sent may still arrive: others would wait for this turn until its lease ends.
            if len(self._doubtful) < MOST_ABANDONED:
                self._doubt(key, _Begun(keys, token))
            raise
        renewing = asyncio.create_task(self._keep_lease(keys, token))
        turn = _turn(begun)
        try:
            yield turn
        finally:
            try:
                await self._finish(key, begun, turn)
            finally:
                renewing.cancel()

    async def _begin(self, keys: list[str], token: str, opening: bool) -> _Begun:
        arguments: list[str | int] = [token, self._lease_ms, self._idle_ms, int(opening), self.most]
        while True:
            reply = await self._ask(lambda: self._enter(keys, arguments))
            if reply[0] == FULL:
                raise too_many(self.most)
            if reply[0] == TURN:
                return _Begun(keys, token, reply[1], bool(reply[2]), reply[3] - _now_ms())
            await asyncio.sleep(POLL_SECONDS)

    async def _finish(self, key: SequenceKey, begun: _Begun, turn: Turn) -> None:
        if not turn.changed:
            with suppress(StateStoreError):  # nothing is lost: the lease runs out by itself
                await self._write(begun, turn)
            return
        try:
            made = await self._write(begun, turn)
        except BaseException:  # the end of the server, too, comes between a write and its reply
            self._doubt(key, begun)
            raise
        if not made:
            raise StateStoreError(f"{key} went on without this request, which took too long")

    async def _write(self, begun: _Begun, turn: Turn) -> bool:
        """Leave the line; return whether what the turn changed is written."""
        change, data, receipt, patience = "none", b"", RECEIPT_MS, 0.0
        if turn.changed:
            patience = WRITE_SECONDS
            change, receipt = ("keep", RECEIPT_MS) if turn.state else ("end", END_RECEIPT_MS)
            data = turn.state.to_bytes() if turn.state else b""
        until = int(_now_ms() + begun.ahead_ms + patience * 1000)
        times = (self._idle_ms, MARKED_MS, receipt, until)
        arguments: list[str | int | bytes] = [begun.token, change, *times, data]
        return bool(await self._ask(lambda: self._leave(begun.keys, arguments), patience))

    def _doubt(self, key: SequenceKey, begun: _Begun) -> None:
        """Have a turn taken back as soon as the store can be reached."""
        self._doubtful[key] = begun
        if self._settling is None or self._settling.done():
            self._settling = asyncio.create_task(self._settle_all())

    async def _settle(self, key: SequenceKey) -> None:
        """Take back what the last turn did, or may still do, if its client was told that it failed.

        Raises:
            StateStoreError: the store is still away.
        """
        begun = self._doubtful.get(key)
        if begun is None:
            return
        arguments: list[str | int | bytes] = [begun.token, self._idle_ms, MARKED_MS, begun.before]
        await self._ask(lambda: self._take_back(begun.keys, arguments))
        if self._doubtful.get(key) is begun:
            del self._doubtful[key]

    async def _settle_all(self) -> None:
        """Take back early what is to be taken back: another server may have the next turn."""
        while self._doubtful:
            await asyncio.sleep(RETRY_SECONDS)
            with suppress(StateStoreError):
                for key in list(self._doubtful):
                    await self._settle(key)

    async def _keep_lease(self, keys: list[str], token: str) -> None:
        """Renew the lease for as long as the turn lasts."""
        while True:
            await asyncio.sleep(self._lease_ms / 3000)
            try:
                await self._renew(keys, [token, self._lease_ms, self._idle_ms])
            except RedisError:
                continue  # if it lasts, the end of the turn tells

    async def _ask(self, ask: Callable[[], Awaitable[Any]], patience: float = 0) -> Any:
        """Return Redis's reply; after an error that may pass ask again, once or for so long.

        Args:
            ask: sends a command that may be made twice.
            patience: in seconds.

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
                    # Redis's own words may have an address in them.
                    raise StateStoreError(
                        f"the store of sequences failed: {type(error).__name__}"
                    ) from error
            # A connection that was idle may be to a Redis that is gone, or no more the first.
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
        """See `Store.close`; turns that were cancelled just now are taken back."""
        until = time.monotonic() + CLOSE_SECONDS
        while (self._turns or self._doubtful) and time.monotonic() < until:
            await asyncio.sleep(RETRY_SECONDS)
        if self._settling is not None:
            self._settling.cancel()
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()


def _now_ms() -> float:
    return time.monotonic() * 1000


def _keys(key: SequenceKey, token: str) -> list[str]:
    name = f"{PREFIX}{quote(key.model, safe='')}:{quote(key.id, safe='')}"
    return [LIVE, f"{name}:state", f"{name}:mark", f"{name}:line", f"{PREFIX}alive:{token}"]


def _turn(begun: _Begun) -> Turn:
    if not begun.before:
        return Turn(None, expired=begun.marked)
    try:
        return Turn(SequenceState.from_bytes(begun.before))
    except RequestError:
        return Turn(None, damaged=True)
