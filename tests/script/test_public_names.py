"""The names that `torchship.script` exports, which are imported when they are first used."""

from __future__ import annotations

import pytest

from torchship import script


@pytest.mark.parametrize("name", script.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(script, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = script.nothing
