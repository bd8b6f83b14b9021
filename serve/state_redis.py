"""Sequences in Redis, which several servers share.

Of each sequence there are: its state; a mark that outlives it, to tell an expired sequence from
one that never was; and the line of the requests that want it, one from each server at a time, as
tokens. The first in line has the turn. A token whose server has died is passed over when its lease
has run out. All sequences are in one sorted set by the time when they expire, for the cap.

Scripts (`EVALSHA`) make each change in one piece; a step is two of them.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

from redis import asyncio as redis
from redis.exceptions import RedisError

from torchship.serve.errors import StateStoreError
from torchship.serve.state import (
    Lines,
    SequenceKey,
    SequenceState,
    Store,
    Turn,
    read_state,
    too_many,
)

PREFIX = "torchship:"
LIVE = PREFIX + "live"
CONNECTIONS = 64
LEASE_MS = 10_000  # for which a line waits for a server that has died
POLL_SECONDS = 0.01  # between looks at a line that another server leads
MARKED_MS = 3_600_000  # for which an expired sequence is remembered
TURN, WAIT, FULL = 0, 1, 2

# KEYS: live, state, mark, line, alive. ARGV: token, lease ms, idle ms, opening, most.
ENTER = f"""
local live, state, mark, line, alive = unpack(KEYS)
local token, lease, idle = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('SET', alive, 1, 'PX', lease)
if not redis.call('LPOS', line, token) then redis.call('RPUSH', line, token) end
redis.call('PEXPIRE', line, 2 * lease)
local head = redis.call('LINDEX', line, 0)
while head ~= token and redis.call('EXISTS', '{PREFIX}alive:' .. head) == 0 do
  redis.call('LPOP', line)
  head = redis.call('LINDEX', line, 0)
end
if head ~= token then return {{{WAIT}}} end
redis.call('ZREMRANGEBYSCORE', live, '-inf', now)
local found = redis.call('GET', state)
if found then
  redis.call('PEXPIRE', state, math.max(idle, 2 * lease))
  redis.call('ZADD', live, now + math.max(idle, 2 * lease), state)
elseif ARGV[4] == '1' then
  if redis.call('ZCARD', live) >= tonumber(ARGV[5]) then
    redis.call('LREM', line, 1, token)
    redis.call('DEL', alive)
    return {{{FULL}}}
  end
  redis.call('ZADD', live, now + 2 * lease, state)
end
return {{{TURN}, found or '', redis.call('EXISTS', mark)}}
"""

# KEYS as above. ARGV: token, change, idle ms, marked ms, state. Returns 1 if the turn was its own.
LEAVE = """
local live, state, mark, line, alive = unpack(KEYS)
local token, change, idle = ARGV[1], ARGV[2], tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local own = redis.call('LINDEX', line, 0) == token
redis.call('LREM', line, 1, token)
redis.call('DEL', alive)
if not own then return 0 end
if change == 'keep' then
  redis.call('SET', state, ARGV[5])
elseif change == 'end' then
  redis.call('DEL', state, mark)
end
if redis.call('EXISTS', state) == 1 then
  redis.call('PEXPIRE', state, idle)
  redis.call('SET', mark, 1, 'PX', idle + tonumber(ARGV[4]))
  redis.call('ZADD', live, now + idle, state)
else
  redis.call('ZREM', live, state)
end
return 1
"""

# KEYS as above. ARGV: token, lease ms, idle ms.
RENEW = """
local live, state, mark, line, alive = unpack(KEYS)
local lease, idle = tonumber(ARGV[2]), tonumber(ARGV[3])
if redis.call('LINDEX', line, 0) ~= ARGV[1] then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('SET', alive, 1, 'PX', lease)
redis.call('PEXPIRE', line, 2 * lease)
redis.call('PEXPIRE', state, math.max(idle, 2 * lease))
redis.call('ZADD', live, 'XX', now + math.max(idle, 2 * lease), state)
return 1
"""


class RedisStore(Store):
    """Sequences in the Redis at a URL, for use from one event loop.

    Requests that come to one process keep their order; among processes, the order is that in which
    their turns are asked for.
    """

    def __init__(self, url: str, idle_seconds: float, most: int, lease_ms: int = LEASE_MS) -> None:
        self.most = most
        self._idle_ms = max(1, round(idle_seconds * 1000))
        self._lease_ms = lease_ms
        pool = redis.BlockingConnectionPool.from_url(url, max_connections=CONNECTIONS)
        self._redis = redis.Redis.from_pool(pool)
        self._enter = self._redis.register_script(ENTER)
        self._leave = self._redis.register_script(LEAVE)
        self._renew = self._redis.register_script(RENEW)
        self._lines = Lines()

    @asynccontextmanager
    async def turn(self, key: SequenceKey, opening: bool) -> AsyncIterator[Turn]:
        """See `Store.turn`."""
        async with self._lines.wait(key), self._shared_turn(key, opening) as turn:
            yield turn

    @asynccontextmanager
    async def _shared_turn(self, key: SequenceKey, opening: bool) -> AsyncIterator[Turn]:
        token = uuid.uuid4().hex
        keys = _keys(key, token)
        try:
            turn = await self._begin(keys, token, opening)
        except asyncio.CancelledError:
            await self._finish(keys, token, Turn(None))
            raise
        renewing = asyncio.create_task(self._keep_lease(keys, token))
        try:
            yield turn
        finally:
            renewing.cancel()
            own = await self._finish(keys, token, turn)
        if not own and turn.changed:
            raise StateStoreError(f"{key} went on without this request, which took too long")

    async def _begin(self, keys: list[str], token: str, opening: bool) -> Turn:
        arguments: list[str | int] = [token, self._lease_ms, self._idle_ms, int(opening), self.most]
        while True:
            try:
                reply = await self._enter(keys, arguments)
            except RedisError as error:
                raise _failed(error) from error
            if reply[0] == FULL:
                raise too_many(self.most)
            if reply[0] == TURN:
                state = _read(reply[1]) if reply[1] else None
                return Turn(state, state is None and bool(reply[2]))
            await asyncio.sleep(POLL_SECONDS)

    async def _finish(self, keys: list[str], token: str, turn: Turn) -> bool:
        change, data = "none", b""
        if turn.changed:
            change = "end" if turn.state is None else "keep"
            data = b"" if turn.state is None else turn.state.to_bytes()
        try:
            reply = await self._leave(keys, [token, change, self._idle_ms, MARKED_MS, data])
        except RedisError as error:
            raise _failed(error) from error
        return bool(reply)

    async def _keep_lease(self, keys: list[str], token: str) -> None:
        """Renew the lease for as long as the turn lasts."""
        while True:
            await asyncio.sleep(self._lease_ms / 3000)
            try:
                await self._renew(keys, [token, self._lease_ms, self._idle_ms])
            except RedisError:
                continue  # if it lasts, the end of the turn tells

    async def live(self) -> int:
        """See `Store.live`."""
        try:
            seconds, microseconds = await self._redis.time()
            now = seconds * 1000 + microseconds // 1000
            return int(await self._redis.zcount(LIVE, f"({now}", "+inf"))
        except RedisError as error:
            raise _failed(error) from error

    async def close(self) -> None:
        """See `Store.close`."""
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()


def _keys(key: SequenceKey, token: str) -> list[str]:
    name = f"{PREFIX}{quote(key.model, safe='')}:{quote(key.id, safe='')}"
    return [LIVE, f"{name}:state", f"{name}:mark", f"{name}:line", f"{PREFIX}alive:{token}"]


def _read(data: bytes) -> SequenceState:
    tensors, metadata = read_state(data)
    return SequenceState(metadata["version"], metadata["method"], tensors)


def _failed(error: RedisError) -> StateStoreError:
    """Return what a client may know: Redis's own words may have an address in them."""
    return StateStoreError(f"the store of sequences failed: {type(error).__name__}")
