"""The server's settings: command line first, then the environment, then these defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Everything that can be set, each also as `TORCHSHIP_SERVE_<NAME>` (`paths` as JSON)."""

    model_config = SettingsConfigDict(env_prefix="TORCHSHIP_SERVE_", frozen=True)

    paths: tuple[Path, ...] = Field(
        default=(), description="archives, or folders of *.pt or <name>/<version>/model.pt"
    )
    mode: Literal["fixed", "poll", "explicit"] = Field(
        default="fixed",
        description="fixed: what is there at start; poll: follow the files; explicit: as told",
    )
    poll_seconds: float = Field(
        default=5, gt=0, allow_inf_nan=False, description="between two looks in poll mode"
    )
    load: tuple[str, ...] = Field(
        default=(), description="models that explicit mode loads at start"
    )
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="0 for any free one")
    threads: int = Field(default=1, ge=1, description="intra-op threads of each model")
    max_batch: int = Field(default=64, ge=1, description="rows of all requests in one call")
    max_queue: int = Field(default=4096, ge=1, description="rows that may wait for each model")
    trusted_keys: Path | None = Field(default=None, description="PEM file of Ed25519 public keys")
    max_body_bytes: int = Field(default=64 << 20, ge=1, description="largest request body")
    state: str = Field(
        default="memory",
        pattern=r"^(memory|rediss?://.+|unix://.+)$",
        description="where sequences keep their state: memory, or redis://host:port/db",
    )
    sequence_idle_seconds: float = Field(
        default=60, gt=0, description="after which an unused sequence is freed"
    )
    max_sequences: int = Field(default=16384, ge=1, description="live sequences")
    shutdown_seconds: int = Field(default=30, ge=1, description="for requests in flight to finish")
