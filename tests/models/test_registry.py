import subprocess
import sys
from pathlib import Path

import pytest

import torchship.models
from torchship.models import bobnet, fizzbuzz, lstm, moba, registry
from torchship.models.errors import UnknownModelError


def test_every_model_is_found_by_the_name_on_its_card() -> None:
    assert registry.names() == ["fizzbuzz", "bobnet", "lstm", "moba"]
    assert [registry.get(name).name for name in registry.names()] == registry.names()
    assert registry.get("fizzbuzz") is fizzbuzz.CARD
    assert registry.get("bobnet") is bobnet.CARD
    assert registry.get("lstm") is lstm.CARD
    assert registry.get("moba") is moba.CARD


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UnknownModelError) as raised:
        registry.get("bobnut")
    assert str(raised.value) == ("no model 'bobnut': expected one of fizzbuzz, bobnet, lstm, moba")
    assert raised.value.code == "unknown_model"


def test_only_models_with_a_recipe_can_be_trained() -> None:
    assert registry.trainable() == ["fizzbuzz", "bobnet"]
    assert registry.recipe("fizzbuzz") is fizzbuzz.RECIPE
    assert registry.recipe("bobnet") is bobnet.RECIPE
    with pytest.raises(UnknownModelError, match=r"'moba' has no training recipe.*fizzbuzz, bobnet"):
        registry.recipe("moba")
    with pytest.raises(UnknownModelError, match="no model 'bobnut'"):
        registry.recipe("bobnut")


def test_each_module_can_be_imported_first() -> None:
    """An import cycle shows only in the module that is imported first."""
    package = Path(torchship.models.__file__).parent
    modules = sorted(path.stem for path in package.glob("*.py"))
    code = f"""
import importlib, sys
for name in {modules!r}:
    for loaded in [m for m in sys.modules if m.startswith("torchship")]:
        del sys.modules[loaded]
    importlib.import_module("torchship.models." + name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
