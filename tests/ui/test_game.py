"""The game of the page: made of today's source, and bit for bit the game of Python."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from torchship.models.sampling import keys
from torchship.models.snake.game import Snake
from torchship.ui import PAGE

ROOT = Path(__file__).resolve().parents[2]
GAME = PAGE / "ui" / "game"
STEPS = 300


def leb128(data: bytes, at: int) -> tuple[int, int]:
    """A number of WebAssembly, and where the next byte is."""
    value, shift = 0, 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def sections(module: bytes) -> dict[str, bytes]:
    """The sections of a module: by their number, custom ones by their name."""
    found, at = {}, 8
    while at < len(module):
        kind = module[at]
        size, start = leb128(module, at + 1)
        at = start + size
        if kind == 0:
            length, start = leb128(module, start)
            name = module[start : start + length].decode()
            found[name] = module[start + length : at]
        else:
            found[str(kind)] = module[start:at]
    return found


def test_the_file_is_of_todays_source_and_imports_nothing() -> None:
    digest = subprocess.check_output(
        [sys.executable, "-c", "import game_wasm; print(game_wasm.source_digest().hex())"],
        cwd=ROOT / "deploy",
        text=True,
    ).strip()
    found = sections((GAME / "game.wasm").read_bytes())
    assert found["source.sha256"].hex() == digest, "game.c has changed: run `make game-wasm`"
    assert "2" not in found, "the module imports something"
    assert (GAME / "game.wasm").stat().st_size < 12_000


@pytest.mark.parametrize(
    ("rules", "seed"),
    [
        ({"fields": 1, "snakes": 64, "width": 144, "height": 144, "food": 64}, 7),
        ({"fields": 3, "snakes": 5, "width": 18, "height": 16, "food": 6}, 2**63 - 1),
    ],
)
def test_it_plays_the_game_of_python(rules: dict[str, int], seed: int) -> None:
    game = Snake(**rules, max_length=12)
    actions = np.random.RandomState(1).randint(4, size=(STEPS, game.agents))
    request = {"rules": {**rules, "maxLength": 12}, "seed": str(seed), "actions": actions.tolist()}
    done = subprocess.run(
        [
            *("node", Path(__file__).with_name("play_game.mjs")),
            *(GAME / "game.mjs", GAME / "game.wasm"),
        ],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=True,
    )
    first, *seen = (json.loads(line) for line in done.stdout.splitlines())
    assert list(map(int, first["keys"])) == keys(seed, game.agents).tolist()
    assert len(seen) == STEPS + 1
    obs, _ = game.reset(seed)
    rewards, died = np.zeros(game.agents, dtype=np.float32), np.zeros(game.agents, dtype=np.bool_)
    size = (rules["width"] + 10) * (rules["height"] + 10)
    for step, shown in enumerate(seen):
        if step:
            obs, rewards, died, _, _ = game.step(actions[step - 1])
        state = game.state()
        heads = state["body"][np.arange(game.agents), state["head"]].astype(np.int64) % size
        assert shown["obs"] == obs.tobytes().hex()
        assert list(map(float, shown["rewards"])) == rewards.tolist()
        assert list(map(int, shown["died"])) == died.astype(int).tolist()
        assert list(map(int, shown["lengths"])) == game.lengths().tolist()
        assert list(map(int, shown["headings"])) == state["heading"].tolist()
        assert shown["tiles"] == state["tiles"].tobytes().hex()
        assert list(map(int, shown["scores"])) == state["eaten"].T.reshape(-1).tolist()
        assert shown["heads"] == heads.tolist()
        assert shown["bodies"] == game.lengths().tolist()
