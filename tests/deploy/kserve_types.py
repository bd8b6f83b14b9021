"""Checks manifests against the types of KServe's SDK, made from KServe's own definitions.

    python kserve_types.py KIND <MANIFEST.json

The SDK registers messages under the names that Triton's client has for its own, and one process
cannot have both: `check` does it in another.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import import_module
from typing import Any

MODULES = ("kserve.models", "kserve", "kubernetes.client.models")
PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float), "object": object}


def check(value: object, kind: str) -> None:
    """Fail at the first field that a type does not know, and the first value of another type."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, kind],
        input=json.dumps(value),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise AssertionError(done.stderr)


def _check(value: object, kind: str, path: str = "") -> None:
    """Fail at the first field that a type does not know, and the first value of another type."""
    if match := re.fullmatch(r"[Ll]ist\[(.+)\]", kind):
        assert isinstance(value, list), f"{path}: expected a list, got {value!r}"
        for place, item in enumerate(value):
            _check(item, match[1], f"{path}[{place}]")
    elif match := re.fullmatch(r"(?:dict\(|Dict\[)str, (.+)[)\]]", kind):
        assert isinstance(value, dict), f"{path}: expected a map, got {value!r}"
        for key, item in value.items():
            _check(item, match[1], f"{path}.{key}")
    elif kind in PLAIN:
        assert isinstance(value, PLAIN[kind]), f"{path}: expected {kind}, got {value!r}"  # type: ignore[arg-type]
    elif kind == "ResourceQuantity":
        assert re.fullmatch(r"[0-9.]+(m|k|[KMGT]i?)?", str(value)), f"{path}: {value!r}"
    else:
        _check_object(value, kind, path)


def _check_object(value: object, kind: str, path: str) -> None:
    types: list[Any] = [import_module(name) for name in MODULES]
    found = [getattr(module, kind) for module in types if hasattr(module, kind)]
    assert found, f"{path}: no type {kind}"
    names = {outer: inner for inner, outer in found[0].attribute_map.items()}
    assert isinstance(value, dict), f"{path}: expected {kind}, got {value!r}"
    for key, item in value.items():
        assert key in names, f"{path}.{key}: {kind} has {', '.join(sorted(names))}"
        _check(item, found[0].openapi_types[names[key]], f"{path}.{key}")
    # The SDK's classes refuse a missing field that is required.
    found[0](**{names[key]: item for key, item in value.items()})


if __name__ == "__main__":
    _check(json.load(sys.stdin), sys.argv[1])
