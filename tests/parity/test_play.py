"""`torchship play`: one game, whoever computes it, and whoever computes it otherwise is named."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner, Result

from torchship import play
from torchship.__main__ import application
from torchship.cpp_runner import child
from torchship.cpp_runner.player import Moment, Player
from torchship.cpp_runner.stepper import Stepper
from torchship.models.sampling import keys
from torchship.models.seeding import integers
from torchship.models.snake.game import Snake
from torchship.play import Game, ProgramSession, Session, picture, session
from torchship.script.errors import UsageError
from torchship.script.runtime import torchscript_file
from torchship.script.runtime.archive import Archive, open_archive, pack

NAMES = ("snake", "snake-lstm")
INPUTS = {
    ("snake", "act"): ["obs"],
    ("snake", "sample"): ["obs", "key"],
    ("snake-lstm", "act"): ["obs", "reset", "h", "c"],
    ("snake-lstm", "sample"): ["obs", "reset", "h", "c", "key"],
}


@pytest.fixture(scope="module")
def archives(
    model_archive: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("archives")
    for name in (*NAMES, "fizzbuzz"):
        shutil.copy(model_archive(name), folder)
    return folder


@pytest.fixture(scope="module")
def tampered(archives: Path) -> Path:
    """The archive of `snake` with slightly other weights."""
    archive = open_archive(archives / "snake.pt")
    module = archive.load()
    with torch.no_grad():
        module.state_dict()["actor.bias"][0] += 0.05
    path = archives / "tampered.pt"
    path.write_bytes(
        pack(torchscript_file.save(module), archive.require_manifest(), archive.golden)
    )
    return path


def torchship(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torchship", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(application(), [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("name", "steps", "options"), [("snake", 3_000, []), ("snake-lstm", 10_000, ["--sample"])]
)
def test_thousands_of_steps_are_identical_in_three_runtimes_and_in_the_binary_alone(
    name: str, steps: int, options: list[str], archives: Path
) -> None:
    done = torchship(
        *("play", name, "--archive", archives / f"{name}.pt", "--snakes", 4, "--seed", 3),
        *("--compare", "--steps", steps, *options),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.fullmatch(
        rf"{name}: eager, script, C\+\+, C\+\+ game: identical for {steps:,} steps, 4 snakes, "
        r"food ([\d,]+), deaths ([\d,]+); SHA-256 [0-9a-f]{64}\n",
        done.stdout,
    )
    assert found, done.stdout
    assert int(found[1].replace(",", "")) > steps / 10
    assert int(found[2].replace(",", "")) > steps / 500


@pytest.mark.parametrize("options", [[], ["--sample"]])
@pytest.mark.parametrize("name", NAMES)
def test_many_fields_side_by_side_are_identical_too(
    name: str, options: list[str], archives: Path
) -> None:
    result = run(
        *("play", name, "--archive", archives / f"{name}.pt", "--games", 5, "--snakes", 3),
        *("--compare", "--steps", 300, "--seed", 2**63 - 1, *options),
    )
    assert result.exit_code == 0, result.output
    assert "C++ game: identical for 300 steps, 15 snakes, " in result.output


def first_difference(one: Session, other: Session, inputs: list[str]) -> tuple[int, int]:
    """The first step in which two sessions choose otherwise, and its first agent."""
    games = [Game(played, inputs, 16, 0) for played in (one, other)]
    for step in range(1000):
        actions = []
        for game in games:
            game.ask()
            actions.append(game.answer())
            game.play(actions[-1])
        if not np.array_equal(actions[0], actions[1]):
            return step, int(np.flatnonzero(actions[0] != actions[1])[0])
    raise AssertionError("no difference")


def test_an_archive_with_other_weights_is_caught_at_its_step(
    archives: Path, tampered: Path
) -> None:
    step, agent = first_difference(
        ProgramSession(open_archive(archives / "snake.pt").program(), "act"),
        ProgramSession(open_archive(tampered).program(), "act"),
        ["obs"],
    )
    assert step > 0, "it should not be caught at once"
    done = torchship("play", "snake", "--archive", tampered, "--compare", "--steps", step + 100)
    assert done.returncode == 1
    assert re.fullmatch(
        rf"snake: NOT IDENTICAL: step {step}: agent {agent} chose (\w+) in eager, "
        r"(?!\1)\w+ in script\n",
        done.stdout,
    ), done.stdout
    short = torchship("play", "snake", "--archive", tampered, "--compare", "--steps", step)
    assert short.returncode == 0, short.stdout


@pytest.mark.parametrize("runtime", ["eager", "script", "cpp"])
def test_the_runtime_that_plays_otherwise_is_named(
    runtime: str, archives: Path, tampered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_a_cheat(archive: Archive, name: str, method: str) -> AbstractContextManager[Session]:
        if name != runtime:
            return session(archive, name, method)
        cheat = open_archive(tampered)
        return session(cheat, "script" if name == "eager" else name, method)

    monkeypatch.setattr(play, "session", with_a_cheat)
    result = run("play", "snake", "--archive", archives / "snake.pt", "--compare", "--steps", 900)
    assert result.exit_code == 1, result.output
    named = {"eager": "in script", "script": "in script", "cpp": r"in C\+\+"}[runtime]
    assert re.search(rf"NOT IDENTICAL: step \d+: agent \d+ chose \w+ in eager, \w+ {named}\n$",
                     result.output)  # fmt: skip


def test_games_that_differ_though_the_choices_do_not_are_caught(
    archives: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bent(Game):
        """Differs in C++ from its seventh step on."""

        def __init__(self, played: Session, *arguments: Any) -> None:
            super().__init__(played, *arguments)
            self.differs = isinstance(played, Stepper)

        @property
        def digest(self) -> str:
            return "0" * 64 if self.differs and self.steps >= 7 else super().digest

    monkeypatch.setattr(play, "Game", Bent)
    result = run("play", "snake", "--archive", archives / "snake.pt", "--compare", "--steps", 20)
    assert result.exit_code == 1
    assert "NOT IDENTICAL: step 6: eager and C++ chose alike, and their games differ" in (
        result.output
    )


def compare(archives: Path, steps: int) -> Result:
    return run(
        *("play", "snake", "--archive", archives / "snake.pt", "--compare", "--steps", steps)
    )


def test_a_binary_that_plays_otherwise_is_named(
    archives: Path, tampered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cheat(Player):
        def __init__(self, archive: Archive, **options: Any) -> None:
            super().__init__(open_archive(tampered), **options)

    monkeypatch.setattr(play, "Player", Cheat)
    result = compare(archives, 900)
    assert result.exit_code == 1, result.output
    assert re.search(
        r"NOT IDENTICAL: step \d+: agent \d+ chose (\w+) in eager, (?!\1)\w+ in C\+\+ game\n$",
        result.output,
    )


def test_a_binary_that_plays_another_seed_is_caught_at_once(
    archives: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(Player):
        def __init__(self, archive: Archive, *, seed: int, **options: Any) -> None:
            super().__init__(archive, seed=seed + 1, **options)

    monkeypatch.setattr(play, "Player", Other)
    result = compare(archives, 5)
    assert result.exit_code == 1, result.output
    assert "NOT IDENTICAL: step 0: " in result.output


@pytest.mark.parametrize("what", ["lengths", "food", "corpses", "deaths", "digest"])
def test_whatever_the_binary_s_game_has_otherwise_is_named(
    what: str, archives: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Moment] = []

    def bent(player: Player) -> Moment:
        seen.append(whole(player))
        if len(seen) < 8:
            return seen[-1]
        if what == "digest":
            return replace(seen[-1], digest="0" * 64)
        return replace(seen[-1], **{what: getattr(seen[-1], what) + (np.arange(16) == 3)})

    whole = Player.next
    monkeypatch.setattr(Player, "next", bent)
    result = compare(archives, 20)
    assert result.exit_code == 1
    value = 0 if what == "digest" else int(getattr(seen[-1], what)[3])
    expected = {
        "digest": "eager and C++ game chose alike, and their games differ",
    }.get(what, f"agent 3: {what} {value} in eager, {value + 1} in C++ game")
    assert f"NOT IDENTICAL: step 7: {expected}\n" in result.output


@pytest.mark.parametrize("name", NAMES)
def test_every_runtime_plays_and_prints_one_line(name: str, archives: Path) -> None:
    scores = set()
    for runtime, shown in (("eager", "eager"), ("script", "script"), ("cpp", "C++")):
        result = run(
            *("play", name, "--archive", archives / f"{name}.pt", "--runtime", runtime),
            *("--steps", 40, "--seed", 11),
        )
        assert result.exit_code == 0, result.output
        found = re.fullmatch(
            rf"{name}, {re.escape(shown)}: (40 steps, 16 snakes, food \d+, deaths \d+), "
            r"[\d,]+ steps/s\n",
            result.output,
        )
        assert found, result.output
        scores.add(found[1])
    assert len(scores) == 1


def test_without_an_archive_one_is_made() -> None:
    result = run("play", "snake", "--steps", 3, "--snakes", 2)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("snake, script: 3 steps, 2 snakes, ")


def digest(archive: Archive, name: str, method: str, seed: int, runtime: str = "script") -> str:
    with session(archive, runtime, method) as played:
        game = Game(played, INPUTS[name, method], 16, seed)
        for _ in range(25):
            game.ask()
            game.play(game.answer())
    return game.digest


@pytest.mark.parametrize("name", NAMES)
def test_a_game_is_a_function_of_seed_and_method(name: str, archives: Path) -> None:
    archive = open_archive(archives / f"{name}.pt")
    games = {
        (method, seed): digest(archive, name, method, seed)
        for method in ("act", "sample")
        for seed in (0, 1)
    }
    assert len(set(games.values())) == 4
    assert digest(archive, name, "sample", 1) == games["sample", 1]
    assert digest(archive, name, "sample", 1, "cpp") == games["sample", 1]


def test_the_state_of_an_agent_is_carried_and_cleared_when_it_dies(archives: Path) -> None:
    """Against the module called by hand, with the state kept here."""
    archive = open_archive(archives / "snake-lstm.pt")
    module = archive.load()
    with session(archive, "script", "sample") as played:
        game = Game(played, INPUTS["snake-lstm", "sample"], 16, 5)
        h, c, key = torch.zeros(16, 128), torch.zeros(16, 128), keys(5, 16)
        snake = Snake()  # plays the same game
        obs, died = snake.reset(5)[0], np.zeros(16, dtype=np.bool_)
        deaths = 0
        for _ in range(60):
            reset = torch.from_numpy(died)
            h[reset], c[reset] = 0, 0
            nobody = torch.zeros(16, dtype=torch.bool)
            with torch.no_grad():
                actions, h, c, key = module.sample(torch.from_numpy(obs), nobody, h, c, key)
            game.ask()
            assert game.answer().tolist() == actions[:, 0].tolist()
            game.play(actions[:, 0].numpy())
            obs, _, died, _, _ = snake.step(actions[:, 0].numpy())
            deaths += int(died.sum())
    assert deaths > 0


# --- the terminal ---


def test_a_terminal_shows_the_game(archives: Path) -> None:
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "torchship", "play", "snake", "--steps", "3", "--fps", "100"),
            *("--archive", str(archives / "snake.pt")),
        ],
        stdout=child,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "50"},
    )
    os.close(child)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal's end, when the process has gone
        while part := os.read(parent, 65536):
            shown += part
    os.close(parent)
    assert process.wait() == 0
    text = shown.decode()
    assert text.count("▀") >= 3 * 74 * 37
    assert re.search(r"snake, script: 3 steps, 16 snakes, food \d+, deaths \d+, \d+ steps/s\r\n$",
                     text)  # fmt: skip


def test_the_picture_is_the_field_with_walls_one_thick() -> None:
    game = Snake(snakes=4, food=4, width=30, height=21, max_length=3)
    game.reset(0)
    tiles = game.field()[4:-4, 4:-4]
    lines = picture(game).split("\n", allow_blank=False)
    assert [len(line) for line in lines] == [32] * 12  # 23 rows, two in a line
    for row in range(24):
        for column in range(32):
            style = lines[row // 2].get_style_at_offset(Console(), column)
            colour = style.bgcolor if row % 2 else style.color
            tile = tiles[min(row, 22), column]
            assert colour is not None
            assert colour.name == play.PALETTE[tile], (row, column)


# --- what goes wrong ---


def test_bad_usage_is_named(archives: Path) -> None:
    fizzbuzz = archives / "fizzbuzz.pt"
    for arguments, message in (
        (["play", "fizzbuzz"], "no game for 'fizzbuzz': expected one of snake, snake-lstm"),
        (["play", "snake", "--runtime", "java"], "--runtime 'java': expected one of eager, "),
        (["play", "snake", "--archive", fizzbuzz], "'fizzbuzz.pt' has no method 'act' that takes"),
    ):
        result = run(*arguments)
        assert isinstance(result.exception, UsageError)
        assert message in str(result.exception)


@pytest.fixture
def stepping(archives: Path) -> Iterator[Callable[[str, str], Stepper]]:
    with contextlib.ExitStack() as stack:
        yield lambda name, method: stack.enter_context(
            Stepper(open_archive(archives / f"{name}.pt"), method)
        )


def test_a_stepper_carries_the_state_and_takes_another(
    stepping: Callable[[str, str], Stepper], archives: Path
) -> None:
    binary, program = (
        stepping("snake", "sample"),
        ProgramSession(open_archive(archives / "snake.pt").program(), "sample"),
    )
    obs = integers(7, 8, 64, 11, 11)
    chosen = []
    for given in ({}, {}, {"key": keys(3, 64)}, {}):
        for side in (binary, program):
            side.send({"obs": obs} | given)
        came, expected = binary.receive(), program.receive()
        assert came.keys() == {"actions"}
        assert came["actions"].dtype == torch.int64
        assert torch.equal(came["actions"], expected["actions"])
        chosen.append(came["actions"].tolist())
    assert len({str(actions) for actions in chosen}) > 1


def test_a_step_that_the_binary_refuses_is_passed_on_and_changes_nothing(
    stepping: Callable[[str, str], Stepper], archives: Path
) -> None:
    binary, program = (
        stepping("snake-lstm", "sample"),
        ProgramSession(open_archive(archives / "snake-lstm.pt").program(), "sample"),
    )
    good = {
        "obs": integers(1, 8, 32, 11, 11),
        "reset": torch.zeros(32, dtype=torch.bool),
    }
    bad = good | {"obs": torch.full((32, 11, 11), 9, dtype=torch.uint8)}
    chosen = []
    for turn in range(12):
        if turn % 2:
            binary.send(bad)
            refused = rf"line {turn + 1 + turn // 2}: .*obs: tile must be below 8, got 9"
            with pytest.raises(UsageError, match=refused):
                binary.receive()
        for side in (binary, program):
            side.send(good)
        came = binary.receive()
        assert torch.equal(came["actions"], program.receive()["actions"])
        chosen.append(came["actions"].tolist())
    assert len({str(actions) for actions in chosen}) > 1


def test_the_last_error_of_the_binary_is_passed_on(archives: Path, tmp_path: Path) -> None:
    archive = open_archive(archives / "snake.pt")
    damaged = tmp_path / "snake.pt"
    damaged.write_bytes((archives / "snake.pt").read_bytes()[:-100])
    archive.path = damaged
    with Stepper(archive, "act") as binary, Player(archive, steps=3, seed=0, snakes=1) as player:
        binary.send({"obs": torch.zeros(1, 11, 11, dtype=torch.uint8)})
        with pytest.raises(UsageError, match=r"torchship-runner run ended with exit code 3: .*zip"):
            binary.receive()
        assert binary.exit_code == 3
        with pytest.raises(UsageError, match=r"torchship-runner play: .*zip"):
            player.next()


def test_a_player_is_over_when_all_steps_are_played(archives: Path) -> None:
    with Player(open_archive(archives / "snake.pt"), steps=2, seed=4, snakes=2) as player:
        moments = [player.next(), player.next()]
        with pytest.raises(UsageError, match="the game is over"):
            player.next()
    assert all(moment.actions.shape == (2,) for moment in moments)
    assert moments[0].digest != moments[1].digest


def test_the_binary_ends_with_the_with(archives: Path) -> None:
    with Stepper(open_archive(archives / "snake.pt"), "act") as binary:
        assert binary.exit_code is None
        binary.send({"obs": torch.zeros(1, 11, 11, dtype=torch.uint8)})
        binary.receive()
    assert binary.exit_code == 0


def test_no_binary_is_one_message(archives: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Path:
        raise FileNotFoundError("torchship-runner is not installed")

    monkeypatch.setattr(child, "runner_path", missing)
    with pytest.raises(UsageError, match="torchship-runner is not installed"):
        Stepper(open_archive(archives / "snake.pt"), "act")
