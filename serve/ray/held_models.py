"""Many archives in few replicas: the models that a replica holds, and which it gives up."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from torchship.serve.errors import LoadError, ModeError, NotReadyError, OverloadError
from torchship.serve.protocol.tensors import short
from torchship.serve.repository.repository import Repository

FULL_SECONDS = 30  # for which a request waits until a model can be given up
RETRY_SECONDS = (
    30  # for which a model that failed is not tried again: others would lose their place
)


class MultiplexedRepository(Repository):
    """A repository that holds some of its models at a time; clients do not choose which."""

    async def load_model(self, name: str) -> None:
        """Refuse: a model is loaded when it is asked for.

        Raises:
            ModeError: always.
        """
        raise ModeError(f"cannot load model {short(name)}: it is loaded when it is asked for")

    async def unload_model(self, name: str) -> None:
        """Refuse: a model is unloaded when another needs its place.

        Raises:
            ModeError: always.
        """
        raise ModeError(f"cannot unload model {short(name)}: it ends when another needs its place")

    async def bring(self, name: str) -> None:
        """Load a model; see `Repository.load_model`."""
        await super().load_model(name)

    async def give_up(self, name: str) -> None:
        """Unload a model; requests that hold it are still answered."""
        await super().unload_model(name)


class HeldModels:
    """Loads the model that a request needs; gives up the one that nobody needed for longest."""

    def __init__(
        self,
        repository: MultiplexedRepository,
        names: Iterable[str],
        most: int,
        loaded: Iterable[str] = (),
    ) -> None:
        """Hold at most `most` of the named models at a time; some are loaded at the start."""
        self._repository = repository
        self._names = frozenset(names)
        self._most = most
        self._held = dict.fromkeys(loaded)  # the one that was asked for last is last
        self._users: Counter[str] = Counter()
        self._failed: dict[str, tuple[float, str]] = {}
        self._changing = asyncio.Lock()
        self._freed = asyncio.Event()

    @property
    def held(self) -> list[str]:
        """The models that are loaded; the one that nobody needed for longest comes first."""
        return list(self._held)

    @asynccontextmanager
    async def needed(self, name: str | None) -> AsyncIterator[None]:
        """Have a model live in the block; a name that is not known has no effect.

        Raises:
            NotReadyError: the model failed its golden cases, or cannot be loaded.
            OverloadError: all places are taken by models that answer requests.
        """
        if name is None or name not in self._names:
            yield
            return
        self._users[name] += 1
        try:
            if name in self._held:
                self._touch(name)
            else:
                await self._bring(name)
            yield
        finally:
            self._users[name] -= 1
            if not self._users[name]:
                del self._users[name]
                self._freed.set()

    def _touch(self, name: str) -> None:
        self._held[name] = self._held.pop(name, None)

    async def _bring(self, name: str) -> None:
        async with self._changing:
            if name in self._held:  # another request has brought it meanwhile
                self._touch(name)
                return
            until, reason = self._failed.get(name, (0.0, ""))
            if time.monotonic() < until:
                raise NotReadyError(reason)
            while len(self._held) >= self._most:
                await self._make_room()
            try:
                await self._repository.bring(name)
            except LoadError as error:
                self._failed[name] = time.monotonic() + RETRY_SECONDS, str(error)
                raise NotReadyError(str(error)) from None
            self._failed.pop(name, None)
            self._touch(name)

    async def _make_room(self) -> None:
        self._freed.clear()
        idle = next((name for name in self._held if not self._users[name]), None)
        if idle is not None:
            del self._held[idle]
            await self._repository.give_up(idle)
            return
        try:
            await asyncio.wait_for(self._freed.wait(), FULL_SECONDS)
        except asyncio.TimeoutError:
            raise OverloadError(
                f"all {self._most} models of this replica are answering requests: try again later"
            ) from None
