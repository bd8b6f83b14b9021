"""Checks manifests against the types of KServe's SDK, made from KServe's own definitions."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

TYPES: tuple[Any, ...] = (
    import_module("kserve.models"),
    import_module("kserve"),
    import_module("kubernetes.client.models"),
)
PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float), "object": object}


def check(value: object, kind: str, path: str = "") -> None:
    """Fail at the first field that a type does not know, and the first value of another type."""
    if match := re.fullmatch(r"[Ll]ist\[(.+)\]", kind):
        assert isinstance(value, list), f"{path}: expected a list, got {value!r}"
        for place, item in enumerate(value):
            check(item, match[1], f"{path}[{place}]")
    elif match := re.fullmatch(r"(?:dict\(|Dict\[)str, (.+)[)\]]", kind):
        assert isinstance(value, dict), f"{path}: expected a map, got {value!r}"
        for key, item in value.items():
            check(item, match[1], f"{path}.{key}")
    elif kind in PLAIN:
        assert isinstance(value, PLAIN[kind]), f"{path}: expected {kind}, got {value!r}"  # type: ignore[arg-type]
    elif kind == "ResourceQuantity":
        assert re.fullmatch(r"[0-9.]+(m|k|[KMGT]i?)?", str(value)), f"{path}: {value!r}"
    else:
        _check_object(value, kind, path)


def _check_object(value: object, kind: str, path: str) -> None:
    found = [getattr(module, kind) for module in TYPES if hasattr(module, kind)]
    assert found, f"{path}: no type {kind}"
    names = {outer: inner for inner, outer in found[0].attribute_map.items()}
    assert isinstance(value, dict), f"{path}: expected {kind}, got {value!r}"
    for key, item in value.items():
        assert key in names, f"{path}.{key}: {kind} has {', '.join(sorted(names))}"
        check(item, found[0].openapi_types[names[key]], f"{path}.{key}")
    # The SDK's classes refuse a missing field that is required.
    found[0](**{names[key]: item for key, item in value.items()})
