"""Flags, environment, file and defaults, and the output of `--show-config`."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
import typer
import typer.testing
from pydantic import Field
from pydantic_settings import BaseSettings

from torchship.script.errors import UsageError
from torchship.serve import options
from torchship.serve.settings import Settings, read_settings, show, without_secrets


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "serve.toml"
    path.write_text('port = 9001\nthreads = 3\nmax_queue = 7\npaths = ["a.pt", "b"]\n')
    return path


def test_flags_win_over_environment_over_file_over_defaults(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHSHIP_SERVE_THREADS", "2")
    monkeypatch.setenv("TORCHSHIP_SERVE_MAX_QUEUE", "8")
    settings = read_settings({"config": file, "max_queue": 9})
    assert (settings.max_queue, settings.threads, settings.port) == (9, 2, 9001)
    assert settings.max_batch == 64
    assert settings.paths == (Path("a.pt"), Path("b"))


def test_the_environment_may_name_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHSHIP_SERVE_CONFIG", str(file))
    assert read_settings({}).port == 9001
    other = file.with_name("other.toml")
    other.write_text("port = 9002")
    assert read_settings({"config": other}).port == 9002


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prot = 1", "unknown setting 'prot' .did you mean 'port'.*: expected one of paths, "),
        ("zzz = 1", "unknown setting 'zzz': expected one of paths, "),
        ("[server]\nport = 1", "unknown setting 'server'"),
        ("port = 'high'", "setting 'port': .*, got 'high'"),
        ("port = ", "cannot read the settings from '.*serve.toml': "),
        (None, "cannot read the settings: '.*serve.toml' is not a file"),
    ],
)
def test_a_file_that_does_not_fit_is_a_usage_error(
    file: Path, content: str | None, message: str
) -> None:
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(UsageError, match=message):
        read_settings({"config": file})


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("TORCHSHIP_SERVE_MAX_BACTH", "TORCHSHIP_SERVE_MAX_BACTH .did you mean 'max_batch'"),
        ("torchship_serve_prot", "torchship_serve_prot .did you mean 'port'"),
        ("TORCHSHIP_SERVE_", "TORCHSHIP_SERVE_: expected one of paths, "),
    ],
)
def test_a_variable_that_is_no_setting_is_a_usage_error(
    variable: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHSHIP_SERVE_PORT", "9001")
    monkeypatch.setenv("torchship_serve_threads", "2")
    monkeypatch.setenv("TORCHSHIP_SERVES", "is not ours")
    settings = read_settings({})
    assert (settings.port, settings.threads) == (9001, 2)
    monkeypatch.setenv(variable, "1")
    with pytest.raises(UsageError, match=f"unknown setting the environment's {message}"):
        read_settings({})


def test_every_setting_is_shown_with_its_source(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHSHIP_SERVE_THREADS", "2")
    given: dict[str, object] = {"config": file, "max_queue": 9}
    found = {setting.name: setting for setting in show(read_settings(given), given)}
    assert list(found) == list(Settings.model_fields)
    said = {name: (found[name].value, found[name].source) for name in found}
    assert said["max_queue"] == (9, "--max-queue")
    assert said["threads"] == (2, "TORCHSHIP_SERVE_THREADS")
    assert said["port"] == (9001, str(file))
    assert said["paths"] == (["a.pt", "b"], str(file))
    assert said["host"] == ("127.0.0.1", "default")


def test_a_password_is_not_shown() -> None:
    assert without_secrets("redis://me:secret@cache:6379/0") == "redis://***@cache:6379/0"
    assert without_secrets("redis://cache:6379/0") == "redis://cache:6379/0"
    assert without_secrets(8000) == 8000


def test_show_config_prints_json_and_a_table() -> None:
    command = [sys.executable, "-m", "torchship", "serve", "--show-config", "--port", "9"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    content = json.loads(done.stdout)
    assert list(content) == list(Settings.model_fields)
    assert (content["port"]["value"], content["port"]["source"]) == (9, "--port")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for name in Settings.model_fields:
        assert name in done.stdout


class Imagined(BaseSettings):
    """Settings of every kind that a field may have."""

    number: int | None = Field(default=None, description="a number")
    many: tuple[str, ...] = Field(default=(), description="several words")
    mode: Literal["slow", "fast"] = Field(default="slow", description="how fast")
    exact: bool = Field(default=False, description="whether to be exact")
    mixed: int | Literal["all"] = Field(default="all", description="a number, or all")


def test_a_field_of_any_kind_is_a_flag() -> None:
    got: dict[str, object] = {}

    def command(**flags: object) -> None:
        got.update(flags)

    parameters = [options.parameter(name, field) for name, field in Imagined.model_fields.items()]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {}
    app = typer.Typer()
    app.command()(command)
    run = typer.testing.CliRunner()
    words = ["--many", "a", "--many", "b", "--mode", "fast", "--exact", "--mixed", "3"]
    assert run.invoke(app, words).exit_code == 0
    assert got == {"number": None, "many": ["a", "b"], "mode": "fast", "exact": True, "mixed": "3"}
    assert run.invoke(app, ["--mode", "odd"]).exit_code == 2
    assert run.invoke(app, ["--no-exact"]).exit_code == 0
    assert got["exact"] is False
