"""The models that a replica holds: which are given up, and which never are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest

from served import MODELS, write
from torchship.script.format.tree import Flat
from torchship.serve.errors import ModeError, NotReadyError, UnknownModelError
from torchship.serve.ray.held_models import HeldModels, MultiplexedRepository

NAMES = ("a", "b", "c", "bad")
Work = Callable[[HeldModels, MultiplexedRepository], Awaitable[None]]


def added(number: float, outputs: Flat) -> Flat:
    return {name: value + number for name, value in outputs.items()}


def run(folder: Path, work: Work) -> None:
    """Do some work with two places for the four models of a folder, of which one fails."""
    for name in NAMES:
        wrong = float(name == "bad")
        edit = partial(added, wrong)
        write(folder / f"{name}.pt", MODELS["logarithm"](), name, "1", edit)

    async def main() -> None:
        repository = MultiplexedRepository([folder], mode="explicit", load=["a", "b"])
        models = HeldModels(repository, NAMES, 2, ["a", "b"])
        await repository.load()
        try:
            await work(models, repository)
        finally:
            repository.release()

    asyncio.run(main())


async def ask(models: HeldModels, repository: MultiplexedRepository, name: str) -> None:
    async with models.needed(name):
        assert repository.find(name).manifest.name == name


def test_the_model_that_nobody_needed_for_longest_makes_room(tmp_path: Path) -> None:
    async def work(models: HeldModels, repository: MultiplexedRepository) -> None:
        await ask(models, repository, "a")
        await ask(models, repository, "c")
        assert models.held == ["a", "c"]
        with pytest.raises(UnknownModelError, match="'b' is not loaded"):
            repository.find("b")
        await ask(models, repository, "b")
        assert models.held == ["c", "b"]

    run(tmp_path, work)


def test_a_model_that_answers_is_not_given_up(tmp_path: Path) -> None:
    async def work(models: HeldModels, repository: MultiplexedRepository) -> None:
        async with models.needed("a"):
            await ask(models, repository, "c")
            assert models.held == ["a", "c"]
            async with models.needed("c"):
                waiting = asyncio.ensure_future(ask(models, repository, "b"))
                await asyncio.sleep(0)
                assert models.held == ["a", "c"]
            await waiting
            assert models.held == ["a", "b"]

    run(tmp_path, work)


def test_many_ask_at_once_for_a_model_that_is_not_there(tmp_path: Path) -> None:
    async def work(models: HeldModels, repository: MultiplexedRepository) -> None:
        before = repository.verified_total
        await asyncio.gather(*(ask(models, repository, "c") for _ in range(8)))
        assert repository.verified_total == before + 1
        assert models.held == ["b", "c"]

    run(tmp_path, work)


def test_a_model_that_fails_takes_nobodys_place_again(tmp_path: Path) -> None:
    async def work(models: HeldModels, repository: MultiplexedRepository) -> None:
        for _ in range(2):
            with pytest.raises(NotReadyError, match="model 'bad' could not be loaded: golden"):
                await ask(models, repository, "bad")
        assert repository.failed_total == 1
        assert models.held == ["b"]
        await ask(models, repository, "a")
        assert models.held == ["b", "a"]

    run(tmp_path, work)


def test_clients_do_not_choose_what_is_held(tmp_path: Path) -> None:
    async def work(models: HeldModels, repository: MultiplexedRepository) -> None:
        async with models.needed("unknown"), models.needed(None):
            assert models.held == ["a", "b"]
        with pytest.raises(ModeError, match="'c': it is loaded when it is asked for"):
            await repository.load_model("c")
        with pytest.raises(ModeError, match="'a': it ends when another needs its place"):
            await repository.unload_model("a")

    run(tmp_path, work)
