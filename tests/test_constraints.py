"""The versions that `make` installs fit what the project asks for."""

import sys
from importlib import import_module
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

tomllib = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
ROOT = Path(__file__).parents[1]
CHOSEN_BY_THE_USER = {"torch"}


def asked_for() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        lines += extra
    found = [Requirement(line) for line in lines]
    return [r for r in found if r.name not in {"torchship", *CHOSEN_BY_THE_USER}]


def chosen() -> dict[str, list[str]]:
    versions: dict[str, list[str]] = {}
    for line in (ROOT / "deploy" / "constraints.txt").read_text().splitlines():
        requirement = Requirement(line)
        [pin] = requirement.specifier
        assert pin.operator == "==", line
        versions.setdefault(canonicalize_name(requirement.name), []).append(pin.version)
    return versions


def test_every_requirement_has_a_version_that_fits_it() -> None:
    versions = chosen()
    for requirement in asked_for():
        found = versions.get(canonicalize_name(requirement.name), [])
        assert found, f"{requirement}: run `make constraints`"
        for version in found:
            assert version in requirement.specifier, (
                f"{requirement}: {version}; run `make constraints`"
            )


def test_the_user_chooses_torch_and_what_belongs_to_its_build() -> None:
    names = [*chosen()]
    assert not [
        n
        for n in names
        if n == "triton" or (n.startswith(("torch", "nvidia-", "cuda-")) and n != "torchship")
    ]
