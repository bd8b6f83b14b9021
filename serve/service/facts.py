"""What a server says of itself and its models, as the protocol's JSON has it, and what it takes.

The other transports say the same in their own form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from torchship.serve.engine.engine import Engine
from torchship.serve.errors import RequestError
from torchship.serve.protocol.tensors import short
from torchship.serve.protocol.wire_signature import describe
from torchship.serve.repository.repository import Repository
from torchship.serve.system.package_version import package_version
from torchship.serve.telemetry.metrics import Metrics
from torchship.serve.telemetry.samples import samples_of
from torchship.serve.telemetry.statistics import statistics

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "schedule_policy",
    "sequence",
    "statistics",
)


def server_metadata() -> dict[str, object]:
    """Return the protocol's server metadata."""
    return {"name": "torchship", "version": package_version(), "extensions": list(EXTENSIONS)}


def model_metadata(repository: Repository, engine: Engine) -> dict[str, object]:
    """Return the protocol's metadata of a live model."""
    versions = repository.versions(engine.manifest.name)
    return describe(engine.manifest, versions, {"runtime": engine.runtime})


def index_entries(repository: Repository, only_ready: bool) -> list[dict[str, str]]:
    """Return the archives with their states; of those that are not empty, each field."""
    return [
        {key: value for key, value in asdict(entry).items() if value}
        for entry in repository.index()
        if entry.state == "READY" or not only_ready
    ]


async def statistics_of(
    repository: Repository, metrics: Metrics, model: str | None, version: str | None = None
) -> dict[str, object]:
    """Return the statistics of a model, of one version of it, or of every live model (None).

    Raises:
        UnknownModelError, NotReadyError: there is no such live model.
    """
    if model is None:
        wanted = [(e.name, e.version) for e in repository.index() if e.state == "READY"]
    else:
        name = repository.find(model, version).manifest.name
        versions = repository.versions(name) if version is None else [version]
        wanted = [(name, known) for known in versions]
    families = await metrics.all(repository.status())
    return statistics(samples_of(families), wanted)


def check_load(parameters: Mapping[str, object]) -> None:
    """Refuse parameters that would change what is loaded.

    Raises:
        RequestError: a `config` or a `file:…`, which an archive does not take.
    """
    for name in parameters:
        if name == "config" or name.startswith("file:"):
            raise RequestError(
                f"parameter {short(name)} is not supported: an archive says itself what it is, "
                "and is loaded from the repository only"
            )


def check_unload(parameters: Mapping[str, object]) -> None:
    """Check `unload_dependents`, which changes nothing: no model here depends on another.

    Raises:
        RequestError: it is not true or false.
    """
    value = parameters.get("unload_dependents", False)
    if not isinstance(value, bool):
        raise RequestError(
            f"parameter 'unload_dependents': expected true or false, got {short(value)}"
        )
