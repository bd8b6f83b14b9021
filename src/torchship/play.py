"""`torchship play`: a policy plays snake in eager, script or C++, with the same moves in each."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Protocol

import numpy as np
import torch
import typer
from rich.console import Console
from rich.live import Live
from rich.style import Style
from rich.text import Text

from torchship.cpp_runner.player import Moment, Player
from torchship.cpp_runner.stepper import Stepper
from torchship.models.sampling import keys
from torchship.models.snake.game import ACTIONS, REACH, Bools, Bytes, Integers, Snake
from torchship.script.errors import UsageError
from torchship.script.exporting.export import export
from torchship.script.exporting.target import find_target, make_module
from torchship.script.format.tree import Flat
from torchship.script.runtime import torchscript
from torchship.script.runtime.archive import Archive, open_archive
from torchship.script.runtime.program import Program

app = typer.Typer()

MISMATCH = 1
POLICIES = ("snake", "snake-lstm")
SIDE_OF_ONE = 18  # side of a field for one snake; for 16 snakes, as in the training, it is 72
RUNTIMES = {"eager": "eager", "script": "script", "cpp": "C++"}
OWN = "C++ game"  # the binary with its own game; the other three play this one


class Session(Protocol):
    """Runs a method step by step, passing on its recurrent state."""

    def send(self, inputs: Flat) -> None:
        """Set one step's inputs; state among them replaces the state of the last step."""
        ...

    def receive(self) -> Flat:
        """Return the outputs of that step."""
        ...


class ProgramSession:
    """Runs a method of a module in this process."""

    def __init__(self, program: Program, method: str) -> None:
        self._program, self._method = program, method
        self._given: Flat = {}
        self._carried: Flat = {}

    def send(self, inputs: Flat) -> None:
        """Store one step's inputs."""
        self._given = inputs

    def receive(self) -> Flat:
        """Run the step."""
        outputs = self._program.call(self._method, self._carried | self._given)
        state = self._program.method(self._method).state
        self._carried = {entry.input: outputs[entry.output] for entry in state}
        return outputs


@contextmanager
def session(archive: Archive, runtime: str, method: str) -> Iterator[Session]:
    """Open a session of a method in `eager`, `script` or `cpp` for the length of the block.

    Raises:
        TorchShipError: the runtime cannot run the archive.
    """
    if runtime == "cpp":
        with Stepper(archive, method) as stepper:
            yield stepper
    elif runtime == "script":
        yield ProgramSession(archive.program(), method)
    else:
        module = make_module(archive.require_manifest().source).eval()
        yield ProgramSession(Program(archive.require_manifest(), module), method)


class Game:
    """A game of snake that a session plays, with a digest of all its steps."""

    def __init__(
        self, played: Session, inputs: Sequence[str], snakes: int, seed: int, fields: int = 1
    ) -> None:
        """Begin the game of `seed`; `inputs` are the names of the session's inputs."""
        side = round(SIDE_OF_ONE * snakes**0.5)
        self.snake = Snake(fields=fields, snakes=snakes, food=snakes, width=side, height=side)
        self.steps = 0
        self.info: dict[str, Integers] = self.snake.info()
        self._session, self._inputs = played, inputs
        self._first: Flat = {"key": keys(seed, self.snake.agents)} if "key" in inputs else {}
        self._obs: Bytes = self.snake.reset(seed)[0]
        self._died: Bools = np.zeros(self.snake.agents, dtype=np.bool_)
        self._actions: Integers = np.zeros(self.snake.agents, dtype=np.int64)
        self._digest = hashlib.sha256(self._obs.tobytes())

    def ask(self) -> None:
        """Send the agents' observations to the session."""
        given: Flat = {"obs": torch.from_numpy(self._obs)} | self._first
        if "reset" in self._inputs:
            given["reset"] = torch.from_numpy(self._died)
        self._first = {}
        self._session.send(given)

    def answer(self) -> Integers:
        """Return each agent's action, int64[agents]."""
        chosen: Integers = self._session.receive()["actions"][:, 0].numpy()
        return chosen

    def play(self, actions: Integers) -> None:
        """Play one step."""
        self._actions = actions
        self._obs, rewards, self._died, _, self.info = self.snake.step(actions)
        self.steps += 1
        for part in (actions, self._obs, rewards, self._died):
            self._digest.update(part.tobytes())

    def moment(self) -> Moment:
        """Return the result of the last step."""
        lengths = self.snake.lengths()
        return Moment(self._actions, lengths, **self.info, digest=self.digest)

    @property
    def digest(self) -> str:
        """SHA-256 of all observations, actions, rewards and deaths so far."""
        return self._digest.hexdigest()

    def score(self) -> str:
        """Return the score so far as text."""
        food, deaths = int(self.info["food"].sum()), int(self.info["deaths"].sum())
        snakes = "1 snake" if self.snake.agents == 1 else f"{self.snake.agents} snakes"
        return f"{self.steps:,} steps, {snakes}, food {food:,}, deaths {deaths:,}"


@app.command()
def play(
    policy: Annotated[str, typer.Argument(help="snake or snake-lstm.")],
    archive: Annotated[
        Path | None, typer.Option(help="The policy's archive [default: one made for this game].")
    ] = None,
    runtime: Annotated[str, typer.Option(help="eager, script or cpp.")] = "script",
    steps: Annotated[
        int | None, typer.Option(min=1, help="[default: 500; with --compare 10000]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of game and sampling.")] = 0,
    snakes: Annotated[
        int, typer.Option(min=1, max=64, help="How many; the field grows with them.")
    ] = 16,
    fields: Annotated[
        int, typer.Option("--games", min=1, max=1024, help="Fields side by side, in one batch.")
    ] = 1,
    sample: Annotated[
        bool, typer.Option("--sample", help="Draw actions instead of taking the likeliest.")
    ] = False,
    fps: Annotated[float, typer.Option(min=0.1, help="Steps shown per second.")] = 20.0,
    plain: Annotated[bool, typer.Option("--plain", help="Show no game, only its end.")] = False,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Play in all three runtimes, and in the binary alone, and compare each step.",
        ),
    ] = False,
) -> None:
    """Let a policy play: many snakes in the terminal, all moved by one model.

    With --compare four games are played in lock step: this one in eager, script and C++, and
    once more in `torchship-runner play`, which needs no Python. Exit code 0; 1 if they were not
    the same.

    Examples:

        torchship play snake --runtime cpp

        torchship play snake-lstm --sample --compare
    """
    if policy not in POLICIES:
        raise UsageError(f"no game for '{policy}': expected one of {', '.join(POLICIES)}")
    if runtime not in RUNTIMES:
        raise UsageError(f"--runtime '{runtime}': expected one of {', '.join(RUNTIMES)}")
    torchscript.configure()
    method = "sample" if sample else "act"
    with ExitStack() as stack:
        if archive is None:
            archive = Path(stack.enter_context(tempfile.TemporaryDirectory())) / f"{policy}.pt"
            export(find_target(policy, None, {}), archive)
        opened = open_archive(archive)
        inputs = _inputs(opened, method)
        chosen = RUNTIMES if compare else (runtime,)
        games = {
            name: Game(
                stack.enter_context(session(opened, name, method)), inputs, snakes, seed, fields
            )
            for name in chosen
        }
        if compare:
            steps = steps or 10_000
            own = Player(opened, steps=steps, seed=seed, snakes=snakes, games=fields, sample=sample)
            if not _compare(policy, games, stack.enter_context(own), steps):
                raise typer.Exit(MISMATCH)
        else:
            console = Console()
            shown = console if console.is_terminal and not plain else None
            _show(f"{policy}, {RUNTIMES[runtime]}", games[runtime], steps or 500, fps, shown)


def _inputs(archive: Archive, method: str) -> list[str]:
    """Return the names of a policy's inputs.

    Raises:
        UsageError: the archive's model is not a policy for this game.
    """
    signature = archive.require_manifest().methods.get(method)
    inputs = [argument.name for argument in signature.inputs] if signature else []
    if "obs" not in inputs or not {*inputs} <= {"obs", "reset", "h", "c", "key"}:
        raise UsageError(
            f"'{archive.path.name}' has no method '{method}' that takes obs: it plays no snake"
        )
    return inputs


def _show(title: str, game: Game, steps: int, fps: float, console: Console | None) -> None:
    """Play and print the score; on a console, show every step."""
    start = time.perf_counter()
    with ExitStack() as stack:
        live = None
        if console is not None:
            live = stack.enter_context(Live(console=console, auto_refresh=False, transient=True))
        try:
            for step in range(steps):
                game.ask()
                game.play(game.answer())
                if live is not None:
                    live.update(picture(game.snake), refresh=True)
                    time.sleep(max(0.0, start + (step + 1) / fps - time.perf_counter()))
        except KeyboardInterrupt:
            pass  # print the score so far
    speed = game.steps / (time.perf_counter() - start)
    typer.echo(f"{title}: {game.score()}, {speed:,.0f} steps/s")


def _compare(policy: str, games: dict[str, Game], own: Player, steps: int) -> bool:
    """Play in lock step and print the first step that differs; return whether none does.

    Args:
        policy: its name.
        games: this game, played by each runtime; the first is the reference.
        own: the binary, which plays its own game.
        steps: how many steps to play.
    """
    for step in range(steps):
        for game in games.values():
            game.ask()  # the binary works while the others do
        for game in games.values():
            game.play(game.answer())
        moments = {RUNTIMES[name]: game.moment() for name, game in games.items()}
        moments[OWN] = own.next()
        reference = next(iter(moments))
        for name, moment in moments.items():
            if difference := _difference(reference, moments[reference], name, moment):
                typer.echo(f"{policy}: NOT IDENTICAL: step {step}: {difference}")
                return False
    first = games[next(iter(games))]
    names = ", ".join([*(RUNTIMES[name] for name in games), OWN])
    typer.echo(f"{policy}: {names}: identical for {first.score()}; SHA-256 {first.digest}")
    return True


def _difference(reference: str, expected: Moment, name: str, actual: Moment) -> str | None:
    """Return a text with the differences between two games after the same step."""
    for what in ("actions", "lengths", "food", "corpses", "deaths"):
        a, b = getattr(expected, what), getattr(actual, what)
        if a.shape != b.shape:
            return f"{len(a)} agents in {reference}, {len(b)} in {name}"
        agents = np.flatnonzero(a != b)
        if len(agents) == 0:
            continue
        agent = int(agents[0])
        if what == "actions":
            chosen = f"{ACTIONS[a[agent]]} in {reference}, {ACTIONS[b[agent]]} in {name}"
            return f"agent {agent} chose {chosen}"
        return f"agent {agent}: {what} {a[agent]} in {reference}, {b[agent]} in {name}"
    if expected.digest != actual.digest:
        return f"{reference} and {name} chose alike, and their games differ"
    return None


# empty, food, corpse, wall, then the snakes
PALETTE = ("#101418", "#ffd24a", "#7a5c58", "#3a424c", "#4fb3ff", "#5fd38d", "#ff7a6b", "#c58bff")
TOP_BRIGHT = "▀"  # upper half in the foreground's colour, lower half in the background's


def picture(snake: Snake) -> Text:
    """Return the first field: two rows of cells in one line of half blocks, walls one thick."""
    tiles = snake.field()[REACH - 1 : 1 - REACH, REACH - 1 : 1 - REACH]
    if len(tiles) % 2:
        tiles = np.vstack([tiles, tiles[-1:]])
    text = Text()
    for upper, lower in zip(tiles[0::2], tiles[1::2], strict=True):
        for top, bottom in zip(upper.tolist(), lower.tolist(), strict=True):
            text.append(TOP_BRIGHT, Style(color=PALETTE[top], bgcolor=PALETTE[bottom]))
        text.append("\n")
    return text
