"""The table of translations: kinds of TorchScript's nodes, and who translates them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Handler = Callable[[Any, Any, list[Any]], object]
OPERATORS: dict[str, Handler] = {}


def operator(*kinds: str) -> Callable[[Handler], Handler]:
    """Register the translation of kinds of nodes: importer, node, arguments -> result."""

    def register(handler: Handler) -> Handler:
        for kind in kinds:
            OPERATORS[kind] = handler
        return handler

    return register


class Raised(Exception):
    """The block always ends with the model's exception; what follows is not reached."""


def outcome(results: Sequence[object]) -> object:
    """Return the results of a node's blocks as its handler returns them: one as it is."""
    return results[0] if len(results) == 1 else tuple(results)
