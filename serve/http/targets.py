"""Which model and version the path of an inference request names."""

from __future__ import annotations

from typing import TypeAlias

Target: TypeAlias = tuple[str, str | None]
"""A model's name and version; without a version the newest is meant."""


def infer_target(path: str) -> Target | None:
    """Return the model and the version that an inference path names; None for another path."""
    match path.split("/"):
        case ["", "v2", "models", model, "infer"] if model:
            return model, None
        case ["", "v2", "models", model, "versions", version, "infer"] if model and version:
            return model, version
    return None
