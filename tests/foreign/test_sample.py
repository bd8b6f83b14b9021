"""Eight architectures of other people's libraries, as a user ships them.

`make test` installs their libraries; `make test-foreign` ships all the others too.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from foreign_models import ARCHITECTURES, check

BY_NAME = {str(architecture): architecture for architecture in ARCHITECTURES}
SAMPLE = (
    "timm mobilenetv3_small_050 (script)",
    "timm vit_tiny_patch16_224 (script)",
    "torch-geometric GraphSAGE (script)",
    "torch-geometric GCN (refused, by script)",
    "vit-pytorch ViT (trace)",
    "stable-baselines3 DQN (trace)",
    "stable-baselines3 PPO (deterministic) (trace, warnings allowed)",
    "stable-baselines3 PPO (refused, by trace)",
)


@pytest.mark.parametrize("name", SAMPLE)
def test_what_others_have_made_ships_or_is_refused_with_a_remedy(name: str, tmp_path: Path) -> None:
    check(BY_NAME[name], tmp_path / "a.pt")
