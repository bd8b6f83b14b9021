"""The game of snake: against a slow reference, and the rules one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from torchship.models.snake.game import (
    COLOURS,
    CORPSE,
    EMPTY,
    FOOD,
    REACH,
    SIDE,
    SNAKE,
    WALL,
    Snake,
)

WORD = 2**64 - 1
MOVES = {0: (-1, 0), 1: (1, 0), 2: (0, -1), 3: (0, 1)}
OPPOSITE = {0: 1, 1: 0, 2: 3, 3: 2}
Cell = tuple[int, int]


def mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return z ^ (z >> 31)


class Reference:
    """One field, played by the rules in cpp_runner/snake/game.h: a dict of cells, snake by snake.

    Rows and columns count from the top left cell inside the walls.
    """

    def __init__(
        self, seed: int, number: int, snakes: int, size: Cell, food: int, max_length: int
    ) -> None:
        self.height, self.width = size
        self.max_length = max_length
        self.key = mix((mix(seed) + number) & WORD)
        self.draws = 0
        self.things: dict[Cell, int] = {}  # food and corpses
        self.bodies: list[list[Cell]] = [[] for _ in range(snakes)]  # head first
        self.headings = [0] * snakes
        for slot in range(snakes):
            self.bear(slot)
        for _ in range(food):
            self.feed(None)

    def draw(self) -> int:
        self.draws += 1
        return mix((self.key + self.draws * 0x9E3779B97F4A7C15) & WORD)

    def tile(self, cell: Cell) -> int:
        row, column = cell
        if not (0 <= row < self.height and 0 <= column < self.width):
            return WALL
        for slot, body in enumerate(self.bodies):
            if cell in body:
                return SNAKE + slot % COLOURS
        return self.things.get(cell, EMPTY)

    def free(self, cell: Cell) -> bool:
        return self.tile(cell) in (EMPTY, CORPSE)

    def bear(self, slot: int) -> None:
        while True:
            v = self.draw()
            cell = divmod((v >> 32) * self.height * self.width >> 32, self.width)
            if self.free(cell):
                break
        self.things.pop(cell, None)
        self.bodies[slot] = [cell]
        self.headings[slot] = v & 3

    def feed(self, where: Cell | None) -> None:
        tries = 0
        while True:
            v = self.draw()
            if where is not None and tries < 32:
                down, right = divmod((v >> 32) * 121 >> 32, 11)
                cell = (where[0] + down - 5, where[1] + right - 5)
            else:
                cell = divmod((v >> 32) * self.height * self.width >> 32, self.width)
            tries += 1
            if self.free(cell):
                break
        self.things[cell] = FOOD

    def step(self, actions: list[int]) -> tuple[list[float], list[bool]]:
        targets = []
        for slot, action in enumerate(actions):
            if action != OPPOSITE[self.headings[slot]]:
                self.headings[slot] = action
            (row, column), (down, right) = self.bodies[slot][0], MOVES[self.headings[slot]]
            targets.append((row + down, column + right))
        ahead = [self.tile(target) for target in targets]
        died = [
            ahead[slot] >= WALL or targets.count(target) > 1 for slot, target in enumerate(targets)
        ]
        rewards, eaten = [], []
        for slot, target in enumerate(targets):
            if died[slot]:
                rewards.append(-1.0)
                continue
            rewards.append({FOOD: 1.0, CORPSE: 0.5}.get(ahead[slot], 0.0))
            if ahead[slot] == FOOD:
                eaten.append(target)
        for slot, body in enumerate(self.bodies):
            if died[slot]:
                for place, cell in enumerate(body):
                    if place % 2 == 1:
                        self.things[cell] = CORPSE
                self.bodies[slot] = []
        for slot, target in enumerate(targets):
            if not died[slot]:
                body = [target, *self.bodies[slot]]
                grown = ahead[slot] in (FOOD, CORPSE) and len(body) <= self.max_length
                self.bodies[slot] = body if grown else body[:-1]
                self.things.pop(target, None)
        for slot in range(len(actions)):
            if died[slot]:
                self.bear(slot)
        for cell in eaten:
            self.feed(cell)
        return rewards, died

    def window(self, slot: int) -> list[list[int]]:
        row, column = self.bodies[slot][0]
        return [
            [self.tile((row + down, column + right)) for right in range(-5, 6)]
            for down in range(-5, 6)
        ]


def crowded(snakes: int, size: Cell, food: int, max_length: int, fields: int = 1) -> Snake:
    height, width = size
    return Snake(
        fields=fields, snakes=snakes, width=width, height=height, food=food, max_length=max_length
    )


def agree(game: Snake, references: list[Reference], obs: NDArray[np.uint8]) -> None:
    for number, reference in enumerate(references):
        field = game.field(number)
        assert field.shape == (reference.height + 10, reference.width + 10)
        expected = [
            [reference.tile((row - 5, column - 5)) for column in range(field.shape[1])]
            for row in range(field.shape[0])
        ]
        assert field.tolist() == expected
        for slot in range(game.snakes):
            assert obs[number * game.snakes + slot].tolist() == reference.window(slot)
        assert game.heads(number).tolist() == [
            [row + 5, column + 5] for row, column in (body[0] for body in reference.bodies)
        ]
    lengths = [len(body) for reference in references for body in reference.bodies]
    assert game.lengths().tolist() == lengths


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, Cell, int, int]:
    """Fields as crowded as may be: (snakes, (height, width), food, max_length)."""
    snakes = draw(st.integers(1, 6))
    max_length = draw(st.integers(1, 6))
    food = draw(st.integers(1, 6))
    need = 2 * (snakes * max_length + food)
    height = draw(st.integers(1, 12))
    width = -(-need // height) + draw(st.integers(0, 4))
    return snakes, (height, width), food, max_length


@settings(max_examples=40, deadline=None)
@given(
    size=sizes(),
    seed=st.integers(0, WORD),
    fields=st.integers(1, 3),
    bias=st.sampled_from([0.0, 0.6, 0.9]),
)
def test_every_step_is_that_of_the_reference(
    size: tuple[int, Cell, int, int], seed: int, fields: int, bias: float
) -> None:
    """Random walks, and walks that go after food and corpses so that snakes become long."""
    game = crowded(*size, fields=fields)
    references = [
        Reference(seed, number, size[0], size[1], size[2], size[3]) for number in range(fields)
    ]
    obs, _ = game.reset(seed)
    agree(game, references, obs)
    generator = np.random.default_rng(seed)
    eaten = np.zeros(3)
    for _ in range(60):
        actions = generator.integers(4, size=game.agents)
        for row, window in enumerate(obs):
            if generator.random() < bias:
                actions[row] = hungry(window)
        obs, rewards, died, truncated, info = game.step(actions)
        for number, reference in enumerate(references):
            rows = slice(number * game.snakes, (number + 1) * game.snakes)
            expected_rewards, expected_died = reference.step(actions[rows].tolist())
            assert rewards[rows].tolist() == expected_rewards
            assert died[rows].tolist() == expected_died
        agree(game, references, obs)
        assert not truncated.any()
        eaten += [(rewards == value).sum() for value in (1.0, 0.5, -1.0)]
        totals = [info[name].sum() for name in ("food", "corpses", "deaths")]
        assert totals == eaten.tolist()


def hungry(window: NDArray[np.uint8]) -> int:
    """The action to the best neighbouring tile."""
    around = [window[5 + down, 5 + right] for down, right in MOVES.values()]
    worth = {FOOD: 3, CORPSE: 2, EMPTY: 1}
    return int(np.argmax([worth.get(int(tile), 0) for tile in around]))


@pytest.mark.parametrize(
    ("size", "seed", "steps"),
    [((16, (72, 72), 16, 32), 7, 400), ((4, (8, 10), 4, 9), 3, 3000), ((3, (7, 8), 5, 7), 1, 3000)],
)
def test_long_games_are_those_of_the_reference(
    size: tuple[int, Cell, int, int], seed: int, steps: int
) -> None:
    game, reference = crowded(*size), Reference(seed, 0, size[0], size[1], size[2], size[3])
    obs, _ = game.reset(seed)
    generator = np.random.default_rng(seed)
    longest, corpses, shared = 0, 0, 0
    for _ in range(steps):
        hunger = generator.random(game.agents) < 0.8
        walk = generator.integers(4, size=game.agents)
        actions = np.where(hunger, [hungry(window) for window in obs], walk)
        obs, rewards, died, _, _ = game.step(actions)
        expected_rewards, expected_died = reference.step(actions.tolist())
        assert rewards.tolist() == expected_rewards
        assert died.tolist() == expected_died
        longest, corpses = max(longest, *game.lengths()), corpses + int((rewards == 0.5).sum())
        shared += int(died.sum() > 1)
    agree(game, [reference], obs)
    if steps > 1000:
        assert longest == size[3]
        assert corpses > 10
        assert shared > 10


# --- the rules one by one, on fields laid out by hand ---


def arranged(
    bodies: list[list[Cell]], headings: list[int], things: dict[Cell, int], max_length: int = 6
) -> Snake:
    """A field of 20 x 20 with these bodies, head first, and nothing else but `things`."""
    game = Snake(snakes=len(bodies), width=20, height=20, food=1, max_length=max_length)
    game.reset(0)
    state = game.state()
    tiles = state["tiles"].reshape(30, 30)
    tiles[5:-5, 5:-5] = EMPTY
    for (row, column), tile in things.items():
        tiles[row + 5, column + 5] = tile
    for slot, body in enumerate(bodies):
        state["head"][slot] = slot % max_length  # anywhere in the ring
        state["length"][slot] = len(body)
        state["heading"][slot] = headings[slot]
        for place, (row, column) in enumerate(body):
            state["body"][slot, (slot - place) % max_length] = (row + 5) * 30 + column + 5
            tiles[row + 5, column + 5] = SNAKE + slot % COLOURS
    game.restore(state)
    return game


def tile(game: Snake, row: int, column: int) -> int:
    return int(game.field()[row + 5, column + 5])


@pytest.mark.parametrize(
    ("action", "head"), [(0, (9, 10)), (1, (11, 10)), (2, (10, 9)), (3, (10, 11))]
)
def test_an_action_moves_the_head(action: int, head: Cell) -> None:
    game = arranged([[(10, 10)]], [action], {})
    _, rewards, died, _, _ = game.step(np.array([action]))
    assert (game.heads() - 5).tolist() == [list(head)]
    assert tile(game, *head) == SNAKE
    assert tile(game, 10, 10) == EMPTY
    assert rewards.tolist() == [0]
    assert not died.any()


@pytest.mark.parametrize("heading", range(4))
def test_the_action_against_the_heading_goes_on(heading: int) -> None:
    game = arranged([[(10, 10)]], [heading], {})
    game.step(np.array([OPPOSITE[heading]]))
    down, right = MOVES[heading]
    assert (game.heads() - 5).tolist() == [[10 + down, 10 + right]]


def test_food_and_corpse_make_longer_up_to_the_largest_length() -> None:
    things = {(10, 11): FOOD, (10, 12): CORPSE, (10, 13): FOOD}
    game = arranged([[(10, 10)]], [3], things, max_length=3)
    rewards, lengths = [], []
    for _ in range(4):
        _, reward, _, _, info = game.step(np.array([3]))
        rewards.append(float(reward[0]))
        lengths.append(int(game.lengths()[0]))
    assert rewards == [1, 0.5, 1, 0]
    assert lengths == [2, 3, 3, 3]
    assert {name: count.tolist() for name, count in info.items()} == {
        "food": [2],
        "corpses": [1],
        "deaths": [0],
    }


def test_food_grows_again_within_sight_of_where_it_was() -> None:
    game = arranged([[(10, 10)]], [3], {(10, 11): FOOD})
    state, places = game.state(), []
    for seed in range(300):
        state["key"][:] = mix(seed)
        game.restore(state)
        game.step(np.array([3]))
        ((row, column),) = np.argwhere(game.field() == FOOD) - 5
        places.append((int(row) - 10, int(column) - 11))
    assert {down for down, _ in places} == set(range(-5, 6))
    assert {right for _, right in places} == set(range(-5, 6))
    assert (0, 0) not in places  # the head is there


@pytest.mark.parametrize("key", range(20))
def test_food_at_a_full_place_grows_anywhere_after_32_draws(key: int) -> None:
    """All cells within sight are walls but the two of the snake itself."""
    game = arranged([[(10, 10)]], [3], {})
    state = game.state()
    state["key"][:], state["drawn"][:] = key, 0
    tiles = state["tiles"].reshape(30, 30)
    tiles[10:21, 10:22] = WALL
    tiles[15, 15], tiles[15, 16] = SNAKE, FOOD
    game.restore(state)
    game.step(np.array([3]))
    for draw in range(33, 1000):
        row, column = divmod(draw_of(key, draw) * 400 >> 32, 20)
        if not (5 <= row <= 15 and 5 <= column <= 16):
            break
    assert (np.argwhere(game.field() == FOOD) - 5).tolist() == [[row, column]]


@pytest.mark.parametrize("seed", range(40))
def test_the_32nd_draw_is_the_last_one_nearby(seed: int) -> None:
    """One cell within sight is free; a key is sought whose n-th draw names it."""
    last = 32 if seed % 2 else 33
    key, place = next(
        (key, place)
        for key in range(seed * 1000, seed * 1000 + 1000)
        for place in [draw_of(key, last) * 121 >> 32]
        if place not in (59, 60)  # the snake's
        and place not in [draw_of(key, draw) * 121 >> 32 for draw in range(1, last)]
    )
    game = arranged([[(10, 10)]], [3], {})
    state = game.state()
    state["key"][:], state["drawn"][:] = key, 0
    tiles = state["tiles"].reshape(30, 30)
    tiles[10:21, 10:22] = WALL
    tiles[15, 15], tiles[15, 16] = SNAKE, FOOD
    row, column = place // 11 + 5, place % 11 + 6
    tiles[row + 5, column + 5] = EMPTY
    game.restore(state)
    game.step(np.array([3]))
    found = (np.argwhere(game.field() == FOOD) - 5).tolist() == [[row, column]]
    assert found == (last == 32)


def draw_of(key: int, number: int) -> int:
    """The upper half of a field's n-th draw."""
    return mix((key + number * 0x9E3779B97F4A7C15) & WORD) >> 32


def test_a_corpse_is_every_second_segment_from_the_neck() -> None:
    body = [(0, 4), (0, 3), (0, 2), (0, 1), (0, 0)]
    game = arranged([body], [3], {})
    _, rewards, died, _, _ = game.step(np.array([0]))  # into the wall
    assert died.all()
    assert rewards.tolist() == [-1]
    assert int(game.lengths()[0]) == 1
    born = tuple((game.heads()[0] - 5).tolist())
    for column, expected in enumerate([EMPTY, CORPSE, EMPTY, CORPSE, EMPTY]):
        assert (0, column) == born or tile(game, 0, column) == expected


def test_who_dies_and_who_does_not() -> None:
    long = [(10, 10), (10, 9), (11, 9), (11, 10)]
    for bodies, headings, actions, expected in (
        ([[(5, 5)], [(5, 7)]], [3, 2], [3, 2], [True, True]),  # one target
        ([[(5, 5)], [(5, 6)]], [3, 2], [3, 2], [True, True]),  # through each other
        ([[(5, 5)], [(5, 6)]], [3, 3], [3, 3], [True, False]),  # into a tail that leaves
        ([[(5, 5)], [(6, 6), (5, 6)]], [3, 1], [3, 1], [True, False]),
        ([long], [3], [1], [True]),  # into its own last segment
        ([long[:3]], [3], [1], [False]),
        ([[(0, 5)]], [0], [0], [True]),
        ([[(19, 5)]], [1], [1], [True]),
        ([[(5, 0)]], [2], [2], [True]),
        ([[(5, 19)]], [3], [3], [True]),
        (
            [[(5, 5)], [(7, 5)], [(6, 4)], [(9, 9)]],
            [1, 0, 3, 0],
            [1, 0, 3, 0],
            [True] * 3 + [False],
        ),
    ):
        game = arranged(bodies, headings, {})
        _, rewards, died, _, _ = game.step(np.array(actions))
        assert died.tolist() == expected, bodies
        assert rewards.tolist() == [-1.0 if dead else 0.0 for dead in expected]


def test_food_that_two_snakes_reach_stays_and_both_die() -> None:
    game = arranged([[(5, 5)], [(5, 7)]], [3, 2], {(5, 6): FOOD})
    _, rewards, died, _, info = game.step(np.array([3, 2]))
    assert died.all()
    assert rewards.tolist() == [-1, -1]
    assert info["food"].tolist() == [0, 0]
    assert tile(game, 5, 6) == FOOD
    assert int((game.field() == FOOD).sum()) == 1


# --- what always holds ---


def test_what_always_holds() -> None:
    game = Snake(fields=4)
    generator = np.random.default_rng(0)
    obs, _ = game.reset(5)
    for _ in range(300):
        assert obs.shape == (64, SIDE, SIDE)
        assert obs.dtype == np.uint8
        slots = np.arange(64) % 16
        assert (obs[:, REACH, REACH] == SNAKE + slots % 4).all()
        for number in range(4):
            field = game.field(number)
            assert int((field == FOOD).sum()) == 16
            assert int((field >= SNAKE).sum()) == int(game.lengths().reshape(4, 16)[number].sum())
            inside = field[5:-5, 5:-5]
            assert int((field == WALL).sum()) == field.size - inside.size
            assert not (inside == WALL).any()
        obs, _, died, _, _ = game.step(generator.integers(4, size=64))
        assert (game.lengths()[died] == 1).all()


def test_a_seed_is_a_game_and_another_seed_another() -> None:
    games = {}
    for seed in (0, 1, WORD):
        for again in range(2):
            game = Snake(fields=2)
            parts: list[NDArray[np.generic]] = [game.reset(seed)[0]]
            generator = np.random.default_rng(1)
            for _ in range(50):
                parts += game.step(generator.integers(4, size=32))[:3]
            games[seed, again] = b"".join(part.tobytes() for part in parts)
        assert games[seed, 0] == games[seed, 1]
        fields = np.stack([game.field(0), game.field(1)])
        assert not np.array_equal(fields[0], fields[1])
    assert len(set(games.values())) == 3


def test_a_reset_forgets_the_game_before() -> None:
    used, new = Snake(), Snake()
    used.reset(3)
    for _ in range(20):
        used.step(np.zeros(16, dtype=np.int64))
    came, expected = used.reset(4), new.reset(4)
    assert np.array_equal(came[0], expected[0])
    assert all(not count.any() for count in came[1].values())
    for name, array in used.state().items():
        if name != "body":  # beyond a snake's length its ring holds what it held
            assert np.array_equal(array, new.state()[name]), name


def test_a_state_is_all_that_a_game_goes_on_from() -> None:
    game, twin = Snake(fields=2), Snake(fields=2)
    game.reset(3)
    generator = np.random.default_rng(0)
    for _ in range(30):
        game.step(generator.integers(4, size=32))
    state = game.state()
    obs = twin.restore(state)
    actions = generator.integers(4, size=(30, 32))
    for chosen in actions:
        came, expected = twin.step(chosen), game.step(chosen)
        same: list[Any] = list(zip(came[:4], expected[:4], strict=True))
        assert all(np.array_equal(a, b) for a, b in same)
        assert came[4].keys() == expected[4].keys()
        assert all(np.array_equal(came[4][name], expected[4][name]) for name in came[4])
    assert np.array_equal(twin.restore(state), obs)
    with pytest.raises(ValueError, match="of another size"):
        Snake().restore(state)


def test_draws_are_splitmix64() -> None:
    """The reference's first outputs for seed 0, and for 1234567 (Vigna, splitmix64.c)."""
    from torchship.models.snake.game import mix as ours

    for seed, expected in (
        (0, [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]),
        (1234567, [6457827717110365317, 3203168211198807973, 9817491932198370423]),
    ):
        state = [(seed + n * 0x9E3779B97F4A7C15) & WORD for n in (1, 2, 3)]
        assert ours(np.array(state, dtype=np.uint64)).tolist() == expected


@pytest.mark.parametrize(
    "make",
    [
        lambda: Snake(fields=0),
        lambda: Snake(food=0),
        lambda: Snake(width=30, height=30),
        lambda: Snake(snakes=1, width=3, height=3, food=1, max_length=4),
    ],
)
def test_sizes_that_do_not_fit_are_refused(make: Callable[[], Snake]) -> None:
    with pytest.raises(ValueError, match="snake: "):
        make()


def test_actions_that_are_none_are_refused() -> None:
    game = Snake(snakes=2)
    game.reset(0)
    for actions in ([0], [0, 1, 2], [[0, 1]]):
        with pytest.raises(ValueError, match=r"actions: expected \[2\], got"):
            game.step(np.array(actions))
    for actions in ([0, 4], [-1, 0]):
        with pytest.raises(ValueError, match="actions: expected 0"):
            game.step(np.array(actions))
