"""The factories that an archive may name."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import zoo
from torchship.script.errors import ExportError, UsageError
from torchship.script.exporting.target import find_target, make_module, normalise
from torchship.script.format.manifest import Source

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


PARTIALS = """
import functools
import torch
import zoo
from zoo import linear, Linear

def make(seed, scale=1.0):
    return torch.nn.Linear(3, 4).eval()

def loading():
    return zoo.linear()

async def later():
    return zoo.linear()

class Factory:
    def __call__(self):
        return zoo.linear()

own = functools.partial(make, 3)
twice = functools.partial(functools.partial(make, 3), scale=2.0)
foreign = functools.partial(zoo.seeded, Linear())
instance = zoo.linear()
scripted = torch.jit.script(torch.nn.functional.relu)
factory = Factory()
examples = zoo.rows()
one = examples[0]
"""


@pytest.fixture
def partials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "partials.py").write_text(PARTIALS)
    monkeypatch.delitem(sys.modules, "partials", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.filterwarnings("ignore")  # torch's own notice that torch.jit is old
@pytest.mark.parametrize("name", ["own", "twice", "factory"])
def test_what_is_called_like_a_function_is_a_factory_and_is_made_again(
    name: str, partials: Path
) -> None:
    assert find_target(f"partials:{name}", "zoo:rows", {}).factory() is not None
    assert make_module(Source(factory=f"partials:{name}")) is not None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("foreign", "is a functools.partial of a function of 'zoo': an archive names a factory of"),
        ("foreign", "write `def make(): return foreign()` and name that"),
        ("instance", "is a Linear that is made already: expected a function that makes it"),
        ("instance", "write `def make(): return instance` and name that"),
        ("scripted", "is a ScriptFunction that is made already: expected a function"),
        ("later", "is an async function: expected one without async"),
        ("examples", "is [{'x': Tensor}, {'x': Tensor}]: expected a function or class"),
    ],
)
def test_names_that_are_no_factory(name: str, expected: str, partials: Path) -> None:
    with pytest.raises(UsageError) as caught:
        find_target(f"partials:{name}", "zoo:rows", {})
    assert str(caught.value).startswith(f"'partials:{name}' ")
    assert expected in str(caught.value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["examples", "one"])
def test_examples_that_are_no_function(name: str, partials: Path) -> None:
    with pytest.raises(UsageError, match=r"expected a function or class, for example a function"):
        find_target("partials:make", f"partials:{name}", {})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            zoo.rows()[0],
            "x: got one dict with the keys x: expected a list of such dicts, one for each example "
            "(or a dict from the names of methods to such lists)",
        ),
        (zoo.noise(1, 2, 3), "x: expected a list of examples for 'forward', got a tensor float32["),
        ([zoo.noise(1, 2, 3)], "x: example 0 of 'forward' is a tensor float32[2, 3]: expected a"),
        ([{3: 4}], "x: example 0 of 'forward' is {3: int}: expected a dict of keyword arguments"),
        (iter(zoo.rows()), "x: expected a list of examples for 'forward', got list_iterator"),
        ({3: zoo.rows()}, "x: expected the names of methods as keys, got 3"),
        (None, "x: expected a list of examples for 'forward', got NoneType"),
        ({"forward": zoo.rows(), "act": 3}, "x: got one dict with the keys forward, act: expected"),
    ],
)
def test_examples_of_another_structure_are_shown_on_one_line(given: object, expected: str) -> None:
    with pytest.raises(ExportError) as caught:
        normalise(given, "x")
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_only_the_first_line_of_what_a_user_s_code_raises(here: Path) -> None:
    (here / "talking.py").write_text(
        "def make():\n    raise ValueError('first\\nsecond')\n\n"
        "def silent():\n    raise ValueError\n"
    )
    (here / "broken.py").write_text("raise ValueError('first\\nsecond')\n")
    for text, said in (
        ("talking:make", "'talking:make' raised ValueError: first"),
        ("talking:silent", "'talking:silent' raised ValueError"),
        ("broken:make", "cannot import 'broken': ValueError: first"),
    ):
        assert refusal(text) == said
    with pytest.raises(ExportError) as caught:
        find_target("zoo:linear", "talking:make", {})
    assert str(caught.value) == "'talking:make' raised ValueError: first"


LEAVING = {
    "parsing": "import argparse\nparser = argparse.ArgumentParser()\n"
    "parser.add_argument('--data', required=True)\nparser.parse_args()\n",
    "leaving": "import sys\nsys.exit(0)\n",
    "silent": "raise SystemExit\n",
}


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("parsing", "factory"),
        ("leaving", "factory"),
        ("silent", "factory"),
        ("leaving", "examples"),
    ],
)
def test_a_module_that_ends_the_process_when_it_is_imported(
    name: str, place: str, tmp_path: Path
) -> None:
    (tmp_path / f"{name}.py").write_text(LEAVING[name])
    (tmp_path / "plain.py").write_text("def make():\n    raise AssertionError\n")
    named = {"factory": f"{name}:make", "examples": f"{name}:rows"}
    factory = named["factory"] if place == "factory" else "plain:make"
    done = subprocess.run(
        [sys.executable, "-m", "torchship", "script", factory, "--example", named["examples"]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert f"torchship: error: cannot import '{name}': it ends the process when it is" in last
    assert 'below if __name__ == "__main__":' in last


IN_A_NOTEBOOK = """
from pathlib import Path
import torch
from torchship.script.exporting.export import export
from torchship.script.errors import ExportError
from torchship.script.exporting.target import Target, normalise, source_of

class Mine(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)

def make():
    return torch.nn.Sequential(Mine()).eval() if AROUND else Mine().eval()

given = [{"input" if AROUND else "x": torch.ones(n, 3)} for n in (2, 4)]
target = Target("mine", source_of("__main__:make", make, {}), make, normalise(given, "mine"))
try:
    export(target, Path("mine.pt"))
except ExportError as error:
    print(error)
"""


@pytest.mark.parametrize("around", [False, True])
def test_a_class_without_a_source_file_is_refused_with_the_reason(
    around: bool, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-"],
        input=f"AROUND = {around}\n{IN_A_NOTEBOOK}",
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = done.stdout.strip().splitlines()
    assert "put the code into a .py file and import it, since what a notebook" in line
