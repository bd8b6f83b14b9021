"""Multi-agent snake: many snakes on a walled field, all of them learning at once.

The game is cpp_runner/snake/game.c, whose header states its rules; it is the same in Python, in
C++ and in a browser. Here it is the library `libtorchship_snake.so`, which the package is built
with, called through ctypes: NumPy arrays in and out.
"""

import ctypes
from collections.abc import Mapping
from functools import cache

import numpy as np
from numpy.typing import DTypeLike, NDArray

from torchship.models import libraries
from torchship.models.errors import LibraryMissingError

EMPTY, FOOD, CORPSE, WALL, SNAKE = range(5)
TILES = 8
COLOURS = TILES - SNAKE
UP, DOWN, LEFT, RIGHT = range(4)
ACTIONS = ("up", "down", "left", "right")
REACH = 5  # cells that a snake sees in each direction; also the walls' thickness
SIDE = 2 * REACH + 1

FOOD_REWARD, CORPSE_REWARD, DEATH_REWARD = 1.0, 0.5, -1.0

Integers = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Bools = NDArray[np.bool_]
Words = NDArray[np.uint64]
Info = dict[str, Integers]
Step = tuple[Bytes, NDArray[np.float32], Bools, Bools, Info]

_FILE = "libtorchship_snake.so"
_LARGEST = 32768
_BAD_SIZE, _TOO_CROWDED = 1, 2


class _Rules(ctypes.Structure):
    """`struct snake_rules`."""

    _fields_ = tuple(
        (name, ctypes.c_int32)
        for name in ("fields", "snakes", "width", "height", "food", "max_length")
    )


_POINTER, _INT = ctypes.c_void_p, ctypes.c_int32
_ARRAYS = ("rewards", "died", "tiles", "bodies", "places", "lengths", "headings", "keys", "draws")
_FUNCTIONS = {
    "check": (_INT, [ctypes.POINTER(_Rules)]),
    "size": (ctypes.c_size_t, [ctypes.POINTER(_Rules)]),
    "init": (_POINTER, [_POINTER, ctypes.POINTER(_Rules)]),
    "reset": (None, [_POINTER, ctypes.c_uint64]),
    "step": (_INT, [_POINTER, _POINTER]),
    "observe": (None, [_POINTER, _POINTER]),
    "fits": (_INT, [_POINTER]),
    "mix": (ctypes.c_uint64, [ctypes.c_uint64]),
    **{name: (_POINTER, [_POINTER]) for name in (*_ARRAYS, "scores")},
}


@cache
def load() -> ctypes.CDLL:
    """Load the game.

    Raises:
        LibraryMissingError: the package is not built, or the library is of another version.
    """
    path = libraries.find(_FILE)
    try:
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, f"snake_{name}")
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise LibraryMissingError(
            f"cannot use '{path}' ({error}): build it again with {libraries.BUILD}"
        ) from None
    return library


def mix(z: Words) -> Words:
    """Return SplitMix64's output function of each word, as the game computes it."""
    return np.array([load().snake_mix(word) for word in z.tolist()], dtype=np.uint64)


class Snake:
    """`fields` independent games side by side, `snakes` in each: agents = fields * snakes rows.

    Row `field * snakes + slot` is the same agent for ever; a death ends its snake, not its row.
    """

    def __init__(
        self,
        *,
        fields: int = 1,
        snakes: int = 16,
        width: int = 72,
        height: int = 72,
        food: int = 16,
        max_length: int = 32,
    ) -> None:
        """Lay out the fields; `reset` begins the games.

        Raises:
            ValueError: a size below 1, or more snakes and food than half of a field holds: a draw
                shall find a place soon.
            LibraryMissingError: the package is not built.
        """
        self.fields, self.snakes, self.width, self.height = fields, snakes, width, height
        self.food, self.max_length = food, max_length
        self.agents = fields * snakes
        rules = self._checked()
        library = self._library = load()
        # Words, since the game's memory must be aligned to 8 bytes.
        self._memory = np.empty(library.snake_size(rules) // 8, dtype=np.uint64)
        self._game = ctypes.c_void_p(library.snake_init(self._memory.ctypes.data, rules))

        self._stride = width + 2 * REACH
        self._size = self._stride * (height + 2 * REACH)  # cells of a field with its walls
        agents = (self.agents,)
        self._rewards = self._array("rewards", np.float32, agents)
        self._died = self._array("died", np.bool_, agents)
        self._scores = self._array("scores", np.int64, (self.agents, 3)).T
        # All that a game goes on from. Cells are counted over all fields and their walls.
        self._state: dict[str, NDArray[np.generic]] = {
            "tiles": self._array("tiles", np.uint8, (fields * self._size,)),
            "body": self._array("bodies", np.int64, (self.agents, max_length)),  # rings of cells
            "head": self._array("places", np.int64, agents),  # place in the ring
            "length": self._array("lengths", np.int64, agents),
            "heading": self._array("headings", np.int64, agents),
            "key": self._array("keys", np.uint64, (fields,)),
            "drawn": self._array("draws", np.uint64, (fields,)),
            "eaten": self._scores,  # [3, agents]: food, corpses, deaths
        }

    def reset(self, seed: int) -> tuple[Bytes, Info]:
        """Begin new games; the same seed, 0..2**64 - 1, begins the same games."""
        self._library.snake_reset(self._game, seed)
        return self._observe(), self.info()

    def step(self, actions: Integers) -> Step:
        """Play one step.

        Args:
            actions: int64[agents], 0..3.

        Returns:
            observations uint8[agents, 11, 11], rewards float32[agents], terminated bool[agents],
            truncated bool[agents] (never: a game has no end), and info: `food`, `corpses` and
            `deaths`, int64[agents] each, counted since the reset. `terminated` says that a slot's
            snake died in this step; its observation is then the new snake's.

        Raises:
            ValueError: `actions` has another shape, or one is not 0..3.
        """
        actions = np.asarray(actions)
        if actions.shape != (self.agents,):
            raise ValueError(f"actions: expected [{self.agents}], got {list(actions.shape)}")
        chosen = np.ascontiguousarray(actions.astype(np.int64, casting="same_kind", copy=False))
        if self._library.snake_step(self._game, chosen.ctypes.data) >= 0:
            raise ValueError("actions: expected 0 (up), 1 (down), 2 (left) or 3 (right)")
        never = np.zeros(self.agents, dtype=np.bool_)
        return self._observe(), self._rewards.copy(), self._died.copy(), never, self.info()

    def field(self, number: int = 0) -> Bytes:
        """Return one field's tiles with its walls, uint8[height + 10, width + 10]."""
        tiles: Bytes = self._state["tiles"].reshape(self.fields, -1, self._stride)[number].copy()
        return tiles

    def heads(self, number: int = 0) -> Integers:
        """Return where one field's heads are, int64[snakes, 2]: row and column in `field`."""
        cells = self._state["body"][np.arange(self.agents), self._state["head"]]
        cells = cells.reshape(self.fields, -1)[number]
        return np.stack(np.divmod(cells % self._size, self._stride), axis=1)

    def lengths(self) -> Integers:
        """Return each snake's segments, int64[agents]."""
        return self._state["length"].astype(np.int64)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return a copy of everything that changes while playing."""
        return {name: array.copy() for name, array in self._state.items()}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> Bytes:
        """Go back to what `state` returned; return the observation there.

        Raises:
            ValueError: the state is of fields of another size, or cannot be one of a game: then
                the game is as it was.
        """
        for name, array in self._state.items():
            if array.shape != state[name].shape or array.dtype != state[name].dtype:
                raise ValueError(f"snake: the state's {name} are of fields of another size")
        before = self.state()
        self._write(state)
        if not self._library.snake_fits(self._game):
            self._write(before)
            raise ValueError("snake: the state has tiles or snakes that no game has")
        return self._observe()

    def info(self) -> Info:
        """Return what each agent has eaten and how often it died since the reset."""
        food, corpses, deaths = self._scores.copy(order="C")
        return {"food": food, "corpses": corpses, "deaths": deaths}

    def _checked(self) -> _Rules:
        sizes = (self.fields, self.snakes, self.width, self.height, self.food, self.max_length)
        # What 32 bits do not hold, they must not cut off.
        rules = _Rules(*(min(max(size, 0), _LARGEST + 1) for size in sizes))
        verdict = load().snake_check(rules)
        if verdict == _BAD_SIZE:
            raise ValueError(f"snake: every size must be at least 1 and at most {_LARGEST}")
        if verdict == _TOO_CROWDED:
            raise ValueError(
                f"snake: {self.snakes} snakes of up to {self.max_length} segments and {self.food} "
                f"food need {2 * (self.snakes * self.max_length + self.food)} cells, and the field "
                f"has {self.width * self.height}"
            )
        return rules

    def _array(self, name: str, dtype: DTypeLike, shape: tuple[int, ...]) -> NDArray[np.generic]:
        """Return one of the game's arrays, in the game's own memory."""
        start = getattr(self._library, f"snake_{name}")(self._game) - self._memory.ctypes.data
        count = int(np.prod(shape))
        return np.frombuffer(self._memory, dtype, count, start).reshape(shape)

    def _write(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        for name, array in self._state.items():
            array[...] = state[name]

    def _observe(self) -> Bytes:
        windows = np.empty((self.agents, SIDE, SIDE), dtype=np.uint8)
        self._library.snake_observe(self._game, windows.ctypes.data)
        return windows
