"""The commands that make and show archives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import zoo
from torchship.__main__ import application
from torchship.script.errors import ArchiveError, UsageError
from torchship.script.format.signing import check_signature, read_trusted_keys
from torchship.script.runtime.archive import open_archive

MY_MODULE = """
import torch


class Scale(torch.nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor, h: torch.Tensor):
        h = torch.tanh(h + x)
        return h * self.factor, h


def make_model(factor: float = 2.0):
    return Scale(factor).eval()


def examples():
    return [{"x": torch.randn(n, 3), "h": torch.randn(n, 3)} for n in (2, 3)]
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(application(), [str(argument) for argument in arguments])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with a package of a user's own."""
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "my_module.py").write_text(MY_MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_model_of_ours_by_name(here: Path) -> None:
    result = run("script", "fizzbuzz", "-o", "fizzbuzz.pt")
    assert result.exit_code == 0, result.output
    assert "fizzbuzz.pt: " in result.output
    manifest = open_archive(here / "fizzbuzz.pt").require_manifest()
    assert manifest.source.factory == "torchship.models.fizzbuzz:fizzbuzz"
    assert manifest.labels == {"scores": ("number", "fizz", "buzz", "fizzbuzz")}


def test_a_module_of_the_current_folder_with_every_option(here: Path) -> None:
    result = run(
        *("script", "my_package.my_module:make_model"),
        *("--example", "my_package.my_module:examples", "-o", "mine.pt"),
        *("--kwarg", "factor=3.0", "--name", "mine", "--version", "7", "--description", "mine own"),
        *("--dim", "x.0=batch", "--outputs", "y,h", "--state", "h=h:zeros"),
    )
    assert result.exit_code == 0, result.output
    archive = open_archive(here / "mine.pt")
    manifest = archive.require_manifest()
    assert (manifest.name, manifest.version, manifest.description) == ("mine", "7", "mine own")
    assert manifest.source.kwargs == {"factor": 3.0}
    assert manifest.methods["forward"].state[0].model_dump() == {
        "input": "h",
        "output": "h",
        "start": "zeros",
    }
    outputs = archive.program().call("forward", {"x": zoo.noise(1, 4, 3)})
    assert outputs["y"].equal(outputs["h"] * 3.0)


def test_the_name_of_the_file_follows_from_the_model(here: Path) -> None:
    assert run("script", "fizzbuzz", "--name", "game").exit_code == 0
    assert (here / "game.pt").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kwarg", "factor"], "--kwarg 'factor': expected KEY=VALUE"),
        (["--dim", "x.0"], "--dim 'x.0': expected KEY=VALUE"),
        (["--state", "h=h:ones"], "--state start 'ones': expected zeros or absent"),
        (["--mode", "freeze"], "--mode 'freeze': expected script or trace"),
    ],
)
def test_options_that_are_wrong(here: Path, arguments: list[str], message: str) -> None:
    result = run("script", "fizzbuzz", *arguments)
    assert isinstance(result.exception, UsageError)
    assert str(result.exception) == message
    assert list(here.glob("*.pt")) == []


def test_inspect_shows_what_is_in_the_archive(here: Path) -> None:
    run("script", "fizzbuzz")
    shown = run("inspect", "fizzbuzz.pt").output
    for part in (
        "fizzbuzz version 1",
        "(x: float32[batch,10]) -> scores: float32[batch,4]",
        "number, fizz, buzz, fizzbuzz",
        "records checked (SHA-256)",
        "none",
        "def forward(self,",
        "data.pkl",
    ):
        assert part in shown
    document = json.loads(run("inspect", "fizzbuzz.pt", "--json").output)
    assert document["manifest"]["name"] == "fizzbuzz"
    assert document["bytes"] == (here / "fizzbuzz.pt").stat().st_size
    assert document["digests_checked"] is True
    assert "def forward(self," in document["code"]


def test_inspect_reports_a_plain_file_as_unverified(here: Path) -> None:
    import torch

    with pytest.warns(zoo.TORCHSCRIPT_NOTICE):
        torch.jit.save(torch.jit.script(zoo.linear()), "plain.pt")
    result = run("inspect", "plain.pt")
    assert result.exit_code == 0
    assert "nothing vouches for it" in result.output
    assert json.loads(run("inspect", "plain.pt", "--json").output)["manifest"] is None


def test_keygen_sign_and_inspect_with_trusted_keys(here: Path) -> None:
    run("script", "fizzbuzz")
    assert run("keygen", "release.key", "release.pub").exit_code == 0
    result = run("inspect", "fizzbuzz.pt", "--trusted-keys", "release.pub")
    assert isinstance(result.exception, ArchiveError)
    assert run("sign", "fizzbuzz.pt", "--key", "release.key").exit_code == 0
    assert "there, not checked" in run("inspect", "fizzbuzz.pt").output
    result = run("inspect", "fizzbuzz.pt", "--trusted-keys", "release.pub")
    assert "by a trusted key" in result.output


def test_a_library_is_signed_as_it_is(here: Path) -> None:
    run("keygen", "release.key", "release.pub")
    (here / "model.so").write_bytes(b"\x7fELF")
    assert run("sign", "model.so", "--key", "release.key").exit_code == 0
    check_signature(here / "model.so", b"\x7fELF", read_trusted_keys(here / "release.pub"))


def test_a_damaged_archive_is_not_signed(here: Path) -> None:
    run("script", "fizzbuzz")
    run("keygen", "release.key", "release.pub")
    data = bytearray((here / "fizzbuzz.pt").read_bytes())
    data[300] ^= 1
    (here / "fizzbuzz.pt").write_bytes(data)
    result = run("sign", "fizzbuzz.pt", "--key", "release.key")
    assert isinstance(result.exception, ArchiveError)
    assert not (here / "fizzbuzz.pt.sig").exists()


@pytest.mark.parametrize(
    "command", ["script", "inspect", "keygen", "sign", "verify", "serve", "train", "models", "demo"]
)
def test_every_command_has_help_with_an_example(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"torchship {command}" in result.output
