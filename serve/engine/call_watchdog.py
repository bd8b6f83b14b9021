"""Notices calls that take too long in an engine's thread.

The event loop looks now and then, which costs requests nothing and needs no other thread. A model
on the event loop itself is watched by another process, through the process's own heartbeat.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Mapping

import torch

from torchship.script.format.golden import Call
from torchship.script.format.tree import Flat
from torchship.serve.system.heartbeat import Heartbeat

SHORTEST_LOOK = 0.05  # seconds between two looks


class CallWatchdog:
    """Looks at the heartbeat of one engine's thread, and reports a call that takes too long."""

    def __init__(self, number: int, seconds: float, heartbeat: Heartbeat | None = None) -> None:
        """Allow so many seconds for a call of the engine with that number.

        `heartbeat` is the heartbeat of the engine's thread, by default a new one.
        """
        self.heartbeat = heartbeat or Heartbeat()
        """Of the engine's thread."""
        self.doing = "a call"
        """What runs now, as messages name it."""
        self._number = number
        self._seconds = seconds
        self._pause = max(seconds / 4, SHORTEST_LOOK)
        self._began = 0.0  # of the call that ran at the last look; 0 for none
        self._looks = 0  # since, at which the same call ran
        self._timer: asyncio.TimerHandle | None = None

    def start(self, late: Callable[[str], None]) -> None:
        """Look from now on, on the running event loop; call `late` once, with what took too long.

        `late` is a method, whose object is not kept alive.
        """
        self._plan(weakref.WeakMethod(late))

    def _plan(self, late: weakref.WeakMethod[Callable[[str], None]]) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._pause, self._look, late)

    def stop(self) -> None:
        """Stop looking."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, late: weakref.WeakMethod[Callable[[str], None]]) -> None:
        told = late()
        if told is None:
            return
        state = self.heartbeat.state()
        began = state.began if state.call else 0.0
        # Looks are counted, not seconds: the process may have been stopped for a while, or its
        # event loop busy, which says nothing about the model.
        self._looks = self._looks + 1 if began and began == self._began else 0
        self._began = began
        if self._looks * self._pause >= self._seconds:
            self._timer = None
            told(f"{self.doing} took longer than {self._seconds:g} s")
        else:
            self._plan(late)

    def marked(self, call: Call) -> Call:
        """Return `call`, which shows in the thread's heartbeat for as long as it runs."""
        return marked(call, self.heartbeat, self._number)


def marked(call: Call, heartbeat: Heartbeat, number: int) -> Call:
    """Return `call`, which shows in a heartbeat for as long as it runs."""

    def run(method: str, inputs: Mapping[str, torch.Tensor]) -> Flat:
        heartbeat.enter(number)
        try:
            return call(method, inputs)
        finally:
            heartbeat.leave()

    return run
