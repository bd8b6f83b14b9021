"""Keys and certificates: read once by the supervisor, checked, and handed to every worker.

A worker never opens these files. So a file that is edited, or broken for a moment, changes nothing
until the supervisor is asked to read it again (SIGHUP), and then it changes in all workers or none.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from torchship.script.errors import UsageError
from torchship.serve.http.auth import ApiKey, read_api_keys
from torchship.serve.http.rate_limit import SLOTS
from torchship.serve.process.messages import Certificate, Credentials, Key
from torchship.serve.settings import Settings


def read_credentials(settings: Settings, before: Credentials | None = None) -> Credentials:
    """Read the files that the settings name, and check what is in them.

    A key that was there before keeps the slot of its rate: what it has used up stays used up.

    Raises:
        UsageError: a file cannot be read, or what it holds cannot be used; naming it.
    """
    return Credentials(
        api_keys=_api_keys(settings.api_keys, before) if settings.api_keys else None,
        certificate=_certificate(settings),
        trusted_keys=_trusted_keys(settings.trusted_keys) if settings.trusted_keys else None,
    )


def api_keys_of(keys: tuple[Key, ...]) -> list[ApiKey]:
    """Return the keys as `auth` knows them."""
    return [ApiKey(key.name, bytes.fromhex(key.digest), key.rate, key.slot) for key in keys]


def use(certificate: Certificate, context: ssl.SSLContext) -> None:
    """Have a TLS context use a certificate and key from now on.

    Raises:
        OSError, ValueError: they are no PEM, or do not belong together.
    """
    with ExitStack() as stack:
        chain = stack.enter_context(_file_of(certificate.chain))
        key = certificate.key and stack.enter_context(_file_of(certificate.key))
        context.load_cert_chain(chain, key, password="")  # rather than to ask for one


@contextmanager
def _file_of(text: str) -> Iterator[str]:
    """Have a text as a file, in memory if possible: Python's `ssl` takes certificates as paths."""
    if not hasattr(os, "memfd_create"):
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(text)
            file.flush()
            yield file.name
        return
    number = os.memfd_create("pem")
    try:
        os.write(number, text.encode())
        yield f"/proc/self/fd/{number}"
    finally:
        os.close(number)


def _api_keys(path: Path, before: Credentials | None) -> tuple[Key, ...]:
    known = read_api_keys(path)
    slots = _slots(known, {k.name: k.slot for k in (before and before.api_keys) or ()})
    return tuple(
        Key(name=key.name, digest=key.digest.hex(), rate=key.rate, slot=slots.get(key.name))
        for key in known
    )


def _slots(keys: list[ApiKey], before: Mapping[str, int | None]) -> dict[str, int]:
    rated = [key.name for key in keys if key.rate is not None]
    if len(rated) > SLOTS:
        raise UsageError(f"{len(rated)} API keys have a rate: expected at most {SLOTS}")
    slots = {name: slot for name in rated if (slot := before.get(name)) is not None}
    free = iter(sorted(set(range(len(rated) + len(slots))) - set(slots.values())))
    return {name: slots[name] if name in slots else next(free) for name in rated}


def _certificate(settings: Settings) -> Certificate | None:
    """Read a certificate and key, and refuse those that cannot be used, before anything begins.

    Raises:
        UsageError: a key without a certificate; a file that cannot be read, is no PEM, or does
            not belong to the other.
    """
    if settings.tls_cert is None:
        if settings.tls_key is not None:
            raise UsageError("--tls-key was given without --tls-cert: expected both")
        return None
    files = " and ".join(f"'{f}'" for f in (settings.tls_cert, settings.tls_key) if f)
    try:
        certificate = Certificate(
            chain=settings.tls_cert.read_text(encoding="ascii", errors="replace"),
            key=settings.tls_key.read_text(encoding="ascii", errors="replace")
            if settings.tls_key
            else None,
        )
        use(certificate, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise UsageError(f"cannot use the certificate and key of {files}: {reason}") from None
    return certificate


def _trusted_keys(path: Path) -> tuple[str, ...]:
    from torchship.script.format.signing import (
        read_trusted_keys,  # 10 MB that most servers do not need
    )

    return tuple(key.public_bytes_raw().hex() for key in read_trusted_keys(path))
