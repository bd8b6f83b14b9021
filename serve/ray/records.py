"""What this package writes to Ray's key-value store about applications: small JSON documents."""

from __future__ import annotations

import orjson
from pydantic import BaseModel, ConfigDict
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_list, _internal_kv_put

from torchship.serve.ray.arguments import Arguments
from torchship.serve.ray.blueprint import Blueprint
from torchship.serve.ray.shipping import NAMESPACE

DEPLOYED, USED = "deployed/", "used/"


class Deployed(BaseModel):
    """An application as it was deployed last, with success."""

    model_config = ConfigDict(frozen=True)

    arguments: Arguments
    blueprint: Blueprint
    version: str
    """Ray's: replicas of the same version are not replaced."""


def write_deployed(name: str, deployed: Deployed) -> None:
    """Remember how an application was deployed, for when the next deploy fails."""
    _internal_kv_put(DEPLOYED + name, deployed.model_dump_json(), namespace=NAMESPACE)


def read_deployed(name: str) -> Deployed | None:
    """Return how an application was deployed last; None if that is not known."""
    found = _internal_kv_get(DEPLOYED + name, namespace=NAMESPACE)
    return None if found is None else Deployed.model_validate_json(found)


def write_used(name: str, blueprint: Blueprint) -> None:
    """Remember which archives an application needs; each replica does when it starts."""
    digests = [shipped.digest for shipped in blueprint.shipped]
    _internal_kv_put(USED + name, orjson.dumps(digests), namespace=NAMESPACE)


def used(names: set[str]) -> set[str]:
    """Return the digests of the archives that the named applications need."""
    found: set[str] = set()
    for key in _internal_kv_list(USED, namespace=NAMESPACE) or ():
        if key.decode().removeprefix(USED) in names:
            found |= set(orjson.loads(_internal_kv_get(key, namespace=NAMESPACE) or b"[]"))
    return found
