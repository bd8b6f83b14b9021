"""Fixtures of the models' tests."""

import contextlib
import io
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from torchship.models import data, names
from torchship.models.card import Card, Example, Step
from torchship.models.training.descent import Recipe
from torchship.models.training.journal import Journal

OpenJournal = Callable[[Recipe], Journal]
Logged = Callable[[Path], dict[str, list[tuple[int, float]]]]
Run = Callable[[nn.Module, Card, str, Example], list[dict[str, Tensor]]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@contextlib.contextmanager
def torchscript() -> Iterator[None]:
    """Silence that torch deprecates `torch.jit`, and nothing else."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated")
        yield


@pytest.fixture
def script() -> Callable[[nn.Module], torch.jit.ScriptModule]:
    def compiled(module: nn.Module) -> torch.jit.ScriptModule:
        with torchscript():
            scripted = torch.jit.script(module)
        assert isinstance(scripted, torch.jit.ScriptModule)
        return scripted

    return compiled


@pytest.fixture
def script_function() -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        with torchscript():
            scripted: Callable[..., Tensor] = torch.jit.script(function)
        return scripted

    return compiled


@pytest.fixture
def reload() -> Callable[[torch.jit.ScriptModule], torch.jit.ScriptModule]:
    """Return a function that saves a scripted module and loads it again."""

    def reloaded(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
        memory = io.BytesIO()
        with torchscript():
            torch.jit.save(module, memory)
            memory.seek(0)
            loaded = torch.jit.load(memory)  # type: ignore[no-untyped-call]
        assert isinstance(loaded, torch.jit.ScriptModule)
        return loaded

    return reloaded


@pytest.fixture(scope="session")
def parts() -> names.Split:
    """Return the real names in three parts."""
    if not os.environ.get("TORCHSHIP_DATA"):
        pytest.skip("TORCHSHIP_DATA is not set: no names to read")
    return names.split(data.names())


@pytest.fixture
def journal_of(tmp_path_factory: pytest.TempPathFactory) -> OpenJournal:
    """Return a function that opens the journal of a recipe, in a new folder each time."""
    return lambda recipe: Journal(recipe.identity, tmp_path_factory.mktemp("journal"))


@pytest.fixture
def logged() -> Logged:
    """Return a function that reads TensorBoard's logs in a folder: tag -> (step, value)."""

    def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
        events = EventAccumulator(str(folder))  # type: ignore[no-untyped-call]
        events.Reload()  # type: ignore[no-untyped-call]
        return {
            tag: [(e.step, e.value) for e in events.Scalars(tag)]  # type: ignore[no-untyped-call]
            for tag in events.Tags()["scalars"]  # type: ignore[no-untyped-call]
        }

    return read


@pytest.fixture
def run() -> Run:
    """Return a function that runs an example step by step; it gives each step's flat outputs."""
    return _run


def _run(module: nn.Module, card: Card, method: str, example: Example) -> list[dict[str, Tensor]]:
    results: list[dict[str, Tensor]] = []
    carried = _start(card, method, example[0])
    for step in example:
        with torch.no_grad():
            outputs = getattr(module, method)(**(carried | step))
        if isinstance(outputs, Tensor):
            outputs = (outputs,)
        named = dict(zip(card.outputs[method], outputs, strict=True))
        inputs = {entry[0].split(".")[0] for entry in card.state.get(method, [])}
        carried = {name: named[name] for name in inputs}
        results.append(flat(named))
    return results


def _start(card: Card, method: str, step: Step) -> dict[str, object]:
    """Return zeros for the state that a first step leaves out and the module needs."""
    zeros: dict[str, object] = {}
    for name, _, start in card.state.get(method, []):
        if start == "zeros":
            (batch,) = {len(tensor) for tensor in flat(step).values()}
            like = next(e[0][name] for e in card.examples()[method] if name in e[0])
            assert isinstance(like, Tensor)
            zeros[name] = torch.zeros(batch, *like.shape[1:], dtype=like.dtype)
    return zeros


def flat(tree: dict[str, object]) -> dict[str, Tensor]:
    """Name the leaves of arguments or outputs as the archive does: `hidden.0`."""
    leaves: dict[str, Tensor] = {}
    for name, value in tree.items():
        if isinstance(value, Tensor | int):
            leaves[name] = torch.as_tensor(value)
        elif isinstance(value, tuple | list):
            leaves |= flat({f"{name}.{i}": item for i, item in enumerate(value)})
        else:
            raise TypeError(f"{name}: {type(value)}")
    return leaves


@pytest.fixture(name="flat")
def flat_fixture() -> Callable[[dict[str, object]], dict[str, Tensor]]:
    return flat
