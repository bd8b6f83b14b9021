"""Detached signatures, which are checked before an archive is parsed."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

import zoo
from torchship.script.errors import ArchiveError, UsageError
from torchship.script.exporting.export import export
from torchship.script.format.signing import make_key, read_trusted_keys, sign
from torchship.script.runtime.archive import open_archive


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    export(zoo.target(zoo.linear, zoo.rows), tmp_path / "a.pt")
    make_key(tmp_path / "key", tmp_path / "pub")
    assert sign(tmp_path / "a.pt", tmp_path / "key") == tmp_path / "a.pt.sig"
    return tmp_path


def keys(folder: Path) -> list[Ed25519PublicKey]:
    return read_trusted_keys(folder / "pub")


def test_a_signed_archive_opens_with_its_key(signed: Path) -> None:
    assert open_archive(signed / "a.pt", keys(signed)).require_manifest().name == "zoo"
    assert len((signed / "a.pt.sig").read_bytes()) == 64


def test_the_private_key_is_for_its_owner_only(signed: Path) -> None:
    assert stat.S_IMODE((signed / "key").stat().st_mode) == 0o600


def test_one_of_several_keys_is_enough(signed: Path) -> None:
    make_key(signed / "other", signed / "other.pub")
    both = (signed / "other.pub").read_bytes() + (signed / "pub").read_bytes()
    (signed / "both.pub").write_bytes(both)
    open_archive(signed / "a.pt", read_trusted_keys(signed / "both.pub"))


def test_another_key_is_refused(signed: Path) -> None:
    make_key(signed / "other", signed / "other.pub")
    with pytest.raises(ArchiveError, match="fits none of the 1 trusted keys"):
        open_archive(signed / "a.pt", read_trusted_keys(signed / "other.pub"))


def test_a_changed_file_is_refused_before_it_is_parsed(signed: Path) -> None:
    (signed / "a.pt").write_bytes(b"this is not even a zip")
    with pytest.raises(ArchiveError, match="fits none of the 1 trusted keys"):
        open_archive(signed / "a.pt", keys(signed))


def test_a_missing_signature_is_refused(signed: Path) -> None:
    (signed / "a.pt.sig").unlink()
    with pytest.raises(ArchiveError, match=r"is not signed: expected a signature in 'a\.pt\.sig'"):
        open_archive(signed / "a.pt", keys(signed))
    open_archive(signed / "a.pt")


def test_a_signature_of_another_length_is_refused(signed: Path) -> None:
    (signed / "a.pt.sig").write_bytes(b"short")
    with pytest.raises(ArchiveError, match="expected 64 bytes, got 5"):
        open_archive(signed / "a.pt", keys(signed))


def test_a_key_is_never_overwritten(signed: Path) -> None:
    before = (signed / "key").read_bytes()
    with pytest.raises(UsageError, match="is already there"):
        make_key(signed / "key", signed / "new.pub")
    assert (signed / "key").read_bytes() == before
    assert not (signed / "new.pub").exists()


def test_keys_that_are_no_ed25519_keys(tmp_path: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (tmp_path / "rsa").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    (tmp_path / "rsa.pub").write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    (tmp_path / "text").write_text("hello")
    (tmp_path / "a.pt").write_bytes(b"x")
    with pytest.raises(UsageError, match="expected an Ed25519 key, got RSA"):
        sign(tmp_path / "a.pt", tmp_path / "rsa")
    with pytest.raises(UsageError, match="expected Ed25519 keys, got RSA"):
        read_trusted_keys(tmp_path / "rsa.pub")
    with pytest.raises(UsageError, match="is not a PEM private key"):
        sign(tmp_path / "a.pt", tmp_path / "text")
    with pytest.raises(UsageError, match="holds no PEM PUBLIC KEY block"):
        read_trusted_keys(tmp_path / "text")
    with pytest.raises(UsageError, match="cannot read"):
        sign(tmp_path / "a.pt", tmp_path / "nothing")
    with pytest.raises(UsageError, match="cannot read the trusted keys"):
        read_trusted_keys(tmp_path / "nothing")
