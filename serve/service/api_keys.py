"""API keys: which clients are served, and how often, over all transports together."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torchship.script.errors import UsageError
from torchship.serve.errors import RateError, UnauthorizedError
from torchship.serve.service.rate_limit import Clock, RateTable, TokenBucket

SHORTEST = 16  # characters of a key
HASHED = "sha256="
KEY = re.compile(r"[!-9;-~]+")  # what a header may carry, without the colon that ends it
BUCKET = 8  # bytes of a digest by which keys are found


@dataclass(frozen=True)
class ApiKey:
    """A key of which only the SHA-256 is known, and how many requests a second it may make."""

    name: str
    digest: bytes
    rate: float | None = None
    slot: int | None = None
    """The place of its rate among all rates of the server."""


def read_api_keys(path: Path) -> list[ApiKey]:
    """Read a file of lines `name:key` or `name:key:requests per second`.

    A key is itself, or `sha256=` and the 64 hexadecimal digits of its digest. Empty lines, and
    lines that begin with `#`, are passed over.

    Raises:
        UsageError: the file cannot be read, has no key, or a line does not fit; the message names
            the line and never shows a key.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"cannot read the API keys from '{path}': {reason}") from None
    keys: list[ApiKey] = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            key = _parse(f"'{path}' line {number}", line.strip())
            for other in keys:
                if other.name == key.name or other.digest == key.digest:
                    raise UsageError(
                        f"'{path}' line {number}: the name or the key of '{other.name}' again"
                    )
            keys.append(key)
    if not keys:
        raise UsageError(f"'{path}' has no API keys: expected lines name:key[:requests per second]")
    return keys


def _parse(where: str, line: str) -> ApiKey:
    name, _, rest = line.partition(":")
    key, _, rate_text = rest.partition(":")
    if not name or not KEY.fullmatch(key):
        raise UsageError(f"{where}: expected name:key[:requests per second]")
    rate = None
    if rate_text:
        try:
            rate = float(rate_text)
        except ValueError:
            rate = 0
        if not 0 < rate < float("inf"):
            raise UsageError(
                f"{where}: expected requests per second above 0 after the key of '{name}', "
                f"got {rate_text!r}"
            )
    if key.startswith(HASHED):
        digits = key.removeprefix(HASHED)
        if not re.fullmatch(r"[0-9a-fA-F]{64}", digits):
            raise UsageError(f"{where}: expected 64 hexadecimal digits after {HASHED} of '{name}'")
        return ApiKey(name, bytes.fromhex(digits), rate)
    if len(key) < SHORTEST:
        raise UsageError(
            f"{where}: the key of '{name}' is too short: expected at least {SHORTEST} characters, "
            f"got {len(key)}"
        )
    return ApiKey(name, hashlib.sha256(key.encode()).digest(), rate)


class KeyRing:
    """The keys that are known now, with the rate of each; one for all transports of a process."""

    def __init__(
        self,
        keys: Iterable[ApiKey],
        clock: Clock = time.monotonic,
        table: RateTable | None = None,
    ) -> None:
        """Accept these keys; processes that share a table share its rates."""
        self._clock = clock
        self._table = table
        self._keys: dict[bytes, tuple[ApiKey, TokenBucket | None]] = {}
        self.renew(keys)

    def renew(self, keys: Iterable[ApiKey]) -> None:
        """Accept these keys from now on, and no others."""
        # A digest's first bytes find the key, all of them are then compared in constant time.
        self._keys = {key.digest[:BUCKET]: (key, self._bucket(key)) for key in keys}

    def _bucket(self, key: ApiKey) -> TokenBucket | None:
        if key.rate is None:
            return None
        if self._table is None or key.slot is None:
            return TokenBucket(key.rate, self._clock)
        return self._table.bucket(key.slot, key.rate, self._clock)

    @property
    def names(self) -> set[str]:
        """The names of the keys that are known now."""
        return {key.name for key, _ in self._keys.values()}

    def admit(self, digest: bytes) -> str:
        """Let one request or message pass whose key is known now and is within its rate.

        Returns:
            The name of its key.

        Raises:
            UnauthorizedError, RateError: it is not.
        """
        known, bucket = self._keys.get(digest[:BUCKET], (None, None))
        if known is None or not hmac.compare_digest(known.digest, digest):
            raise UnauthorizedError("the API key is unknown")
        wait = 0.0 if bucket is None else bucket.take()
        if wait:
            raise RateError(
                f"API key '{known.name}' may make {known.rate:g} requests a second", wait
            )
        return known.name


def digest_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the digest of the key that a request brings in its header fields.

    Raises:
        UnauthorizedError: it brings none.
    """
    key = key_of(headers)
    if key is None:
        raise UnauthorizedError(
            "no API key: expected 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"
        )
    return hashlib.sha256(key).digest()


def digest_of_encoded(text: str) -> bytes:
    """Return the digest of a key in base64url without padding.

    Raises:
        UnauthorizedError: it is something else; the message does not show it.
    """
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:  # also what is not ASCII
        raise UnauthorizedError(
            "the WebSocket's subprotocol 'torchship.key.…': expected the API key in base64url "
            "without padding after it"
        ) from None
    return hashlib.sha256(key).digest()


def key_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """Return the key that a request brings in its header fields; None if it brings none."""
    found = None
    for name, value in headers:
        if name == b"authorization":
            scheme, _, key = value.partition(b" ")
            if scheme.lower() == b"bearer":
                return key.strip()
        elif name == b"x-api-key" and found is None:
            found = value
    return found
