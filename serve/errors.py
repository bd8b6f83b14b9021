"""What can go wrong with a request, and the one table from an error's kind to its HTTP status."""

from __future__ import annotations

from torchship.script.errors import (
    ArchiveError,
    InputError,
    ModelError,
    OutOfMemoryError,
    TorchShipError,
)


class RequestError(InputError):
    """A request that does not follow the protocol, or asks for what is not there."""

    code = "bad_request"


class UnknownModelError(TorchShipError):
    """A model, or a version of one, that the server does not have."""

    code = "unknown_model"


class NotReadyError(TorchShipError):
    """A model that is still being checked, or that failed its checks."""

    code = "not_ready"


class OutOfServiceError(TorchShipError):
    """A model whose call took too long or whose thread ended: nothing can run in it any more."""

    code = "out_of_service"


class LoadError(TorchShipError):
    """A model that was to be loaded and could not be; what was live before goes on."""

    code = "load_failed"


class ModeError(TorchShipError):
    """A wish to load or unload a model, to a server that is not in explicit mode."""

    code = "wrong_mode"


class BodyTooLargeError(TorchShipError):
    """A request body over the server's limit."""

    code = "body_too_large"


class TensorTooLargeError(TorchShipError):
    """An input tensor over the server's limit."""

    code = "tensor_too_large"


class EncodingError(TorchShipError):
    """A request body in a `Content-Encoding` that the server does not read."""

    code = "unsupported_encoding"


class QueueFullError(TorchShipError):
    """More rows wait for a model than its queue holds."""

    code = "queue_full"


class DeadlineError(TorchShipError):
    """A request that had waited longer than its own timeout when its turn came."""

    code = "timeout"


class ClientGoneError(TorchShipError):
    """A request whose client had left when its turn came; nobody sees the answer."""

    code = "client_gone"


class UnknownSequenceError(TorchShipError):
    """A sequence that was never started, or was ended."""

    code = "unknown_sequence"


class ExpiredSequenceError(TorchShipError):
    """A sequence whose state was freed since nobody used it for too long."""

    code = "expired_sequence"


class LostSequenceError(TorchShipError):
    """A sequence that ended with the model version on which it began."""

    code = "lost_sequence"


class TooManySequencesError(TorchShipError):
    """A sequence that is to begin where the most are live already."""

    code = "too_many_sequences"


class NoStateError(RequestError):
    """A sequence of a method that has no state to carry on."""

    code = "no_state"


class StateStoreError(TorchShipError):
    """The store of sequences cannot be reached, or took a sequence away meanwhile."""

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
    """A request for which the server has no room now; it may come again a little later."""

    code = "overload"


class OriginError(TorchShipError):
    """A request of a web page that may not ask this server."""

    code = "origin"


class DisagreementError(ArchiveError):
    """An archive that did not reproduce its own golden cases, or has none to reproduce."""

    code = "disagreement"


class ServerError(TorchShipError):
    """Raised by our client: the server answered with an error."""

    code = "server"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def out_of_service(model: str, why: str) -> str:
    """Return what is said of a model that is out of service."""
    return f"model '{model}' is out of service: {why}"


STATUS: dict[type[Exception], int] = {
    InputError: 400,
    ModelError: 400,
    LoadError: 400,
    ModeError: 400,
    UnauthorizedError: 401,
    OriginError: 403,
    UnknownModelError: 404,
    UnknownSequenceError: 404,
    DeadlineError: 408,
    ExpiredSequenceError: 410,
    LostSequenceError: 410,
    BodyTooLargeError: 413,
    TensorTooLargeError: 413,
    EncodingError: 415,
    QueueFullError: 429,
    TooManySequencesError: 429,
    RateError: 429,
    ClientGoneError: 499,
    NotReadyError: 503,
    OutOfServiceError: 503,
    OverloadError: 503,
    OutOfMemoryError: 503,
    StateStoreError: 503,
}


def status_of(error: Exception) -> int:
    """Return the HTTP status of an error: its own kind's or its nearest base's, else 500."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)
