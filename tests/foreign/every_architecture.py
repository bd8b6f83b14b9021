"""All architectures of other people's libraries; pytest finds it only by its name.

`make test-foreign` installs their libraries and runs it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from foreign_models import ARCHITECTURES, Architecture, check


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_what_others_have_made_ships_or_is_refused_with_a_remedy(
    architecture: Architecture, tmp_path: Path
) -> None:
    check(architecture, tmp_path / "a.pt")
