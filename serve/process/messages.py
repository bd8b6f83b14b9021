"""What the supervisor and its workers say to each other: JSON, checked against these models."""

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
    """An API key, known by its digest; `slot` is its place among all rates, None without one."""

    name: str
    digest: str
    """SHA-256, in hexadecimal digits."""
    rate: float | None
    slot: int | None


class Certificate(_Message):
    """A TLS certificate with those that vouch for it, and its private key, as PEM."""

    chain: str
    key: str | None


class Credentials(_Message):
    """What the supervisor has read from files, once for all workers, and checked."""

    api_keys: tuple[Key, ...] | None = None
    certificate: Certificate | None = None
    trusted_keys: tuple[str, ...] | None = None
    """Ed25519 public keys, as the hexadecimal digits of their 32 bytes."""


class Failure(_Message):
    """An error on its way to another process: its kind's code, and its text."""

    code: str
    text: str

    @staticmethod
    def of(error: Exception) -> Failure:
        """Return what can be said of an error; of one that was not foreseen only that it was."""
        if isinstance(error, TorchShipError):
            return Failure(code=error.code, text=str(error))
        return Failure(code="internal", text=str(error))

    def error(self) -> Exception:
        """Return the error that it was."""
        kind = _KINDS.get(self.code)
        return RuntimeError(self.text) if kind is None else kind(self.text)


_KINDS: dict[str, type[TorchShipError]] = {
    kind.code: kind
    for kind in (
        *(errors.LoadError, errors.ModeError, errors.NotReadyError, errors.UnknownModelError),
    )
}


class Start(_Message):
    """What a worker is told first."""

    kind: Literal["start"] = "start"
    settings: str
    """As a JSON text of its own: paths need not be UTF-8, and limits not be finite."""
    number: int
    cores: tuple[int, ...]
    early: bool
    """Listen before the archives are loaded, and check whether settings and archives fit."""
    pinned: dict[str, str]
    """Digests of the archives that the other workers have, by `name/version`."""
    quarantine: dict[str, str]
    """Why archives of these digests are not served."""
    credentials: Credentials


class Listen(_Message):
    """The worker is to accept connections."""

    kind: Literal["listen"] = "listen"


class Change(_Message):
    """A model is to be loaded or unloaded: asked by one worker, and then told to all."""

    kind: Literal["change"] = "change"
    id: str
    what: Literal["load", "unload"]
    model: str


class Outcome(_Message):
    """What came of a change: in a worker, and then, over all, for the one that asked."""

    kind: Literal["outcome"] = "outcome"
    id: str
    failure: Failure | None
    digests: dict[str, str] = {}
    """Of what a worker has now of the model, by `name/version`."""


class Renew(_Message):
    """Keys and certificates have been read again."""

    kind: Literal["renew"] = "renew"
    credentials: Credentials


class Quarantine(_Message):
    """An archive is not to be served any more, wherever it is live."""

    kind: Literal["quarantine"] = "quarantine"
    digest: str
    reason: str


class SamplesWanted(_Message):
    """A worker wants the figures of all, or the supervisor those of a worker."""

    kind: Literal["figures_wanted"] = "figures_wanted"
    id: str


class Samples(_Message):
    """The figures of a worker, or of all."""

    kind: Literal["figures"] = "figures"
    id: str
    families: list[MetricFamily]


class Refused(_Message):
    """The worker cannot start: the settings, or what they name, are wrong."""

    kind: Literal["refused"] = "refused"
    text: str


class Listening(_Message):
    """The worker accepts connections."""

    kind: Literal["listening"] = "listening"
    url: str


class Loaded(_Message):
    """All that was to be loaded at start is live, has failed, or waits for its disk."""

    kind: Literal["loaded"] = "loaded"
    summary: tuple[str, ...]
    """Lines for the user."""
    live: dict[str, str]
    """Digests of what is live, by `name/version`."""


class Said(_Message):
    """A line for the user: a model went live, was unloaded, or failed."""

    kind: Literal["said"] = "said"
    line: str


class OnLoop(_Message):
    """From now on the engine of that number may run on the event loop; see `pulse`."""

    kind: Literal["on_loop"] = "on_loop"
    engine: int
    name: str
    digest: str


class Proving(_Message):
    """An archive begins to be loaded and proved, or that has come to its end."""

    kind: Literal["proving"] = "proving"
    name: str
    digest: str
    begins: bool


class Hung(_Message):
    """A call took too long on a thread of its own: the model is out of service in this worker."""

    kind: Literal["hung"] = "hung"
    digest: str
    reason: str


ToWorker = Start | Listen | Change | Outcome | Renew | Quarantine | SamplesWanted | Samples
FromWorker = (
    Refused
    | Listening
    | Loaded
    | Said
    | Change
    | Outcome
    | OnLoop
    | Proving
    | Hung
    | SamplesWanted
    | Samples
)

_TO_WORKER: TypeAdapter[ToWorker] = TypeAdapter(Annotated[ToWorker, Field(discriminator="kind")])
_FROM_WORKER: TypeAdapter[FromWorker] = TypeAdapter(
    Annotated[FromWorker, Field(discriminator="kind")]
)


class MessageError(ValueError):
    """What came over a channel is no message."""


def to_worker(data: bytes) -> ToWorker:
    """Read a message of the supervisor.

    Raises:
        MessageError: it is none.
    """
    message: ToWorker = _read(_TO_WORKER, data)
    return message


def from_worker(data: bytes) -> FromWorker:
    """Read a message of a worker.

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
