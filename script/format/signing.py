"""Detached Ed25519 signatures over whole archive files (RFC 8032; docs/archive.md)."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from torchship.script.errors import ArchiveError, UnreadableError, UsageError
from torchship.script.format.atomic_write import write_atomic
from torchship.script.format.file_content import read_blocks

LENGTH = 64  # bytes of an Ed25519 signature
PEM_BLOCK = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)


def signature_path(archive: Path) -> Path:
    """Return the path of an archive's signature: `<file>.sig`."""
    return archive.with_name(archive.name + ".sig")


def make_key(private: Path, public: Path) -> None:
    """Write a new key pair as PEM; never overwrite a file.

    Raises:
        UsageError: one of the files exists already.
    """
    for path in (private, public):
        if path.exists():
            raise UsageError(f"'{path}' is already there: expected a new file for the key")
    key = Ed25519PrivateKey.generate()
    write_atomic(
        private, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), mode=0o600
    )
    write_atomic(
        public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )


def sign(archive: Path, private: Path) -> Path:
    """Write the archive's signature beside it and return its path.

    Raises:
        UsageError: a file cannot be read, or the key is not a PEM Ed25519 private key.
    """
    try:
        key = load_pem_private_key(private.read_bytes(), password=None)
        data = b"".join(read_blocks(archive))
    except OSError as error:
        raise UsageError(f"cannot read '{error.filename}': {error.strerror}") from None
    except ArchiveError as error:
        raise UsageError(str(error)) from None
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(f"'{private}' is not a PEM private key: {error}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"'{private}': expected an Ed25519 key, got {type(key).__name__}")
    path = signature_path(archive)
    write_atomic(path, key.sign(data))
    return path


def read_trusted_keys(path: Path) -> list[Ed25519PublicKey]:
    """Read the PEM `PUBLIC KEY` blocks of a file.

    Raises:
        UsageError: the file cannot be read, has no key, or one that is not Ed25519.
    """
    try:
        blocks = PEM_BLOCK.findall(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read the trusted keys '{path}': {error.strerror}") from None
    keys = []
    for block in blocks:
        try:
            key = load_pem_public_key(block)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise UsageError(f"'{path}' holds a broken public key: {error}") from None
        if not isinstance(key, Ed25519PublicKey):
            raise UsageError(f"'{path}': expected Ed25519 keys, got {type(key).__name__}")
        keys.append(key)
    if not keys:
        raise UsageError(f"'{path}' holds no PEM PUBLIC KEY block: expected at least one")
    return keys


def check_signature(
    archive: Path, data: bytes | memoryview, keys: Sequence[Ed25519PublicKey]
) -> None:
    """Check the signature in `<archive>.sig` against the archive's bytes.

    Raises:
        UnreadableError: the system refuses to read the signature.
        ArchiveError: the signature is missing, malformed, or by none of the keys.
    """
    path = signature_path(archive)
    try:
        os.lstat(path)
    except FileNotFoundError:
        raise ArchiveError(
            f"'{os.fspath(archive)}' is not signed: expected a signature in '{path.name}'"
        ) from None
    except OSError as error:
        raise UnreadableError(f"cannot read '{path}': {error.strerror}") from None
    signature = next(read_blocks(path), b"")
    if len(signature) != LENGTH:
        raise ArchiveError(
            f"'{path.name}' is not an Ed25519 signature: expected {LENGTH} bytes, "
            f"got {len(signature)}"
        )
    for key in keys:
        try:
            key.verify(signature, data)
        except InvalidSignature:
            continue
        return
    raise ArchiveError(
        f"the signature '{path.name}' fits none of the {len(keys)} trusted keys: "
        "the archive was changed after signing, or signed by someone else"
    )
