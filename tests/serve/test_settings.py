from pathlib import Path

import pytest
from pydantic import ValidationError

from torchship.serve.settings import Settings


def test_defaults_are_for_this_machine_only() -> None:
    settings = Settings()
    assert (settings.host, settings.port, settings.threads) == ("127.0.0.1", 8000, 1)
    assert (settings.max_batch, settings.max_queue) == (64, 4096)
    assert settings.trusted_keys is None


def test_the_environment_sets_what_the_caller_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHSHIP_SERVE_PORT", "9001")
    monkeypatch.setenv("TORCHSHIP_SERVE_THREADS", "3")
    monkeypatch.setenv("TORCHSHIP_SERVE_PATHS", '["a.pt", "b"]')
    settings = Settings(threads=2)
    assert (settings.port, settings.threads) == (9001, 2)
    assert settings.paths == (Path("a.pt"), Path("b"))


@pytest.mark.parametrize(
    "wrong",
    [{"port": 65536}, {"threads": 0}, {"max_batch": 0}, {"max_queue": 0}, {"max_body_bytes": 0}],
)
def test_values_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Settings(**wrong)  # type: ignore[arg-type]
