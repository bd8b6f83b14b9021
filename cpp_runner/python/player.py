"""A whole game in C++: `torchship-runner play`, followed step by step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from torchship.cpp_runner.child import Child
from torchship.script.errors import UsageError
from torchship.script.runtime.archive import Archive

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Moment:
    """What a game looks like after a step; an entry per agent, int64[agents]."""

    actions: Integers
    """Chosen in this step, 0..3."""
    lengths: Integers
    """Segments of each snake."""
    food: Integers
    """Eaten since the game began, as the next two are counted."""
    corpses: Integers
    deaths: Integers
    digest: str
    """SHA-256 of all observations, actions, rewards and deaths up to now."""


class Player(Child):
    """`torchship-runner play snake ARCHIVE --trace`: it plays by itself; use it in a `with`.

    Not thread-safe.
    """

    def __init__(
        self,
        archive: Archive,
        *,
        steps: int,
        seed: int,
        snakes: int,
        games: int = 1,
        sample: bool = False,
    ) -> None:
        """Start the binary, which reads and checks the archive by itself, and plays.

        Raises:
            UsageError: the binary is not installed.
        """
        super().__init__(
            *("play", "snake", str(archive.path), "--trace"),
            *("--steps", str(steps), "--seed", str(seed)),
            *("--snakes", str(snakes), "--games", str(games)),
            *(["--sample"] if sample else []),
        )

    def __enter__(self) -> Player:
        """Return itself."""
        return self

    def next(self) -> Moment:
        """Return what the next step led to.

        Raises:
            UsageError: the binary ended, or all steps are played; with its message.
        """
        line = self._read()
        if isinstance(refused := line.get("error"), str):
            raise UsageError(f"torchship-runner play: {refused}")
        if "digest" not in line:
            raise UsageError("torchship-runner play: the game is over")
        counted = ("actions", "lengths", "food", "corpses", "deaths")
        return Moment(
            **{name: np.array(line[name], dtype=np.int64) for name in counted},
            digest=line["digest"],
        )
