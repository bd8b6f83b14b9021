"""`torchship push` and `torchship pull` against a real S3."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from object_store import BUCKET, ObjectStore
from served import make
from stored import ADDRESS, archive_bytes
from torchship.script.errors import ArchiveError, TorchShipError, UsageError
from torchship.script.format.signing import make_key, sign
from torchship.serve.errors import NotInStoreError, StoreError
from torchship.transfer import app

Run = Callable[..., str]


def run(*said: object) -> str:
    """Run a command in this process; return what it prints, or raise what it raises."""
    result = CliRunner().invoke(app, [str(part) for part in said])
    if isinstance(result.exception, TorchShipError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return str(result.stdout)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return make(tmp_path, "memory", file="memory.pt")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    make_key(tmp_path / "private.pem", tmp_path / "public.pem")
    return tmp_path / "public.pem"


def test_what_is_pushed_can_be_pulled(
    s3: ObjectStore, archive: Path, keys: Path, tmp_path: Path
) -> None:
    signature = sign(archive, tmp_path / "private.pem").read_bytes()
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    size = archive.stat().st_size
    line = f"{ADDRESS}/memory.pt: {size:,} bytes, signed, sha256:{digest}\n"
    assert run("push", archive, f"{ADDRESS}/", "--trusted-keys", keys) == line
    assert s3.get("models/memory.pt") == archive.read_bytes()
    assert s3.get("models/memory.pt.sig") == signature
    (pulled,) = json.loads(run("pull", ADDRESS, tmp_path / "here", "--json"))
    assert pulled == {
        "archive": str(tmp_path / "here" / "memory.pt"),
        "address": f"{ADDRESS}/memory.pt",
        "model": "memory",
        "version": "1",
        "digest": digest,
        "bytes": size,
        "signed": True,
        "changed": True,
    }
    assert (tmp_path / "here" / "memory.pt").read_bytes() == archive.read_bytes()
    assert (tmp_path / "here" / "memory.pt.sig").read_bytes() == signature
    assert sorted(os.listdir(tmp_path / "here")) == ["memory.pt", "memory.pt.sig"]
    assert "it was there already" in run("pull", ADDRESS, tmp_path / "here")
    assert "it was there already" in run("push", archive, f"{ADDRESS}/memory.pt")


def test_the_signature_is_there_before_the_archive(
    s3: ObjectStore, archive: Path, keys: Path, tmp_path: Path
) -> None:
    sign(archive, tmp_path / "private.pem")
    run("push", archive, ADDRESS)
    puts = [line.rsplit("/", 1)[1] for line in s3.asked if line.startswith("PUT")]
    assert puts == ["memory.pt.sig", "memory.pt"]


def test_another_content_is_replaced_only_if_told(
    s3: ObjectStore, archive: Path, keys: Path, tmp_path: Path
) -> None:
    sign(archive, tmp_path / "private.pem")
    run("push", archive, ADDRESS)
    run("pull", ADDRESS, tmp_path / "here")
    old = archive.read_bytes()
    archive.write_bytes(archive_bytes(tmp_path / "here", 1))
    archive.with_name("memory.pt.sig").unlink()
    with pytest.raises(UsageError, match=r"memory.pt is there with another content, .*--force"):
        run("push", archive, ADDRESS)
    assert s3.get("models/memory.pt") == old
    assert "signed" not in run("push", archive, ADDRESS, "--force")
    assert s3.keys() == ["models/memory.pt"], "the signature of another archive is removed"
    with pytest.raises(UsageError, match=r"memory.pt' is there with another content: --force"):
        run("pull", ADDRESS, tmp_path / "here")
    assert (tmp_path / "here" / "memory.pt").read_bytes() == old
    run("pull", ADDRESS, tmp_path / "here", "--force")
    assert (tmp_path / "here" / "memory.pt").read_bytes() == archive.read_bytes()
    assert os.listdir(tmp_path / "here") == ["memory.pt"]


def test_nothing_is_uploaded_if_one_archive_is_bad(
    s3: ObjectStore, archive: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.pt"
    bad.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(ArchiveError, match=r"bad\.pt"):
        run("push", archive, bad, ADDRESS)
    (tmp_path / "memory.pt.sig").write_bytes(b"none")
    with pytest.raises(UsageError, match="is not an Ed25519 signature"):
        run("push", archive, ADDRESS)
    assert s3.keys() == []


def test_nothing_is_left_of_a_pull_that_fails(
    s3: ObjectStore, archive: Path, keys: Path, tmp_path: Path
) -> None:
    s3.put("models/a.pt", archive.read_bytes())
    s3.put("models/b.pt", archive.read_bytes()[:-100])
    with pytest.raises(ArchiveError, match=r"b\.pt"):
        run("pull", ADDRESS, tmp_path / "here")
    with pytest.raises(ArchiveError, match=r"not signed"):
        run("pull", f"{ADDRESS}/a.pt", tmp_path / "here", "--trusted-keys", keys)
    s3.fault = lambda environ: "cut" if environ["LINE"].endswith("/a.pt") else ""
    with pytest.raises(StoreError):
        run("pull", f"{ADDRESS}/a.pt", tmp_path / "here", "--seconds", 2)
    assert os.listdir(tmp_path / "here") == []


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        (["push", "{archive}", "{archive}", ADDRESS], UsageError, "have the same name"),
        (["push", "{archive}", "ssh://host/models"], UsageError, "begins with one of"),
        (["push", "{archive}", f"s3://{BUCKET}-other/models"], StoreError, "not exist"),
        (["push", "{archive}", "https://host.invalid/m"], UsageError, "takes no archives"),
        (["pull", f"{ADDRESS}/none.pt"], NotInStoreError, "there is no archive"),
        (["pull", ADDRESS], NotInStoreError, "there is no archive"),
        (["pull", f"s3://{BUCKET}-other"], NotInStoreError, "it is not there"),
    ],
)
def test_what_cannot_be_is_one_message(
    s3: ObjectStore, archive: Path, said: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(*(part.format(archive=archive) for part in said))


def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path: Path) -> None:
    (tmp_path / "s3fs.py").write_text("raise ModuleNotFoundError('no', name='s3fs')")
    done = subprocess.run(
        [sys.executable, "-m", "torchship", "pull", ADDRESS, tmp_path],
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == (
        f"torchship: error: {ADDRESS}: the package 's3fs' is not installed: "
        "pip install 'torchship[s3]'\n"
    )
