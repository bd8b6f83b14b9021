"""Both sequence stores behave alike."""

import asyncio
import os
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack

import hypothesis
import pytest
import safetensors.torch
import torch
from hypothesis import strategies as st
from redis import asyncio as redis

from clocked import SteppedLoop
from redis_server import running_redis
from torchship.script.errors import UsageError
from torchship.serve.errors import RequestError, StateStoreError, TooManySequencesError
from torchship.serve.sequences.memory_store import REMEMBERED, MemoryStore
from torchship.serve.sequences.redis_scripts import ENTER, LEAVE, RENEW, WAIT
from torchship.serve.sequences.redis_store import LIVE, RedisStore
from torchship.serve.sequences.store import (
    SequenceKey,
    SequenceState,
    Store,
    TurnQueue,
    read_state,
)

A, B = SequenceKey("moba", "a"), SequenceKey("moba", "b")
IDLE = 60.0
KEPT = ("state", "line")  # of a sequence in Redis while it has a turn

Check = Callable[[Store], Awaitable[None]]


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with running_redis() as url:
        yield url


class Setting:
    """A kind of store; time passes when a test says so."""

    def __init__(self, url: str | None) -> None:
        self.url = url
        self.now = 0.0

    def store(self, most: int = 10) -> Store:
        if self.url is None:
            return MemoryStore(IDLE, most, lambda: self.now)
        return RedisStore(self.url, IDLE, most)

    def run(self, check: Check, most: int = 10) -> None:
        async def run() -> None:
            if self.url is not None:
                client = redis.Redis.from_url(self.url)
                await client.flushall()
                await client.aclose()
            store = self.store(most)
            try:
                await check(store)
            finally:
                await store.close()

        asyncio.run(run())

    async def pass_idle_time(self) -> None:
        """Let all that is idle expire, in Redis as its own clock would."""
        self.now += IDLE + 1
        if self.url is not None:
            async with redis.Redis.from_url(self.url) as client:
                for name in await client.keys("torchship:*:state"):
                    assert isinstance(name, bytes)
                    remaining = await client.pttl(name)
                    assert 0 < remaining <= IDLE * 1000
                    assert await client.zscore(LIVE, name) is not None
                    await client.delete(name)
                    await client.zadd(LIVE, {name: 1})


@pytest.fixture(params=["memory", "redis"])
def setting(request: pytest.FixtureRequest) -> Setting:
    return Setting(None if request.param == "memory" else request.getfixturevalue("redis_url"))


def state(value: float) -> SequenceState:
    return SequenceState("1", "forward", {"h": torch.full((1, 2), value)})


async def put(store: Store, key: SequenceKey, value: float) -> None:
    async with store.turn(key, opening=True) as turn:
        turn.keep(state(value))


async def value(store: Store, key: SequenceKey) -> float | None:
    async with store.turn(key, opening=False) as turn:
        return None if turn.state is None else turn.state.tensors["h"][0, 0].item()


async def has_expired(store: Store, key: SequenceKey) -> bool:
    async with store.turn(key, opening=False) as turn:
        assert turn.state is None
        return turn.expired


def test_state_is_kept_by_model_and_id_until_its_end(setting: Setting) -> None:
    async def check(store: Store) -> None:
        await put(store, A, 1)
        await put(store, B, 2)
        await put(store, SequenceKey("snake", "a"), 3)
        await put(store, SequenceKey("moba", "a/:é"), 4)
        assert [await value(store, A), await value(store, B)] == [1, 2]
        assert await value(store, SequenceKey("snake", "a")) == 3
        assert await value(store, SequenceKey("moba", "a/:é")) == 4
        assert await store.live() == 4
        async with store.turn(A, opening=False) as turn:
            assert turn.state is not None
            assert (turn.state.version, turn.state.method) == ("1", "forward")
            turn.end()
        assert await value(store, A) is None
        assert not await has_expired(store, A)
        assert await store.live() == 3

    setting.run(check)


def test_a_turn_that_fails_leaves_the_state_as_it_was(setting: Setting) -> None:
    async def check(store: Store) -> None:
        for opening in (True, False):
            with pytest.raises(RuntimeError):
                async with store.turn(A, opening):
                    raise RuntimeError
            assert await store.live() == 0
        await put(store, A, 1)
        for opening in (True, False):
            with pytest.raises(RuntimeError):
                async with store.turn(A, opening):
                    raise RuntimeError
            assert await value(store, A) == 1

    setting.run(check)


def test_an_expired_sequence_is_distinguished_from_an_unknown_one(setting: Setting) -> None:
    async def check(store: Store) -> None:
        await put(store, A, 1)
        async with store.turn(B, opening=True) as busy:
            await setting.pass_idle_time()
            busy.keep(state(2))
        assert await has_expired(store, A)
        assert await value(store, B) == 2
        assert await store.live() == 1
        assert not await has_expired(store, SequenceKey("moba", "never"))
        await put(store, A, 3)
        assert await value(store, A) == 3
        async with store.turn(A, opening=False) as turn:
            turn.end()
        assert not await has_expired(store, A)

    setting.run(check)


def test_use_puts_expiry_off() -> None:
    now = 0.0

    async def check() -> None:
        nonlocal now
        store = MemoryStore(IDLE, 10, lambda: now)
        await put(store, A, 1)
        await put(store, B, 1)
        now = 59
        assert await value(store, A) == 1
        now = 118
        assert await value(store, A) == 1
        assert await has_expired(store, B)
        now = 178
        assert await has_expired(store, A)
        await store.close()

    asyncio.run(check())


def test_memory_is_freed_without_a_request() -> None:
    loop = SteppedLoop()

    async def check() -> None:
        store = MemoryStore(IDLE, REMEMBERED + 2, loop.time)
        tensors = []
        for number in range(REMEMBERED + 1):
            kept = state(1)
            tensors.append(weakref.ref(kept.tensors["h"]))
            async with store.turn(SequenceKey("moba", str(number)), opening=True) as turn:
                turn.keep(kept)
        del kept, turn
        assert all(tensor() is not None for tensor in tensors)
        loop.now += IDLE
        for _ in range(3):  # turns, in which the timer fires
            await asyncio.sleep(0)
        assert all(tensor() is None for tensor in tensors)
        expired = [
            await has_expired(store, SequenceKey("moba", str(number)))
            for number in range(REMEMBERED + 1)
        ]
        assert expired == [False] + [True] * REMEMBERED

    loop.run_until_complete(check())
    loop.close()


def test_a_queue_of_turns_forgets_a_sequence_without_requests() -> None:
    async def check() -> None:
        queue = TurnQueue()
        async with queue.wait(A), queue.wait(B):
            assert len(queue) == 2
        assert len(queue) == 0

    asyncio.run(check())


def test_one_more_than_the_most_cannot_begin(setting: Setting) -> None:
    async def check(store: Store) -> None:
        await put(store, A, 1)
        async with store.turn(B, opening=True):  # it counts before it has state
            with pytest.raises(TooManySequencesError, match="holds at most 2"):
                await put(store, SequenceKey("moba", "c"), 3)
            await put(store, A, 2)
        assert await store.live() == 1
        await put(store, SequenceKey("moba", "c"), 3)
        with pytest.raises(TooManySequencesError):
            await put(store, B, 2)
        await setting.pass_idle_time()
        await put(store, B, 2)
        assert await store.live() == 1

    setting.run(check, most=2)


def test_turns_of_one_sequence_come_in_order_and_one_at_a_time(setting: Setting) -> None:
    async def check(store: Store) -> None:
        seen: list[int] = []
        gate = asyncio.Event()
        waiting = 0

        async def step(number: int) -> None:
            nonlocal waiting
            waiting += 1
            async with store.turn(A, opening=True) as turn:
                await gate.wait()
                before = turn.state.tensors["h"][0, 0].item() if turn.state else 0
                seen.append(number)
                await asyncio.sleep(0)
                turn.keep(state(before + 1))

        steps = [asyncio.create_task(step(number)) for number in range(20)]
        while waiting < 20:
            await asyncio.sleep(0)
        steps[7].cancel()
        async with store.turn(B, opening=True) as other:  # others do not wait
            other.keep(state(0))
        gate.set()
        await asyncio.gather(*steps, return_exceptions=True)
        assert seen == [number for number in range(20) if number != 7]
        assert await value(store, A) == 19

    setting.run(check)


def test_two_servers_take_turns(redis_url: str) -> None:
    setting = Setting(redis_url)

    async def check(one: Store) -> None:
        other = setting.store()

        async def add(store: Store) -> None:
            async with store.turn(A, opening=True) as turn:
                before = turn.state.tensors["h"][0, 0].item() if turn.state else 0
                await asyncio.sleep(0)
                turn.keep(state(before + 1))

        await asyncio.gather(*(add(store) for store in (one, other) * 10))
        assert await value(one, A) == await value(other, A) == 20
        assert await one.live() == await other.live() == 1
        await other.close()

    setting.run(check)


def test_the_turn_of_a_server_that_died_is_passed_over(redis_url: str) -> None:
    async def check(store: Store) -> None:
        dead = RedisStore(redis_url, IDLE, 10, lease_ms=50)
        await put(store, A, 1)
        async with AsyncExitStack() as stack:
            turn = await stack.enter_async_context(dead.turn(A, opening=False))
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()  # it renews its lease no more
            await put(store, A, 2)
            turn.keep(state(3))
            with pytest.raises(StateStoreError, match="went on without this request"):
                await stack.aclose()
        assert await value(store, A) == 2
        await dead.close()

    Setting(redis_url).run(check)


@pytest.mark.parametrize("gone", ["line", "alive"])
def test_a_turn_that_redis_dropped_is_not_stored(redis_url: str, gone: str) -> None:
    async def check(store: Store) -> None:
        other = RedisStore(redis_url, IDLE, 10)
        await put(store, A, 1)
        async with AsyncExitStack() as stack, redis.Redis.from_url(redis_url) as client:
            turn = await stack.enter_async_context(store.turn(A, opening=False))
            await client.delete(*await client.keys(f"torchship:*{gone}*"))
            await put(other, A, 2)
            turn.keep(state(3))
            with pytest.raises(StateStoreError, match="went on without this request"):
                await stack.aclose()
        assert await value(store, A) == 2
        await other.close()

    Setting(redis_url).run(check)


def test_a_write_that_comes_after_it_was_given_up_is_not_made(redis_url: str) -> None:
    async def check(store: Store) -> None:
        await put(store, A, 1)
        async with store.turn(A, opening=False), redis.Redis.from_url(redis_url) as client:
            names = [f"torchship:moba:a:{what}" for what in ("state", "mark", "line")]
            token = (await client.lrange(names[2], 0, 0))[0]
            assert isinstance(token, bytes)
            keys = [LIVE, *names, f"torchship:alive:{token.decode()}"]
            seconds, _ = await client.time()
            times = (60_000, 60_000, 60_000, (seconds - 1) * 1000)
            data = state(2).to_bytes()
            assert await client.eval(LEAVE, 5, *keys, token.decode(), "keep", *times, data) == 0
        assert await value(store, A) == 1

    Setting(redis_url).run(check)


def test_a_turn_that_is_over_is_not_entered_again(redis_url: str) -> None:
    async def check(store: Store) -> None:
        await put(store, A, 1)
        async with redis.Redis.from_url(redis_url) as client:
            (alive,) = await client.keys("torchship:alive:*")
            assert isinstance(alive, bytes)
            names = [f"torchship:moba:a:{what}" for what in ("state", "mark", "line")]
            keys = [LIVE, *names, alive.decode()]
            token = alive.decode().rpartition(":")[2]
            assert await client.eval(ENTER, 5, *keys, token, 60_000, 60_000, 0, 10) == [WAIT]
            assert await client.exists(names[2]) == 0  # others do not wait for it

    Setting(redis_url).run(check)


def test_a_turn_that_lasts_keeps_its_lease(redis_url: str) -> None:
    async def check(store: Store) -> None:
        # A tenth of a lease: what is not renewed would be gone before the turn ends.
        slow = RedisStore(redis_url, 0.003, 10, lease_ms=30)
        listening = asyncio.Event()

        async def renewals(count: int) -> None:
            """Return when Redis was asked so often to renew a lease."""
            async with redis.Redis.from_url(redis_url) as client, client.monitor() as monitor:
                renew = client.register_script(RENEW).sha
                listening.set()
                while count:
                    count -= renew in (await monitor.next_command())["command"]

        enough = asyncio.create_task(renewals(10))
        await listening.wait()
        await put(store, A, 0)
        async with slow.turn(A, opening=True) as turn:
            other = asyncio.create_task(put(store, A, 2))
            # Without a lease the other has its turn before this one is renewed often enough.
            await asyncio.wait({other, enough}, return_when=asyncio.FIRST_COMPLETED)
            assert not other.done()
            assert await slow.live() == 1
            async with redis.Redis.from_url(redis_url) as client:
                kept = {await client.exists(f"torchship:moba:a:{what}") for what in KEPT}
            assert kept == {1}
            turn.keep(state(1))
        await other
        assert await value(slow, A) == 2
        await slow.close()

    Setting(redis_url).run(check)


def test_an_unreachable_redis_is_reported_without_its_address() -> None:
    async def check() -> None:
        store = RedisStore(f"unix://{os.devnull}/nothing", IDLE, 10)
        with pytest.raises(StateStoreError, match=r"^the store of sequences failed: \w+$"):
            await value(store, A)
        with pytest.raises(StateStoreError):
            await store.live()
        await store.close()

    asyncio.run(check())


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:port/0", "redis://[::1/0", "redis://a:99999", "redis://a?b=c"]
)
def test_an_invalid_url_is_named(url: str) -> None:
    with pytest.raises(UsageError, match="setting 'state': expected a URL like redis://"):
        RedisStore(url, IDLE, 10)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.uint16]
)
def test_state_survives_its_bytes(dtype: torch.dtype) -> None:
    tensors = {"h": torch.arange(6).reshape(2, 3).to(dtype).T, "n": torch.ones((), dtype=dtype)}
    read, metadata = read_state(SequenceState("2", "act", tensors).to_bytes())
    assert metadata == {"version": "2", "method": "act"}
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    assert {tensor.dtype for tensor in read.values()} == {dtype}


def test_a_stored_state_has_its_archives_digest_and_what_was_before_its_step() -> None:
    tensors, before = {"h": torch.ones(1, 2)}, {"h": torch.zeros(1, 2)}
    whole = SequenceState("2", "act", tensors, "0a", "seven", before)
    metadata = read_state(whole.to_bytes())[1]
    assert metadata == {"version": "2", "method": "act", "digest": "0a", "step": "seven"}
    again = SequenceState.from_bytes(whole.to_bytes())
    assert (again.version, again.method, again.digest, again.step) == ("2", "act", "0a", "seven")
    assert torch.equal(again.tensors["h"], tensors["h"])
    assert torch.equal(again.before["h"], before["h"])
    older = SequenceState.from_bytes(
        safetensors.torch.save(tensors, {"version": "2", "method": ""})
    )
    assert (older.digest, older.step, older.before) == ("", "", {})
    with pytest.raises(RequestError, match="expected 'version' and 'method'"):
        SequenceState.from_bytes(safetensors.torch.save(tensors))


@hypothesis.given(st.binary(max_size=64), st.integers(0, 200))
def test_any_bytes_are_a_state_or_refused(noise: bytes, cut: int) -> None:
    good = state(1).to_bytes()
    for data in (noise, good[:cut], good[:cut] + noise):
        if data == good:
            continue
        try:
            tensors, metadata = read_state(data)
        except RequestError:
            continue
        assert all(isinstance(text, str) for text in metadata.values())
        assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
