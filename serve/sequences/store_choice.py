"""Chooses the store that the settings name; tells which models keep a server to one worker."""

from __future__ import annotations

from torchship.script.errors import UsageError
from torchship.script.format.manifest import Manifest
from torchship.serve.sequences.memory_store import MemoryStore
from torchship.serve.sequences.store import NoStore, Store
from torchship.serve.settings import Settings

IN_PROCESS = "memory"


def needs_single_worker(manifest: Manifest) -> bool:
    """Return whether a model has state, which the in-process store keeps in one worker only."""
    return any(method.state for method in manifest.methods.values())


def open_store(settings: Settings) -> Store:
    """Return the configured store; it connects when it is first used.

    Raises:
        UsageError: the package `redis` is needed and not installed.
    """
    if settings.state == IN_PROCESS and settings.workers > 1:
        return NoStore(settings.max_sequences, "each of its workers would remember its own only")
    if settings.state == IN_PROCESS:
        return MemoryStore(settings.sequence_idle_seconds, settings.max_sequences)
    if settings.state == "none":
        return NoStore(settings.max_sequences, "--state none")
    try:
        from torchship.serve.sequences.redis_store import RedisStore
    except ImportError:
        raise UsageError(
            f"setting 'state': '{settings.state}' needs the package redis: "
            "pip install 'torchship[redis]'"
        ) from None
    return RedisStore(settings.state, settings.sequence_idle_seconds, settings.max_sequences)
