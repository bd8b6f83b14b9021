"""Kubernetes' manifests of deploy/: the chart, rendered by Helm's own engine, and KServe's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import helm_python as helm

yaml: Any = import_module("yaml")  # it has no types

Manifest: TypeAlias = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "chart" / "torchship"
VARIANTS = sorted(file.stem.removesuffix("-values") for file in (CHART / "ci").glob("*.yaml"))
PREFIX = "TORCHSHIP_SERVE_"


def values(variant: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((CHART / "ci" / f"{variant}-values.yaml").read_text())
    return read


def render(given: dict[str, Any], name: str = "demo") -> dict[str, Manifest]:
    """Every object of the chart by its kind."""
    with helm.Chart.load(CHART) as chart:
        texts = chart.render(given, name=name, namespace="prod")
    found: dict[str, Manifest] = {}
    for file, text in texts.items():
        for document in yaml.safe_load_all(text) if file.endswith(".yaml") else ():
            if document:
                assert document["kind"] not in found
                found[document["kind"]] = document
    return found


def notes(given: dict[str, Any]) -> str:
    with helm.Chart.load(CHART) as chart:
        return chart.render(given, name="demo", namespace="prod")["torchship/templates/NOTES.txt"]


def pod(objects: dict[str, Manifest]) -> Manifest:
    found: Manifest = objects["Deployment"]["spec"]["template"]["spec"]
    return found


def variables(container: Manifest) -> dict[str, str]:
    """The environment of a container, but what is in Secrets."""
    return {item["name"]: item["value"] for item in container.get("env", ()) if "value" in item}


def settings(container: Manifest) -> dict[str, Any]:
    """What `torchship serve` itself makes of a container's arguments and environment."""
    first, *rest = container["args"]
    assert first == "serve"
    return _settings(tuple(rest), tuple(sorted(variables(container).items())))


@cache
def _settings(arguments: tuple[str, ...], given: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "torchship", "serve", "--show-config", "--json", *arguments],
        env={**os.environ, **dict(given)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return {name: setting["value"] for name, setting in shown.items()}
