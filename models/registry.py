"""Our models by name; a model's module is imported only when it is requested."""

from importlib import import_module

from torchship.models.card import Card
from torchship.models.errors import UnknownModelError
from torchship.models.training.descent import Recipe

# By name: the place of the card, and of the recipe if there is one.
_CARDS = {
    "xor": "torchship.models.xor:CARD",
    "fizzbuzz": "torchship.models.fizzbuzz:CARD",
    "bobnet": "torchship.models.bobnet:CARD",
    "makemore-flat": "torchship.models.makemore:FLAT",
    "wavenet": "torchship.models.makemore:WAVENET",
    "charlstm": "torchship.models.charlstm:CARD",
    "lstm": "torchship.models.recurrent:LSTM",
    "lstm-fused": "torchship.models.recurrent:LSTM_FUSED",
    "gru": "torchship.models.recurrent:GRU",
    "milstm": "torchship.models.recurrent:MILSTM",
    "lnlstm": "torchship.models.recurrent:LNLSTM",
    "peephole": "torchship.models.recurrent:PEEPHOLE",
    "moba": "torchship.models.moba:CARD",
    "snake": "torchship.models.snake_policy:CARD",
    "snake-lstm": "torchship.models.snake_policy:LSTM_CARD",
}
_RECIPES = {
    "xor": "torchship.models.xor:RECIPE",
    "fizzbuzz": "torchship.models.fizzbuzz:RECIPE",
    "bobnet": "torchship.models.bobnet:RECIPE",
    "makemore-flat": "torchship.models.makemore:FLAT_RECIPE",
    "wavenet": "torchship.models.makemore:WAVENET_RECIPE",
    "charlstm": "torchship.models.charlstm:RECIPE",
    "snake": "torchship.models.snake.training:RECIPE",
    "snake-lstm": "torchship.models.snake.training:LSTM_RECIPE",
}


def names() -> list[str]:
    """Return the names of our models, in the order in which they are listed."""
    return list(_CARDS)


def trainable() -> list[str]:
    """Return the names of the models that have a training recipe."""
    return list(_RECIPES)


def get(name: str) -> Card:
    """Return the card of the model `name`.

    Raises:
        UnknownModelError: no model has this name; the message lists all names.
    """
    if name not in _CARDS:
        raise UnknownModelError(f"no model '{name}': expected one of {', '.join(names())}")
    card = _find(_CARDS[name])
    assert isinstance(card, Card)
    return card


def recipe(name: str) -> Recipe:
    """Return the training recipe of the model `name`.

    Raises:
        UnknownModelError: no model has this name, or it has no recipe.
    """
    get(name)
    if name not in _RECIPES:
        raise UnknownModelError(
            f"model '{name}' has no training recipe: expected one of {', '.join(trainable())}"
        )
    found = _find(_RECIPES[name])
    assert isinstance(found, Recipe)
    return found


def _find(place: str) -> object:
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)
