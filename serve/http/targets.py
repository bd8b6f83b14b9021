"""Which model and version the path of an inference request names."""

from __future__ import annotations

from torchship.serve.service.inference import Target


def infer_target(path: str) -> Target | None:
    """Return the model and the version that an inference path names; None for another path."""
    match path.split("/"):
        case ["", "v2", "models", model, "infer"] if model:
            return model, None
        case ["", "v2", "models", model, "versions", version, "infer"] if model and version:
            return model, version
    return None
