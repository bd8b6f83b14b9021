"""The game's one source: what it needs, where it compiles, and that it plays the same game."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from torchship.models import libraries
from torchship.models.errors import LibraryMissingError
from torchship.models.snake import game as snake_game
from torchship.models.snake.game import CORPSE, EMPTY, FOOD, SNAKE, WALL, Snake

ROOT = Path(__file__).resolve().parents[3]
SOURCE = ROOT / "cpp_runner" / "snake" / "game.c"
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]
STEPS = 500

# Rules, seed, and the digest of a game as the first implementation, in NumPy, played it.
RECORDED = [
    (
        {"fields": 1, "snakes": 16, "width": 72, "height": 72, "food": 16, "max_length": 32},
        7,
        "37ff346f33cb6f86dd4eec69a30f7f05f851a5dabe1f346bc1185ce1be8deb86",
    ),
    (
        {"fields": 3, "snakes": 5, "width": 9, "height": 8, "food": 6, "max_length": 6},
        2**64 - 1,
        "7fee3a154abe75e28ee7848098271553b434042cd0d3ba65b2820ab1b864af72",
    ),
    (
        {"fields": 2, "snakes": 7, "width": 31, "height": 17, "food": 9, "max_length": 12},
        12345,
        "394b5fba46902f1b0a2330d80005403ede682477a33e3e6768d8cb0df31303d7",
    ),
]


def random_actions(agents: int) -> NDArray[np.int64]:
    """Actions of all steps, int64[steps, agents], from a generator whose numbers never change."""
    return np.random.RandomState(1).randint(4, size=(STEPS, agents), dtype=np.int64)


@pytest.mark.parametrize(("rules", "seed", "digest"), RECORDED)
def test_games_are_those_that_were_recorded(rules: dict[str, int], seed: int, digest: str) -> None:
    game = Snake(**rules)
    seen = hashlib.sha256(game.reset(seed)[0].tobytes())
    for actions in random_actions(game.agents):
        obs, rewards, died, _, _ = game.step(actions)
        for part in (obs, rewards, died, game.lengths()):
            seen.update(part.tobytes())
    assert seen.hexdigest() == digest


# --- the source ---


def compiled(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True)


@pytest.mark.parametrize(
    "compiler",
    [
        ["gcc", "-std=c11"],
        ["g++", "-std=c++17", "-x", "c++"],
        ["clang", "-std=c11"],
        ["clang++", "-std=c++17", "-x", "c++"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_it_is_c11_and_cpp17_without_a_warning(compiler: list[str], tmp_path: Path) -> None:
    if compiler[0].startswith("clang") and shutil.which(compiler[0]) is None:
        pytest.skip(f"no {compiler[0]}")
    options = [*WARNINGS, "-O2", "-I", ROOT / "cpp_runner", "-c"]
    done = compiled(*compiler, *options, SOURCE, "-o", tmp_path / "game.o")
    assert done.returncode == 0, done.stderr


def test_it_calls_no_library_and_has_no_data_that_changes(tmp_path: Path) -> None:
    built = tmp_path / "game.o"
    options = ["-std=c11", "-O2", "-fno-pic", "-I", ROOT / "cpp_runner", "-c"]
    done = compiled("gcc", *options, SOURCE, "-o", built)
    assert done.returncode == 0, done.stderr
    symbols = [line.split()[-2:] for line in compiled("nm", built).stdout.splitlines()]
    assert {name for kind, name in symbols if kind == "U"} <= {"memcpy", "memset"}
    assert {kind for kind, _ in symbols} <= set("UTtRr")


@pytest.mark.parametrize(("rules", "seed", "digest"), RECORDED)
def test_webassembly_plays_the_same_game(
    rules: dict[str, int], seed: int, digest: str, tmp_path: Path
) -> None:
    if shutil.which("clang") is None or shutil.which("node") is None:
        pytest.skip("no clang, or no node")
    wasm = ["clang", "--target=wasm32-wasi", "-O3", "-nostdlib", "-Wl,--no-entry"]
    probe, module = tmp_path / "probe.c", tmp_path / "game.wasm"
    probe.write_text("#include <string.h>\n#include <stdint.h>\n")
    if compiled(*wasm, probe, "-o", tmp_path / "probe.wasm").returncode != 0:
        pytest.skip("clang makes no WebAssembly: no lld, or no wasi-libc")
    done = compiled(*wasm, "-Wl,--export-all", "-I", ROOT / "cpp_runner", SOURCE, "-o", module)
    assert done.returncode == 0, done.stderr
    (tmp_path / "actions").write_bytes(random_actions(rules["fields"] * rules["snakes"]).tobytes())
    arguments = [module, ",".join(map(str, rules.values())), seed, tmp_path / "actions"]
    played = compiled("node", Path(__file__).with_name("play_wasm.js"), *arguments)
    assert played.returncode == 0, played.stderr
    result = json.loads(played.stdout)
    assert result["imports"] == []
    assert result["digest"] == digest
    shown, snakes = result["segments"]
    assert shown == snakes > 0


# --- the library ---


def test_without_the_library_an_error_says_how_to_build_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built = libraries.find("libtorchship_snake.so")
    snake_game.load.cache_clear()
    monkeypatch.setattr(libraries, "files", lambda name: [])
    monkeypatch.setenv("TORCHSHIP_OPERATORS", str(tmp_path))
    try:
        with pytest.raises(LibraryMissingError, match=rf"in {tmp_path}: build it with `pip "):
            Snake()
        broken = tmp_path / built.name
        broken.write_text("no library")
        with pytest.raises(LibraryMissingError, match=rf"cannot use '{broken}' .*build it again"):
            Snake()
        broken.unlink()
        source = tmp_path / "other.c"
        source.write_text("int snake_check(void) { return 0; }\n")
        assert compiled("gcc", "-shared", "-fPIC", source, "-o", broken).returncode == 0
        with pytest.raises(LibraryMissingError, match="snake_size"):
            Snake()
        found = tmp_path / "found"  # another path: the loader keeps what it has loaded from one
        found.mkdir()
        (found / built.name).symlink_to(built)
        monkeypatch.setenv("TORCHSHIP_OPERATORS", f":{found}")
        Snake()
    finally:
        snake_game.load.cache_clear()


@pytest.mark.parametrize("size", [-1, 0, 32769, 2**32 + 1, 2**70])
@pytest.mark.parametrize("name", RECORDED[0][0])
def test_sizes_beyond_those_of_the_game_are_refused(name: str, size: int) -> None:
    with pytest.raises(ValueError, match="at least 1 and at most 32768"):
        Snake(**{**RECORDED[0][0], name: size})


def test_a_game_begins_with_seed_0_where_nobody_resets_it() -> None:
    new, reset = Snake(fields=2), Snake(fields=2)
    reset.reset(0)
    actions = random_actions(32)[0]
    assert np.array_equal(new.step(actions)[0], reset.step(actions)[0])


def test_arrays_of_a_step_stay_as_they_are() -> None:
    game = Snake()
    game.reset(1)
    actions = random_actions(16)
    kept = [game.step(chosen) for chosen in actions[:50]]
    before = [[part.tobytes() for part in step[:3]] for step in kept]
    infos = [{name: count.copy() for name, count in step[4].items()} for step in kept]
    for chosen in actions[50:]:
        game.step(chosen)
    assert [[part.tobytes() for part in step[:3]] for step in kept] == before
    for step, info in zip(kept, infos, strict=True):
        assert all(np.array_equal(step[4][name], count) for name, count in info.items())


def test_a_refused_step_changes_nothing() -> None:
    game = Snake(fields=2)
    game.reset(3)
    before = game.state()
    with pytest.raises(ValueError, match="actions: expected 0"):
        game.step(np.array([0] * 31 + [4]))
    with pytest.raises(TypeError):
        game.step(np.zeros(32))  # type: ignore[arg-type]
    assert all(np.array_equal(array, before[name]) for name, array in game.state().items())


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("tiles", 0, EMPTY),  # a hole in the outer wall
        ("tiles", 4 * 82 + 40, FOOD),  # in the inner one
        ("tiles", 40 * 82 + 4, CORPSE),
        ("tiles", 40 * 82 + 77, SNAKE),
        ("tiles", 2 * 82 * 82 - 1, EMPTY),
        ("tiles", 40 * 82 + 40, 8),
        ("head", 1, -1),
        ("head", 1, 32),
        ("length", 31, 0),
        ("length", 31, 33),
        ("heading", 0, -1),
        ("heading", 0, 4),
        ("body", 0, -1),
        ("body", 0, 4 * 82 + 40),  # in the wall
        ("body", 0, 77 * 82 + 40),
        ("body", 0, 40 * 82 + 4),
        ("body", 0, 40 * 82 + 77),
        ("body", 0, 82 * 82 + 40 * 82 + 40),  # in the other field
        ("body", 31 * 32, 40 * 82 + 40),
        ("body", 0, 2**62),
    ],
)
def test_a_state_that_no_game_has_is_refused(name: str, place: int, value: int) -> None:
    """The game would read and write outside its memory."""
    game = Snake(fields=2)
    game.reset(3)
    state = game.state()
    state["body"][:] = state["body"][:, :1]  # all places of the rings, so that any may be read
    game.restore(state)
    before = game.state()
    state[name].reshape(-1)[place] = value
    with pytest.raises(ValueError, match="no game has"):
        game.restore(state)
    assert all(np.array_equal(array, before[name]) for name, array in game.state().items())
    assert int((game.field() == WALL).sum()) == 82 * 82 - 72 * 72
    game.restore(before)
