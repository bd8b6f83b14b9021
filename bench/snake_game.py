"""How fast the game of snake alone is, in agent steps per second on one core.

python bench/snake_game.py [--rounds N] [--json-output FILE]

An agent step is the step of one agent with its observation. All agents walk at random. Rows: the
game called from C; `models.snake.game.Snake`, which returns new arrays for each step; and
WebAssembly in Node.js, where clang and node are installed.
The table shows the median of the rounds, which take turns, in
seconds of the processor: other programs then matter less.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from torchship.models.snake.game import Snake

SOURCE = Path(__file__).resolve().parent.parent / "cpp_runner" / "snake" / "game.c"
AGENT_STEPS = 1_000_000  # in a round
FIELDS = (1, 64)
SNAKES = 16  # on a field
CHOICES = 64  # steps until the actions repeat

IN_C = """
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "snake/game.h"

static void play(struct snake_game* game, const int64_t* actions, uint8_t* windows, long agents,
                 long choices, long steps) {
  for (long step = 0; step < steps; ++step) {
    snake_step(game, actions + step % choices * agents);
    snake_observe(game, windows);
  }
}

int main(int count, char** arguments) {
  const long fields = atol(arguments[1]), steps = atol(arguments[2]), choices = atol(arguments[3]);
  const long agents = fields * 16;
  const struct snake_rules rules = {(int32_t)fields, 16, 72, 72, 16, 32};
  struct snake_game* game = snake_init(malloc(snake_size(&rules)), &rules);
  uint8_t* windows = malloc((size_t)agents * SNAKE_WINDOW);
  int64_t* actions = malloc((size_t)(choices * agents) * sizeof *actions);
  for (long i = 0; i < choices * agents; ++i) actions[i] = rand() / 64 % 4;
  play(game, actions, windows, agents, choices, steps / 10);
  const clock_t start = clock();
  play(game, actions, windows, agents, choices, steps);
  printf("%.9f\\n", (double)(clock() - start) / CLOCKS_PER_SEC);
  return count != 4;
}
"""

IN_NODE = """
const { memory, __heap_base, ...snake } = new WebAssembly.Instance(
  new WebAssembly.Module(require("fs").readFileSync(process.argv[1]))).exports;
const [fields, steps, choices] = process.argv.slice(2).map(Number);
const agents = fields * 16;
let end = (__heap_base.value + 15) & ~15;
const take = (bytes) => {
  const start = end;
  end += (bytes + 15) & ~15;
  const missing = end - memory.buffer.byteLength;
  if (missing > 0) memory.grow(Math.ceil(missing / 65536));
  return start;
};
const rules = take(24);
new Int32Array(memory.buffer, rules, 6).set([fields, 16, 72, 72, 16, 32]);
const game = snake.snake_init(take(snake.snake_size(rules)), rules);
const windows = take(agents * 121);
const actions = take(choices * agents * 8);
const chosen = new BigInt64Array(memory.buffer, actions, choices * agents);
for (let i = 0; i < chosen.length; ++i) chosen[i] = BigInt(Math.floor(Math.random() * 4));
snake.snake_reset(game, 0n);
const play = (count) => {
  for (let step = 0; step < count; ++step) {
    snake.snake_step(game, actions + (step % choices) * agents * 8);
    snake.snake_observe(game, windows);
  }
};
play(steps / 10);
const start = process.cpuUsage();
play(steps);
console.log(process.cpuUsage(start).user / 1e6);
"""


def random_actions(agents: int) -> np.ndarray:
    return np.random.default_rng(0).integers(4, size=(CHOICES, agents))


def native(folder: Path, fields: int, steps: int) -> Callable[[], float]:
    program, source = folder / "game", folder / "host.c"
    source.write_text(IN_C)
    command = ["cc", "-std=c11", "-O3", "-I", SOURCE.parent.parent, SOURCE, source, "-o", program]
    subprocess.run([str(word) for word in command], check=True)
    play = [str(program), str(fields), str(steps), str(CHOICES)]
    return lambda: float(subprocess.check_output(play))


def python(fields: int, steps: int) -> Callable[[], float]:
    game = Snake(fields=fields, snakes=SNAKES)
    game.reset(0)
    actions = random_actions(game.agents)

    def play() -> float:
        start = time.process_time()
        for step in range(steps):
            game.step(actions[step % CHOICES])
        return time.process_time() - start

    return play


def wasm(module: Path, fields: int, steps: int) -> Callable[[], float]:
    command = ["node", "-e", IN_NODE, "--", module, fields, steps, CHOICES]
    return lambda: float(subprocess.check_output([str(part) for part in command]))


def compiled(folder: Path) -> Path | None:
    """Return the game as WebAssembly, or None where no clang compiles it or no node runs it."""
    if not shutil.which("clang") or not shutil.which("node"):
        return None
    module = folder / "game.wasm"
    command = ["clang", "--target=wasm32-wasi", "-O3", "-nostdlib", "-Wl,--no-entry"]
    command += ["-Wl,--export-all", "-I", str(SOURCE.parent.parent), str(SOURCE), "-o", str(module)]
    done = subprocess.run(command, stderr=subprocess.DEVNULL, check=False)
    return module if done.returncode == 0 else None


def main(
    rounds: int = 7, json_output: Annotated[Path | None, typer.Option(help="Also as JSON.")] = None
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        module = compiled(Path(folder))
        plays: dict[str, dict[int, Callable[[], float]]] = {"C": {}, "Python": {}}
        for fields in FIELDS:
            steps = AGENT_STEPS // (fields * SNAKES)
            plays["C"][fields] = native(Path(folder), fields, steps)
            plays["Python"][fields] = python(fields, steps)
            if module:
                plays.setdefault("WebAssembly", {})[fields] = wasm(module, fields, steps)
        seconds: dict[str, dict[int, list[float]]] = {
            name: {fields: [] for fields in FIELDS} for name in plays
        }
        for _ in track(range(rounds), transient=True):
            for name, row in plays.items():
                for fields, play in row.items():
                    seconds[name][fields].append(play())
    speed = {
        name: {fields: AGENT_STEPS / statistics.median(taken) for fields, taken in row.items()}
        for name, row in seconds.items()
    }
    title = f"agent steps per second of one core, median of {rounds} rounds"
    columns = (f"{fields} x {SNAKES} snakes" for fields in FIELDS)
    table = Table("", *columns, title=title, title_justify="left")
    for name, figures in speed.items():
        table.add_row(name, *(f"{value:,.0f}" for value in figures.values()))
    Console().print(table)
    if json_output:
        json_output.write_text(json.dumps(speed, indent=1))


if __name__ == "__main__":
    typer.run(main)
