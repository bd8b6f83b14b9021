"""The names that a live model can have: those that work in every route."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.routing import APIRoute

import served
from torchship.script.errors import ArchiveError
from torchship.serve.http.app import create_app
from torchship.serve.repository.engine_starts import LONGEST_NAME, RESERVED_NAMES, check_name
from torchship.serve.repository.repository import Repository

MakeArchive = Callable[..., Path]


def test_no_route_but_a_models_own_has_its_address() -> None:
    """A route of fixed words, where another has a model's name, hides the model of that name."""
    routes = [
        (route.path, method)
        for route in create_app(Repository([])).routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    ]
    hidden = set()
    for template, method in routes:
        if "{model}" not in template:
            continue
        shape = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(template))
        for path, other in routes:
            found = re.fullmatch(shape, path)
            if found and other == method and not found["model"].startswith("{"):
                hidden.add(found["model"])
    assert hidden == RESERVED_NAMES


@pytest.mark.parametrize("name", ["stats"])
def test_a_model_that_is_named_like_a_route_is_refused(
    make_archive: MakeArchive, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(served.MORE, name, served.MODELS["memory"])
    repository = Repository([make_archive(name)])
    asyncio.run(repository.load())
    repository.release()
    assert repository.entries[0].state == "failed"
    assert repository.index()[0].reason == (
        f"a model named '{name}' cannot be asked for, since GET /v2/models/{name} is about all "
        "models: export it again under another name (--name)"
    )


@pytest.mark.parametrize(
    "name", ["Stats", "stats2", "models", "index", "versions", "v2", "a" * 255]
)
def test_other_names_are_good(name: str) -> None:
    check_name(name, name)


@pytest.mark.parametrize(
    ("name", "version"), [("a" * (LONGEST_NAME + 1), "1"), ("a", "1" * (LONGEST_NAME + 1))]
)
def test_a_name_that_is_too_long_for_a_route_is_refused(name: str, version: str) -> None:
    with pytest.raises(ArchiveError, match="expected at most 255 each; export it again under a"):
        check_name(name, version)
