from pathlib import Path

import pytest
import typer.testing

from torchship.script.errors import UsageError
from torchship.serve.cli import app
from torchship.serve.process import supervisor
from torchship.serve.settings import Settings


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """Return the settings with which the process was run, which here it is not."""
    found: list[Settings] = []
    monkeypatch.setattr(supervisor, "run", found.append)
    return found


def invoke(*arguments: str) -> typer.testing.Result:
    return typer.testing.CliRunner().invoke(app, arguments)


def test_flags_win_over_the_environment(
    served: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHSHIP_SERVE_PORT", "9001")
    monkeypatch.setenv("TORCHSHIP_SERVE_THREADS", "2")
    result = invoke("a.pt", "b", "--threads", "4", "--trusted-keys", "k.pub", "--host", "::1")
    assert result.exit_code == 0
    (settings,) = served
    assert settings.paths == (Path("a.pt"), Path("b"))
    assert (settings.threads, settings.port, settings.host) == (4, 9001, "::1")
    assert settings.trusted_keys == Path("k.pub")


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--port", "70000"], {}, "setting 'port': .* 65535, got 70000"),
        ([], {"THREADS": "many"}, "setting 'threads': .*, got 'many'"),
        ([], {"PATHS": "{"}, "paths"),
    ],
)
def test_wrong_settings_are_usage_errors(
    served: list[Settings],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    environment: dict[str, str],
    message: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(f"TORCHSHIP_SERVE_{name}", value)
    result = invoke(*arguments)
    assert isinstance(result.exception, UsageError)
    assert result.exception.exit_code == 2
    with pytest.raises(UsageError, match=message):
        raise result.exception
    assert served == []


def test_help_has_an_example() -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    assert "torchship serve archives/ --port 8000" in " ".join(result.output.split())
