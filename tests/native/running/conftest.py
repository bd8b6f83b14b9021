"""Hand-made archives, compiled into a cache of the test session's own."""

from collections.abc import Callable
from pathlib import Path

import pytest

from served import archives, make_archive
from torchship.native.running.compiled import compile_library
from torchship.native.running.program import NativeProgram
from torchship.script.runtime.archive import open_archive

__all__ = ["archives", "make_archive"]

MakeNative = Callable[[Path], NativeProgram]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("native-cache")


@pytest.fixture
def native(cache: Path, monkeypatch: pytest.MonkeyPatch) -> MakeNative:
    """Return a function that compiles an archive."""
    monkeypatch.setenv("TORCHSHIP_NATIVE_CACHE", str(cache))
    return lambda path: NativeProgram(compile_library(open_archive(path)))
