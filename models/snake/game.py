"""Multi-agent snake in NumPy: many snakes on a walled field, all of them learning at once.

Source: the snake of PufferLib's Ocean (Joseph Suarez, stream "Getting RL models out of Python"),
https://github.com/PufferAI/PufferLib; written anew, with rules that leave nothing open, because
the same game is to be played bit for bit in other languages.

The field has W x H cells inside walls 5 thick, so that the window of 11 x 11 cells around a head
never leaves it. A cell is one of eight tiles: 0 empty, 1 food, 2 corpse, 3 wall, 4..7 snake; a
snake's tile is 4 + (its slot mod 4). Actions: 0 up (y - 1), 1 down (y + 1), 2 left (x - 1), 3 right
(x + 1). The window is [y, x], the head at [5, 5].

One step, for all snakes at once; "before" is the field as the last step left it:

1. Heading. A snake turns to its action; the action against its heading is treated as going on.
2. Target: the cell ahead of its head.
3. Death. A snake dies if its target was wall or snake before (any segment, tails and its own too:
   a tail leaves its cell only in 5), or if another snake has the same target, whatever is there:
   all who share a target die, and food there stays.
4. A dead snake's segments, counted from the head as 0: the odd ones become corpse, the even ones
   empty. So a snake of one segment leaves nothing.
5. A snake that lives moves its head to its target. If that was food or corpse it has eaten it, and
   is one segment longer if it was shorter than `max_length`: its last segment stays. Otherwise its
   last segment's cell becomes empty.
6. Births. Each dead slot, in order, gets a new snake of one segment: the field draws v until the
   cell v names is empty or corpse; the snake heads to v & 3.
7. Food. For each food eaten, in the order of the slots that ate it, the field draws v until a cell
   is empty or corpse, and that becomes food. The first 32 draws name cells of the window around
   where the food was; if all fail, further draws name cells of the whole field.

A game begins with 6 for all slots on an empty field; then each of `food` is placed anywhere: drawn
as in 6. Fields are independent.

Why food grows again nearby: scattered over the whole field, it is met by luck more than by skill. A
window 11 wide shows 11 new cells a step, a random walk treads on about 0.8, and so a player that
went after the nearest food found only 9 to 14 times as much as a random one.

Reward: +1 for food, +0.5 for corpse, -1 for death. `terminated` says that a slot's snake died in
this step; the observation is then the new snake's.

Random numbers: SplitMix64 (Steele, Lea and Flood 2014) as a function of a counter, in uint64:

    mix(z):  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9
             z = (z ^ z >> 27) * 0x94D049BB133111EB
             return z ^ z >> 31
    key of field f = mix(mix(seed) + f)
    the field's n-th draw, n = 1, 2, ...: v = mix(key + n * 0x9E3779B97F4A7C15)
    the cell of n that v names, counted row by row from the top left: (v >> 32) * n >> 32
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

EMPTY, FOOD, CORPSE, WALL, SNAKE = range(5)
TILES = 8
COLOURS = TILES - SNAKE
UP, DOWN, LEFT, RIGHT = range(4)
ACTIONS = ("up", "down", "left", "right")
REACH = 5  # cells that a snake sees in each direction; also the walls' thickness
SIDE = 2 * REACH + 1
TRIES = 32  # draws near where food was, before one anywhere

FOOD_REWARD, CORPSE_REWARD, DEATH_REWARD = 1.0, 0.5, -1.0

Integers = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Bools = NDArray[np.bool_]
Words = NDArray[np.uint64]
Info = dict[str, Integers]
Step = tuple[Bytes, NDArray[np.float32], Bools, Bools, Info]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def mix(z: Words) -> Words:
    """Return SplitMix64's output function of each word; arithmetic wraps around."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Words = z ^ (z >> np.uint64(31))
    return mixed


def _below(count: int, draws: Words) -> Integers:
    """Return each draw as a number below `count`."""
    below: Words = (draws >> np.uint64(32)) * np.uint64(count) >> np.uint64(32)
    return below.astype(np.int64)


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
        """
        if min(fields, snakes, width, height, food, max_length) < 1:
            raise ValueError("snake: every size must be at least 1")
        if 2 * (snakes * max_length + food) > width * height:
            raise ValueError(
                f"snake: {snakes} snakes of up to {max_length} segments and {food} food need "
                f"{2 * (snakes * max_length + food)} cells, and the field has {width * height}"
            )
        self.fields, self.snakes, self.width, self.height = fields, snakes, width, height
        self.food, self.max_length = food, max_length
        self.agents = fields * snakes

        stride = self._stride = width + 2 * REACH
        self._size = stride * (height + 2 * REACH)  # cells of a field with its walls
        rows, columns = np.divmod(np.arange(width * height), width)
        self._inside: Integers = (rows + REACH) * stride + columns + REACH  # [width * height]
        self._delta = np.array([-stride, stride, -1, 1])  # [action]
        reach = np.arange(-REACH, REACH + 1)
        self._window: Integers = (reach[:, None] * stride + reach).ravel()  # [121]
        self._rows = np.arange(self.agents)
        self._colour = (SNAKE + self._rows % snakes % COLOURS).astype(np.uint8)  # [agents]
        self._claims = np.zeros(fields * self._size, dtype=np.int64)  # who wants a cell
        self._back = np.arange(max_length)  # segments from the head

        # The state of the games. Cells are counted over all fields and their walls.
        self._tiles: Bytes = np.full(fields * self._size, WALL, dtype=np.uint8)
        self._body: Integers = np.zeros((self.agents, max_length), dtype=np.int64)  # rings of cells
        self._head: Integers = np.zeros(self.agents, dtype=np.int64)  # place in the ring
        self._length: Integers = np.zeros(self.agents, dtype=np.int64)
        self._heading: Integers = np.zeros(self.agents, dtype=np.int64)
        self._key: Words = np.zeros(fields, dtype=np.uint64)
        self._drawn: Words = np.zeros(fields, dtype=np.uint64)
        self._eaten: Integers = np.zeros((3, self.agents), dtype=np.int64)  # food, corpses, deaths

    def reset(self, seed: int) -> tuple[Bytes, Info]:
        """Begin new games; the same seed, 0..2**64 - 1, begins the same games."""
        numbers: Words = np.arange(self.fields, dtype=np.uint64)
        self._key = mix(numbers + mix(np.full(self.fields, seed, dtype=np.uint64)))
        self._drawn[:] = 0
        self._eaten[:] = 0
        self._tiles[:] = WALL
        self._tiles.reshape(self.fields, -1)[:, self._inside] = EMPTY
        self._bear(np.ones((self.fields, self.snakes), dtype=np.bool_))
        for _ in range(self.food):
            self._feed(np.zeros((self.fields, 1), dtype=np.int64), anywhere=True)
        return self._observe(), self.info()

    def step(self, actions: Integers) -> Step:
        """Play one step.

        Args:
            actions: int64[agents], 0..3.

        Returns:
            observations uint8[agents, 11, 11], rewards float32[agents], terminated bool[agents],
            truncated bool[agents] (never: a game has no end), and info: `food`, `corpses` and
            `deaths`, int64[agents] each, counted since the reset.

        Raises:
            ValueError: `actions` has another shape, or one is not 0..3.
        """
        actions = np.asarray(actions)
        if actions.shape != (self.agents,):
            raise ValueError(f"actions: expected [{self.agents}], got {list(actions.shape)}")
        if bool((actions < 0).any() or (actions > RIGHT).any()):
            raise ValueError("actions: expected 0 (up), 1 (down), 2 (left) or 3 (right)")

        self._heading = np.where(actions == self._heading ^ 1, self._heading, actions)
        target = self._body[self._rows, self._head] + self._delta[self._heading]  # [agents]
        ahead = self._tiles[target]
        died = (ahead >= WALL) | self._shared(target)
        food, corpse = (ahead == FOOD) & ~died, (ahead == CORPSE) & ~died

        self._bury(np.flatnonzero(died))
        self._move(np.flatnonzero(~died), target, food | corpse)
        self._bear(died.reshape(self.fields, self.snakes))
        self._feed(np.where(food, target, -1).reshape(self.fields, self.snakes))

        self._eaten += np.stack([food, corpse, died])
        rewards = food * FOOD_REWARD + corpse * CORPSE_REWARD + died * DEATH_REWARD
        never = np.zeros(self.agents, dtype=np.bool_)
        return self._observe(), rewards.astype(np.float32), died, never, self.info()

    def field(self, number: int = 0) -> Bytes:
        """Return one field's tiles with its walls, uint8[height + 10, width + 10]."""
        tiles: Bytes = self._tiles.reshape(self.fields, -1, self._stride)[number].copy()
        return tiles

    def heads(self, number: int = 0) -> Integers:
        """Return where one field's heads are, int64[snakes, 2]: row and column in `field`."""
        cells = self._body[self._rows, self._head].reshape(self.fields, -1)[number]
        return np.stack(np.divmod(cells % self._size, self._stride), axis=1)

    def lengths(self) -> Integers:
        """Return each snake's segments, int64[agents]."""
        lengths: Integers = self._length.copy()
        return lengths

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return a copy of everything that changes while playing."""
        return {name: getattr(self, f"_{name}").copy() for name in _STATE}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> Bytes:
        """Go back to what `state` returned; return the observation there.

        Raises:
            ValueError: the state is of fields of another size.
        """
        for name in _STATE:
            array: NDArray[np.generic] = getattr(self, f"_{name}")
            if array.shape != state[name].shape or array.dtype != state[name].dtype:
                raise ValueError(f"snake: the state's {name} are of fields of another size")
        for name in _STATE:
            getattr(self, f"_{name}")[...] = state[name]
        return self._observe()

    def _shared(self, target: Integers) -> Bools:
        """Say whose target is another's too: each writes its row there, the last one stays."""
        self._claims[target] = self._rows
        self._claims[target[self._claims[target] != self._rows]] = -1
        shared: Bools = self._claims[target] < 0
        return shared

    def _bury(self, dead: Integers) -> None:
        places = (self._head[dead, None] - self._back) % self.max_length  # [dead, max_length]
        there = self._back < self._length[dead, None]
        remains = np.broadcast_to(np.where(self._back % 2 == 1, CORPSE, EMPTY), there.shape)
        self._tiles[self._body[dead[:, None], places][there]] = remains[there]

    def _move(self, living: Integers, target: Integers, eats: Bools) -> None:
        grows = eats[living] & (self._length[living] < self.max_length)
        shrink = living[~grows]
        tail = (self._head[shrink] - self._length[shrink] + 1) % self.max_length
        self._tiles[self._body[shrink, tail]] = EMPTY
        self._length[living] += grows
        self._head[living] = (self._head[living] + 1) % self.max_length
        self._body[living, self._head[living]] = target[living]
        self._tiles[target[living]] = self._colour[living]

    def _bear(self, waiting: Bools) -> None:
        """Place new snakes in the slots that are `waiting`, bool[fields, snakes]."""
        waiting = waiting.copy()
        while waiting.any():
            fields = np.flatnonzero(waiting.any(1))
            slots = waiting[fields].argmax(1)
            draws = self._draw(fields)
            cells = self._anywhere(fields, draws)
            free = self._is_free(cells)
            waiting[fields[free], slots[free]] = False
            rows, cells = (fields * self.snakes + slots)[free], cells[free]
            self._heading[rows] = draws[free] & np.uint64(3)
            self._head[rows], self._length[rows] = 0, 1
            self._body[rows, 0] = cells
            self._tiles[cells] = self._colour[rows]

    def _feed(self, eaten: Integers, anywhere: bool = False) -> None:
        """Place new food for that `eaten`, int64[fields, any]: cells where it was, or -1."""
        waiting = eaten >= 0
        tries = np.zeros(self.fields, dtype=np.int64)
        while waiting.any():
            fields = np.flatnonzero(waiting.any(1))
            slots = waiting[fields].argmax(1)
            draws = self._draw(fields)
            cells = self._anywhere(fields, draws)
            if not anywhere:
                # As far as a window reaches out of the field, there is wall.
                near = eaten[fields, slots] + self._window[_below(SIDE * SIDE, draws)]
                cells = np.where(tries[fields] < TRIES, near, cells)
            tries[fields] += 1
            free = self._is_free(cells)
            waiting[fields[free], slots[free]] = False
            tries[fields[free]] = 0
            self._tiles[cells[free]] = FOOD

    def _draw(self, fields: Integers) -> Words:
        """Return the next draw of each of `fields`."""
        self._drawn[fields] += np.uint64(1)
        return mix(self._key[fields] + self._drawn[fields] * _GAMMA)

    def _anywhere(self, fields: Integers, draws: Words) -> Integers:
        """Return the cell of the whole field that each draw names."""
        cells: Integers = fields * self._size + self._inside[_below(self._inside.size, draws)]
        return cells

    def _is_free(self, cells: Integers) -> Bools:
        free: Bools = (self._tiles[cells] == EMPTY) | (self._tiles[cells] == CORPSE)
        return free

    def _observe(self) -> Bytes:
        heads = self._body[self._rows, self._head]
        windows: Bytes = self._tiles[heads[:, None] + self._window].reshape(-1, SIDE, SIDE)
        return windows

    def info(self) -> Info:
        """Return what each agent has eaten and how often it died since the reset."""
        food, corpses, deaths = self._eaten.copy()
        return {"food": food, "corpses": corpses, "deaths": deaths}


_STATE = ("tiles", "body", "head", "length", "heading", "key", "drawn", "eaten")
