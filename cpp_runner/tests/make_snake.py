"""Makes policies, images, and games played in Python, for the C++ tests of the game.

python make_snake.py FOLDER
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from torchship.models.bobnet import DIGITS, bobnet
from torchship.models.seeding import integers
from torchship.models.snake.game import Snake
from torchship.models.snake.training import player
from torchship.models.snake_policy import snake, snake_lstm
from torchship.script.exporting.export import export
from torchship.script.exporting.target import find_target

# Name, rules, seed, steps. Crowded fields cause deaths, contested cells and food that is far away.
GAMES = (
    ("training", {"fields": 2}, 7, 300),
    ("crowded", {"fields": 3, "snakes": 5, "width": 9, "height": 8, "food": 6, "max_length": 6},
     2**64 - 1, 400),
    ("tiny", {"snakes": 1, "width": 3, "height": 2, "food": 1, "max_length": 2}, 0, 400),
)  # fmt: skip


def make_games(folder: Path) -> None:
    """Write `snake_NAME.npz`: random actions, and everything visible after each step."""
    for name, rules, seed, steps in GAMES:
        game = Snake(**rules)
        generator = np.random.default_rng(3)
        obs, _ = game.reset(seed)
        seen: dict[str, list[np.ndarray]] = {"obs": [obs], "tiles": [fields(game)]}
        for _ in range(steps):
            actions = generator.integers(4, size=game.agents)
            obs, rewards, died, _, info = game.step(actions)
            after = {"actions": actions, "obs": obs, "rewards": rewards, "died": died, **info}
            after |= {"lengths": game.lengths(), "tiles": fields(game)}
            for key, value in after.items():
                seen.setdefault(key, []).append(value)
        assert min(v[-1].sum() for k, v in seen.items() if k in ("food", "deaths")) > 0, name
        arrays = {key: np.stack(values) for key, values in seen.items()}
        np.savez_compressed(folder / f"snake_{name}.npz", **arrays)  # type: ignore[arg-type]


def fields(game: Snake) -> np.ndarray:
    """Return every field's tiles with its walls."""
    return np.stack([game.field(number) for number in range(game.fields)])


def make_policies(folder: Path) -> None:
    """Write `snake.pt`, `snake-lstm.pt`, and `played.json`: digests of games, by the models."""
    played = []
    for name, policy in (("snake", snake()), ("snake-lstm", snake_lstm())):
        export(find_target(name, None, {}), folder / f"{name}.pt")
        for sample in (False, True):
            game = Snake(fields=2, snakes=4, food=4, width=36, height=36)
            play = player(policy, 5, game.agents, sample)
            obs, info = game.reset(5)
            died = np.zeros(game.agents, dtype=np.bool_)
            digest = hashlib.sha256(obs.tobytes())
            for _ in range(80):
                actions = play(obs, died)
                obs, rewards, died, _, info = game.step(actions)
                for part in (actions, obs, rewards, died):
                    digest.update(part.tobytes())
            counts = {key: int(value.sum()) for key, value in info.items()}
            played.append({"name": name, "sample": sample, "digest": digest.hexdigest(), **counts})
    (folder / "played.json").write_text(json.dumps(played))


def make_pictures(folder: Path) -> None:
    """Write `digit.png`, its label beside it, and images that are not suitable."""
    pixels = (integers(201, 256, 28, 28) * (integers(251, 5, 28, 28) == 0)).numpy()
    digit = Image.fromarray(pixels)
    digit.save(folder / "digit.png")
    with torch.no_grad():
        label = int(bobnet()(torch.from_numpy(pixels.reshape(1, 784))).argmax())
    (folder / "digit.txt").write_text(DIGITS[label])
    digit.resize((32, 28)).save(folder / "wide.png")
    digit.convert("RGB").save(folder / "rgb.png")
    digit.convert("1").save(folder / "bits.png")
    data = (folder / "digit.png").read_bytes()
    (folder / "cut.png").write_bytes(data[: len(data) // 2])


if __name__ == "__main__":
    torch.set_num_threads(1)
    make_games(Path(sys.argv[1]))
    make_policies(Path(sys.argv[1]))
    make_pictures(Path(sys.argv[1]))
