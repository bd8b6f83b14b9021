"""The errors of the server, and the one table that maps each to its status in each protocol."""

from __future__ import annotations

from typing import NamedTuple

from torchship.native.errors import CompilerMissingError, NativeError, UnsupportedError
from torchship.script.errors import (
    ArchiveError,
    InputError,
    ModelError,
    OutOfMemoryError,
    TorchShipError,
    UsageError,
)


class StoreError(UsageError):
    """A store of archives that does not answer, refuses, or holds something unexpected."""

    code = "store"


class NotInStoreError(StoreError):
    """Something that a store does not have, by its own answer."""

    code = "not_in_store"


class RequestError(InputError):
    """A request that does not follow the protocol, or names something that does not exist."""

    code = "bad_request"


class UnknownModelError(TorchShipError):
    """A model, or a version of one, that the server does not have."""

    code = "unknown_model"


class NotReadyError(TorchShipError):
    """A model that is still being checked, or that failed its checks."""

    code = "not_ready"


class ArchiveChangedError(TorchShipError):
    """An archive of which the file is gone, or has changed since it was loaded."""

    code = "archive_changed"


class OutOfServiceError(TorchShipError):
    """A model that cannot run any more: a call took too long, or its thread ended."""

    code = "out_of_service"


class LoadError(TorchShipError):
    """A model that could not be loaded; the versions that were live before stay live."""

    code = "load_failed"


class ModeError(TorchShipError):
    """A request to load or unload a model on a server that is not in explicit mode."""

    code = "wrong_mode"


class BodyTooLargeError(TorchShipError):
    """A request body over the server's limit."""

    code = "body_too_large"


class TensorTooLargeError(TorchShipError):
    """An input tensor over the server's limit."""

    code = "tensor_too_large"


class EncodingError(TorchShipError):
    """A request body in a `Content-Encoding` that the server does not support."""

    code = "unsupported_encoding"


class QueueFullError(TorchShipError):
    """The model's queue has no room for the rows of this request."""

    code = "queue_full"


class DeadlineError(TorchShipError):
    """A request that waited in the queue for longer than its own timeout."""

    code = "timeout"


class ClientGoneError(TorchShipError):
    """A request whose client disconnected before it ran; nobody sees the answer."""

    code = "client_gone"


class UnknownSequenceError(TorchShipError):
    """A sequence that was never started, or was ended."""

    code = "unknown_sequence"


class ExpiredSequenceError(TorchShipError):
    """A sequence whose state was freed because it was idle for too long."""

    code = "expired_sequence"


class LostSequenceError(TorchShipError):
    """A sequence that ended because the model version on which it began was unloaded."""

    code = "lost_sequence"


class TooManySequencesError(TorchShipError):
    """A sequence that cannot begin because the largest number of sequences is live already."""

    code = "too_many_sequences"


class NoStateError(RequestError):
    """A sequence request for a method that has no state."""

    code = "no_state"


class StateStoreError(TorchShipError):
    """The sequence store cannot be reached, or lost the sequence during the step."""

    code = "state_store"


class UnauthorizedError(TorchShipError):
    """A request without an API key that the server knows."""

    code = "unauthorized"


class RateError(TorchShipError):
    """A request over the rate of its API key; `retry_after` is in seconds."""

    code = "rate_limit"

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class OverloadError(TorchShipError):
    """A request that the server has no memory or process for at present; a retry may succeed."""

    code = "overload"


class OriginError(TorchShipError):
    """A request from a web page whose origin is not allowed."""

    code = "origin"


class ForbiddenError(TorchShipError):
    """A request that this server, or this API key, does not allow."""

    code = "forbidden"


class BusyError(TorchShipError):
    """A request for what one client at a time may do, while another does it."""

    code = "busy"


class DisagreementError(ArchiveError):
    """An archive that did not reproduce its own golden cases, or has none."""

    code = "disagreement"


class ServerError(TorchShipError):
    """Raised by the client: the server answered with an error (`status` 0: it did not answer)."""

    code = "server"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def out_of_service(model: str, why: str) -> str:
    """Return the message for a model that is out of service."""
    return f"model '{model}' is out of service: {why}"


class Status(NamedTuple):
    """What a client of each protocol is told of a kind of error."""

    http: int
    grpc: str
    """The name of a gRPC status code."""


INTERNAL = Status(500, "INTERNAL")
"""Of an error that was not foreseen: a fault of the server."""

STATUS: dict[type[Exception], Status] = {
    InputError: Status(400, "INVALID_ARGUMENT"),
    ModelError: Status(400, "INVALID_ARGUMENT"),
    LoadError: Status(400, "FAILED_PRECONDITION"),
    ModeError: Status(400, "FAILED_PRECONDITION"),
    UnauthorizedError: Status(401, "UNAUTHENTICATED"),
    UnsupportedError: Status(400, "FAILED_PRECONDITION"),
    NativeError: Status(400, "FAILED_PRECONDITION"),
    OriginError: Status(403, "PERMISSION_DENIED"),
    ForbiddenError: Status(403, "PERMISSION_DENIED"),
    UnknownModelError: Status(404, "NOT_FOUND"),
    UnknownSequenceError: Status(404, "NOT_FOUND"),
    DeadlineError: Status(408, "DEADLINE_EXCEEDED"),
    # "Start anew" is what gRPC's ABORTED asks of a client.
    ExpiredSequenceError: Status(410, "ABORTED"),
    LostSequenceError: Status(410, "ABORTED"),
    BodyTooLargeError: Status(413, "RESOURCE_EXHAUSTED"),
    TensorTooLargeError: Status(413, "RESOURCE_EXHAUSTED"),
    EncodingError: Status(415, "UNIMPLEMENTED"),
    QueueFullError: Status(429, "RESOURCE_EXHAUSTED"),
    TooManySequencesError: Status(429, "RESOURCE_EXHAUSTED"),
    RateError: Status(429, "RESOURCE_EXHAUSTED"),
    BusyError: Status(429, "RESOURCE_EXHAUSTED"),
    ClientGoneError: Status(499, "CANCELLED"),
    CompilerMissingError: Status(501, "UNIMPLEMENTED"),
    NotReadyError: Status(503, "UNAVAILABLE"),
    ArchiveChangedError: Status(503, "UNAVAILABLE"),
    OutOfServiceError: Status(503, "UNAVAILABLE"),
    OverloadError: Status(503, "UNAVAILABLE"),
    OutOfMemoryError: Status(503, "UNAVAILABLE"),
    StateStoreError: Status(503, "UNAVAILABLE"),
}


def known_status(error: Exception) -> Status:
    """Return the status of an error: that of its class or of its nearest base, else `INTERNAL`."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), INTERNAL)


def status_of(error: Exception) -> int:
    """Return the HTTP status of an error: that of its class or of its nearest base, else 500."""
    return known_status(error).http
