import subprocess
import sys
from pathlib import Path

import pytest

import torchship.models
from torchship.models import bobnet, fizzbuzz, makemore, moba, recurrent, registry
from torchship.models.errors import UnknownModelError


def test_every_model_is_found_by_the_name_on_its_card() -> None:
    assert [registry.get(name).name for name in registry.names()] == registry.names()
    assert registry.get("fizzbuzz") is fizzbuzz.CARD
    assert registry.get("bobnet") is bobnet.CARD
    assert registry.get("wavenet") is makemore.WAVENET
    assert registry.get("lstm") is recurrent.LSTM
    assert registry.get("moba") is moba.CARD


def test_the_models_of_every_source_are_there() -> None:
    assert registry.names() == [
        *("xor", "fizzbuzz", "bobnet"),
        *("makemore-flat", "wavenet", "charlstm"),
        *("lstm", "lstm-fused", "gru", "milstm", "lnlstm", "peephole"),
        *("moba", "snake", "snake-lstm"),
    ]


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UnknownModelError) as raised:
        registry.get("bobnut")
    known = ", ".join(registry.names())
    assert str(raised.value) == f"no model 'bobnut': expected one of {known}"
    assert raised.value.code == "unknown_model"


def test_every_recipe_bears_the_name_of_a_model() -> None:
    assert set(registry.trainable()) < set(registry.names())
    assert [registry.recipe(name).name for name in registry.trainable()] == registry.trainable()
    assert registry.recipe("fizzbuzz") is fizzbuzz.RECIPE
    assert registry.recipe("wavenet") is makemore.WAVENET_RECIPE


def test_only_models_with_a_recipe_can_be_trained() -> None:
    with pytest.raises(UnknownModelError) as raised:
        registry.recipe("moba")
    trainable = ", ".join(registry.trainable())
    assert str(raised.value) == f"model 'moba' has no training recipe: expected one of {trainable}"
    with pytest.raises(UnknownModelError, match="no model 'bobnut'"):
        registry.recipe("bobnut")


def test_each_module_can_be_imported_first() -> None:
    """An import cycle shows only in the module that is imported first."""
    package = Path(torchship.models.__file__).parent
    files = sorted(path.relative_to(package) for path in package.rglob("*.py"))
    modules = [".".join(file.with_suffix("").parts) for file in files]
    code = f"""
import importlib, sys
for name in {modules!r}:
    for loaded in [m for m in sys.modules if m.startswith("torchship")]:
        del sys.modules[loaded]
    importlib.import_module("torchship.models." + name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
