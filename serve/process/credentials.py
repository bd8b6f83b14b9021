"""Keys and certificates: the supervisor reads and checks them, and sends them to every worker.

A worker never opens these files. An edited file therefore has no effect until SIGHUP makes the
supervisor read it again, and then it takes effect in all workers or in none.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from torchship.script.errors import UsageError
from torchship.serve.process.messages import Certificate, Credentials, Key
from torchship.serve.service.api_keys import ApiKey, read_api_keys
from torchship.serve.service.rate_limit import SLOTS
from torchship.serve.settings import Settings


def read_credentials(settings: Settings, before: Credentials | None = None) -> Credentials:
    """Read and check the files that the settings name.

    A key that existed in `before` keeps the slot of its rate limit, so that its used quota stays.

    Raises:
        UsageError: a file cannot be read or its content is invalid; the message names the file.
    """
    return Credentials(
        api_keys=_api_keys(settings.api_keys, before) if settings.api_keys else None,
        certificate=_certificate(settings),
        trusted_keys=_trusted_keys(settings.trusted_keys) if settings.trusted_keys else None,
    )


def api_keys_of(keys: tuple[Key, ...]) -> list[ApiKey]:
    """Return the keys in the form that `auth` uses."""
    return [ApiKey(key.name, bytes.fromhex(key.digest), key.rate, key.slot) for key in keys]


def use(certificate: Certificate, context: ssl.SSLContext) -> None:
    """Load a certificate and key into a TLS context.

    Raises:
        OSError, ValueError: they are not PEM, or do not belong together.
    """
    with ExitStack() as stack:
        chain = stack.enter_context(_file_of(certificate.chain))
        key = certificate.key and stack.enter_context(_file_of(certificate.key))
        context.load_cert_chain(chain, key, password="")  # without it OpenSSL would ask for one


@contextmanager
def _file_of(text: str) -> Iterator[str]:
    """Yield the path of a file with this text, in memory if possible: `ssl` accepts only paths."""
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
    """Read a certificate and key, and check that TLS can use them.

    Raises:
        UsageError: a key without a certificate; a file that cannot be read or is not PEM; a key
            that does not belong to the certificate.
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
        read_trusted_keys,  # the import costs 10 MB, which most servers do not need
    )

    return tuple(key.public_bytes_raw().hex() for key in read_trusted_keys(path))
