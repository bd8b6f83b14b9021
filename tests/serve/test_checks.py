"""Settings that do not fit the archives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from torchship.script.errors import UsageError
from torchship.serve.process.checks import check_places
from torchship.serve.process.supervisor import run
from torchship.serve.repository.repository import Mode
from torchship.serve.settings import Settings


def test_a_device_for_a_model_that_is_not_there_is_refused(
    archives: dict[str, Path], own_log: None
) -> None:
    paths = (archives["half"], archives["memory"])
    check_places(Settings(paths=paths, place=("half=cpu", "memory=cpu")))
    message = "--place hafl=cpu: there is no model 'hafl': the archives have 'half', 'memory'"
    with pytest.raises(UsageError, match=message):
        run(Settings(paths=paths, place=("half=cpu", "hafl=cpu")))


@pytest.mark.parametrize("mode", ["fixed", "poll", "explicit"])
def test_where_the_model_may_be_or_come_it_is_a_warning(
    make_archive: Callable[..., Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    mode: Mode,
) -> None:
    make_archive("half")
    if mode == "fixed":  # a damaged archive may be of any model
        (tmp_path / "damaged.pt").write_bytes(b"nothing")
    check_places(Settings(paths=(tmp_path,), place=("m=cpu",), mode=mode))
    assert caplog.messages == ["--place m=cpu: there is no model 'm': the archives have 'half'"]
