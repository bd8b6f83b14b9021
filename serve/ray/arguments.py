"""What an application on Ray is made of: its archives, its replicas, and the server's settings."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from torchship.script.errors import UsageError
from torchship.serve.settings import Settings, read_settings, without_secrets

SETTINGS = (
    *("threads", "device", "native", "place", "max_batch", "max_delay_us", "quick_us"),
    *("max_batch_bytes", "max_queue", "call_seconds", "loads", "trusted_keys", "operators"),
    *("api_keys", "max_tensor_bytes", "cors_origin", "max_body_bytes", "max_inflight_bytes"),
    *("forwarded_allow_ips", "ui", "state", "sequence_idle_seconds", "max_sequences"),
    *("store_cache", "store_cache_bytes", "store_seconds"),
    *("otel_endpoint", "log_format", "log_level", "access_log"),
)
"""The settings of `torchship serve` that one replica can follow; the others are Ray's proxies'."""


class Arguments(BaseModel):
    """The arguments of `build_app` and the options of `torchship ray deploy`."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    models: tuple[str, ...] = Field(
        min_length=1, description="archives, folders of archives, or addresses of stores"
    )
    replicas: int = Field(default=1, ge=1, description="replicas, at least")
    max_replicas: int | None = Field(
        default=None, ge=1, description="replicas, at most; without it their number is fixed"
    )
    target_rows: int = Field(
        default=16, ge=1, description="rows that may wait for each replica before one more starts"
    )
    upscale_seconds: float = Field(
        default=10, ge=0, allow_inf_nan=False, description="for which more replicas must be wanted"
    )
    downscale_seconds: float = Field(
        default=120, ge=0, allow_inf_nan=False, description="for which fewer must be wanted"
    )
    num_cpus: float = Field(
        default=1, ge=0, allow_inf_nan=False, description="processors that a replica reserves"
    )
    num_gpus: float = Field(
        default=0, ge=0, allow_inf_nan=False, description="GPUs that a replica reserves"
    )
    max_ongoing_requests: int = Field(
        default=256, ge=1, description="requests that a replica has at a time; others wait"
    )
    max_models: int | None = Field(
        default=None,
        ge=1,
        description="archives that a replica holds at a time; others are loaded when asked for",
    )
    ship: bool = Field(
        default=True, description="send the archives along, so that no node needs the files"
    )
    redis: str | None = Field(
        default=None, description="redis://host:port/db of the sequences, for all replicas"
    )

    @field_validator("models", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Take a comma-separated text too, which is all that `serve run` can give."""
        return tuple(filter(None, value.split(","))) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_bounds(self) -> Arguments:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(
                f"max_replicas is {self.max_replicas}: expected at least {self.replicas}, which is "
                "the number of replicas"
            )
        return self

    @property
    def most_replicas(self) -> int:
        """How many replicas there may be."""
        return self.replicas if self.max_replicas is None else self.max_replicas


def read_arguments(given: Mapping[str, object]) -> tuple[Arguments, Settings]:
    """Return the arguments, and the settings of each replica's server.

    Settings that are not given come from the environment, as they do for `torchship serve`.

    Raises:
        UsageError: a name is unknown, or a value invalid.
    """
    known = (*Arguments.model_fields, *SETTINGS)
    for name in given:
        if name in Settings.model_fields and name not in known:
            raise UsageError(
                f"setting '{name}' is of `torchship serve`, and not of a replica on Ray: expected "
                f"one of {', '.join(known)}; see docs/ray.md"
            )
        if name not in known:
            close = difflib.get_close_matches(str(name), known, 1)
            meant = f" (did you mean '{close[0]}'?)" if close else ""
            raise UsageError(f"unknown argument '{name}'{meant}: expected one of {list(known)}")
    own = {name: value for name, value in given.items() if name in Arguments.model_fields}
    try:
        arguments = Arguments.model_validate(own)
    except ValidationError as error:
        raise UsageError(_first(error)) from None
    settings: dict[str, object] = {k: _value(k, v) for k, v in given.items() if k in SETTINGS}
    if arguments.redis is not None:
        if "state" in settings:
            raise UsageError("redis and state were both given: expected one of them")
        settings["state"] = arguments.redis
    return arguments, read_settings(settings)


def _value(name: str, value: object) -> object:
    """Return a setting's value; `serve run` gives lists as text, which is JSON or commas."""
    if isinstance(value, list):
        return tuple(value)
    annotation = str(Settings.model_fields[name].annotation)
    if isinstance(value, str) and annotation.startswith("tuple"):
        return tuple(orjson.loads(value)) if value.startswith("[") else tuple(value.split(","))
    return value


def _first(error: ValidationError) -> str:
    first: Any = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"][:1])
    if first["type"] == "missing":
        return f"argument '{name}' is missing: expected {Arguments.model_fields[name].description}"
    if not name:
        return str(first["msg"].removeprefix("Value error, "))
    return f"argument '{name}': {first['msg']}, got {without_secrets(first['input'])!r}"
