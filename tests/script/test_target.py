"""Which eager module an archive may have made."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest

from torchship.script.errors import UsageError
from torchship.script.manifest import Source
from torchship.script.target import find_target, make_module

MINE = """
import os
import torch

def make(factor=1.0):
    return torch.nn.Linear(2, 2)

def leave():
    raise SystemExit(5)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine_here.py").write_text(MINE)
    monkeypatch.delitem(sys.modules, "mine_here", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def refusal(factory: str, consent: str | None = None, **kwargs: Any) -> str:
    with pytest.raises(UsageError) as caught:
        make_module(Source(factory=factory, kwargs=kwargs), consent)
    return str(caught.value)


def test_our_models_and_modules_of_the_current_folder_are_made(here: Path) -> None:
    assert make_module(Source(factory="torchship.models.fizzbuzz:fizzbuzz")) is not None
    assert make_module(Source(factory="mine_here:make", kwargs={"factor": 2.0})) is not None


@pytest.mark.parametrize(
    "factory",
    ["os:system", "torch:os.system", "subprocess:call", "torch.hub:load", "pip:main", "zoo:linear"],
)
def test_functions_from_elsewhere_are_not_called(factory: str, here: Path) -> None:
    message = refusal(factory, command=f"touch {here / 'called'}")
    assert f"the archive names '{factory}', which is neither ours nor in the current" in message
    assert f"--source {factory}" in message
    assert not (here / "called").exists()


def test_what_a_module_has_imported_is_not_its_own(here: Path) -> None:
    for factory in ("mine_here:os.system", "torchship.models.fizzbuzz:with_weights"):
        message = refusal(factory, command=f"touch {here / 'called'}")
        assert "expected a factory's own name" in message
    assert not (here / "called").exists()


def test_consent_is_for_one_factory(here: Path) -> None:
    assert make_module(Source(factory="zoo:linear"), "zoo:linear") is not None
    assert "neither ours" in refusal("zoo:everything", "zoo:linear")


def test_a_factory_that_leaves_is_an_error(here: Path) -> None:
    assert refusal("mine_here:leave") == "'mine_here:leave' raised SystemExit: 5"


@pytest.mark.parametrize(
    "value", [math.inf, -math.inf, math.nan, [1.0, math.inf], {"a": math.nan}, {1, 2}, b"x"]
)
def test_a_factorys_argument_that_the_archive_could_not_keep(value: object) -> None:
    with pytest.raises(UsageError, match=r"the factory's argument scale=.*: expected a JSON value"):
        find_target("zoo:linear", "zoo:rows", {"scale": value})
