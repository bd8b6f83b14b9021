"""A real S3 for each module, and its address in this process's environment."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from object_store import ObjectStore, running_s3


@pytest.fixture(scope="module")
def running() -> Iterator[ObjectStore]:
    with running_s3() as store, pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment.items():
            patch.setenv(name, value)
        yield store


@pytest.fixture
def s3(running: ObjectStore) -> ObjectStore:
    """Return an empty S3."""
    running.clear()
    return running
