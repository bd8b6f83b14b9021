"""The messages between the supervisor and the process that mirrors stores: validated JSON."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from torchship.serve.process.messages import Credentials
from torchship.serve.settings import LogFormat, LogLevel


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def encoded(self) -> bytes:
        """Return the message as JSON."""
        return self.model_dump_json().encode()


class Mirrored(_Message):
    """One address, and the local folder that shows what is there."""

    address: str
    """With the secrets of a presigned URL."""
    folder: str


class StartMirrors(_Message):
    """The first message to the process."""

    kind: Literal["start"] = "start"
    mirrors: tuple[Mirrored, ...]
    cache: str
    cache_bytes: int
    seconds: float
    """For which a store may send nothing."""
    poll_seconds: float | None
    """None to look only when asked."""
    strict: bool
    """Whether everything that the stores have must be there at the start."""
    credentials: Credentials
    log_format: LogFormat
    log_level: LogLevel


class RenewKeys(_Message):
    """The trusted keys were read again."""

    kind: Literal["renew"] = "renew"
    credentials: Credentials


class Look(_Message):
    """Look at all stores now, and say when that is done."""

    kind: Literal["look"] = "look"
    id: str


class Looked(_Message):
    """All stores were looked at: at the start, with the id "", or when asked."""

    kind: Literal["looked"] = "looked"
    id: str
    failure: str = ""
    """Why the server cannot start; "" if it can."""


ToMirrors = StartMirrors | RenewKeys | Look

_TO_MIRRORS: TypeAdapter[ToMirrors] = TypeAdapter(Annotated[ToMirrors, Field(discriminator="kind")])


def to_mirrors(data: bytes) -> ToMirrors:
    """Read a message from the supervisor.

    Raises:
        ValueError: it is none.
    """
    message: ToMirrors = _TO_MIRRORS.validate_json(data)
    return message


def from_mirrors(data: bytes) -> Looked:
    """Read a message from the process that mirrors stores.

    Raises:
        ValueError: it is none.
    """
    return Looked.model_validate_json(data)
