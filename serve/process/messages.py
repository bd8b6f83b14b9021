"""The messages between the supervisor and its workers: JSON, validated by these models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from torchship.script.errors import TorchShipError
from torchship.serve import errors
from torchship.serve.telemetry.samples import MetricFamily


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def encoded(self) -> bytes:
        """Return the message as JSON."""
        return self.model_dump_json().encode()


class Key(_Message):
    """An API key, stored as its digest; `slot` is its index in the rate table, or None."""

    name: str
    digest: str
    """SHA-256 in hexadecimal digits."""
    rate: float | None
    slot: int | None


class Certificate(_Message):
    """A TLS certificate chain and its private key, as PEM."""

    chain: str
    key: str | None


class Credentials(_Message):
    """The keys and certificates that the supervisor has read and checked for all workers."""

    api_keys: tuple[Key, ...] | None = None
    certificate: Certificate | None = None
    trusted_keys: tuple[str, ...] | None = None
    """Ed25519 public keys: 32 bytes each, in hexadecimal digits."""


class Failure(_Message):
    """An error in a form that can be sent: the code of its class, and its text."""

    code: str
    text: str

    @staticmethod
    def of(error: Exception) -> Failure:
        """Return the failure for an error; unexpected ones get the code `internal`."""
        if isinstance(error, TorchShipError):
            return Failure(code=error.code, text=str(error))
        return Failure(code="internal", text=str(error))

    def error(self) -> Exception:
        """Return the error again, for the receiver to raise."""
        kind = _KINDS.get(self.code)
        return RuntimeError(self.text) if kind is None else kind(self.text)


_KINDS: dict[str, type[TorchShipError]] = {
    kind.code: kind
    for kind in (
        *(errors.LoadError, errors.ModeError, errors.NotReadyError, errors.UnknownModelError),
    )
}


class Start(_Message):
    """The first message to a worker."""

    kind: Literal["start"] = "start"
    settings: str
    """JSON as a string, because paths may not be UTF-8 and limits may not be finite."""
    number: int
    cores: tuple[int, ...]
    early: bool
    """Listen before the archives are loaded, and check that settings and archives fit."""
    pinned: dict[str, str]
    """Digests of the archives that the other workers serve, by `name/version`."""
    quarantine: dict[str, str]
    """Why archives must not be served, by digest."""
    credentials: Credentials
    addresses: dict[str, str] = {}
    """Where the archives below a folder come from, if from a store: for messages."""


class Listen(_Message):
    """The worker must accept connections from now on."""

    kind: Literal["listen"] = "listen"


class Change(_Message):
    """A model must be loaded or unloaded: sent by one worker, and then to all of them."""

    kind: Literal["change"] = "change"
    id: str
    what: Literal["load", "unload"]
    model: str


class Outcome(_Message):
    """The result of a change: from each worker, and then of all for the worker that asked."""

    kind: Literal["outcome"] = "outcome"
    id: str
    failure: Failure | None
    digests: dict[str, str] = {}
    """Digests of the archives that the worker now serves, by `name/version`."""


class Renew(_Message):
    """Keys and certificates were read again."""

    kind: Literal["renew"] = "renew"
    credentials: Credentials


class Quarantine(_Message):
    """An archive must not be served any more."""

    kind: Literal["quarantine"] = "quarantine"
    digest: str
    reason: str


class SamplesWanted(_Message):
    """A worker asks for the metrics of all workers, or the supervisor for those of one."""

    kind: Literal["samples_wanted"] = "samples_wanted"
    id: str


class Samples(_Message):
    """The metrics of one worker, or of all."""

    kind: Literal["samples"] = "samples"
    id: str
    families: list[MetricFamily]


class Refused(_Message):
    """The worker cannot start: a setting, or a file that one names, is invalid."""

    kind: Literal["refused"] = "refused"
    text: str


class Listening(_Message):
    """The worker accepts connections."""

    kind: Literal["listening"] = "listening"
    url: str


class Loaded(_Message):
    """The start is complete: each archive is live, has failed, or waits for its disk."""

    kind: Literal["loaded"] = "loaded"
    summary: tuple[str, ...]
    """Lines for the user."""
    live: dict[str, str]
    """Digests of the live archives, by `name/version`."""


class ReportLine(_Message):
    """A line for the user: a model became live, was unloaded, or failed."""

    kind: Literal["report_line"] = "report_line"
    line: str


class OnLoop(_Message):
    """An engine may run on the worker's event loop from now on; see `heartbeat`."""

    kind: Literal["on_loop"] = "on_loop"
    engine: int
    name: str
    digest: str


class ArchiveLoading(_Message):
    """Loading and verifying an archive begins or has ended."""

    kind: Literal["archive_loading"] = "archive_loading"
    name: str
    digest: str
    begins: bool


class Hung(_Message):
    """A call on a model's thread took too long: the model is out of service in this worker."""

    kind: Literal["hung"] = "hung"
    digest: str
    reason: str


ToWorker = Start | Listen | Change | Outcome | Renew | Quarantine | SamplesWanted | Samples
FromWorker = (
    Refused
    | Listening
    | Loaded
    | ReportLine
    | Change
    | Outcome
    | OnLoop
    | ArchiveLoading
    | Hung
    | SamplesWanted
    | Samples
)

_TO_WORKER: TypeAdapter[ToWorker] = TypeAdapter(Annotated[ToWorker, Field(discriminator="kind")])
_FROM_WORKER: TypeAdapter[FromWorker] = TypeAdapter(
    Annotated[FromWorker, Field(discriminator="kind")]
)


class MessageError(ValueError):
    """The bytes from a channel are not a valid message."""


def to_worker(data: bytes) -> ToWorker:
    """Read a message from the supervisor.

    Raises:
        MessageError: it is none.
    """
    message: ToWorker = _read(_TO_WORKER, data)
    return message


def from_worker(data: bytes) -> FromWorker:
    """Read a message from a worker.

    Raises:
        MessageError: it is none.
    """
    message: FromWorker = _read(_FROM_WORKER, data)
    return message


def _read(adapter: TypeAdapter[Any], data: bytes) -> Any:
    try:
        return adapter.validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise MessageError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
