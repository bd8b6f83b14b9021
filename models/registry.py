"""Our models by name. A model's module is imported only when it is asked for."""

from importlib import import_module

from torchship.models.card import Card
from torchship.models.errors import UnknownModelError
from torchship.models.training import Recipe

_MODULES = {
    "fizzbuzz": "torchship.models.fizzbuzz",
    "bobnet": "torchship.models.bobnet",
    "lstm": "torchship.models.lstm",
    "moba": "torchship.models.moba",
}
_TRAINABLE = ("fizzbuzz", "bobnet")


def names() -> list[str]:
    """Return the names of our models, in the order in which they are listed."""
    return list(_MODULES)


def trainable() -> list[str]:
    """Return the names of the models that have a training recipe."""
    return list(_TRAINABLE)


def get(name: str) -> Card:
    """Return the card of the model `name`.

    Raises:
        UnknownModelError: no model has this name; the message lists those there are.
    """
    if name not in _MODULES:
        raise UnknownModelError(f"no model '{name}': expected one of {', '.join(names())}")
    card = import_module(_MODULES[name]).CARD
    assert isinstance(card, Card)
    return card


def recipe(name: str) -> Recipe:
    """Return the training recipe of the model `name`.

    Raises:
        UnknownModelError: no model has this name, or it has no recipe.
    """
    get(name)
    if name not in _TRAINABLE:
        raise UnknownModelError(
            f"model '{name}' has no training recipe: expected one of {', '.join(trainable())}"
        )
    found = import_module(_MODULES[name]).RECIPE
    assert isinstance(found, Recipe)
    return found
