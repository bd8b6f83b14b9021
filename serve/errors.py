"""What can go wrong with a request, and the one table from an error's kind to its HTTP status."""

from __future__ import annotations

from torchship.script.errors import ArchiveError, InputError, ModelError, TorchShipError


class RequestError(InputError):
    """A request that does not follow the protocol, or asks for what is not there."""

    code = "bad_request"


class UnknownModelError(TorchShipError):
    """A model, or a version of one, that the server does not have."""

    code = "unknown_model"


class NotReadyError(TorchShipError):
    """A model that is still being checked, or that failed its checks."""

    code = "not_ready"


class LoadError(TorchShipError):
    """A model that was to be loaded and could not be; what was live before goes on."""

    code = "load_failed"


class ModeError(TorchShipError):
    """A wish to load or unload a model, to a server that is not in explicit mode."""

    code = "wrong_mode"


class BodyTooLargeError(TorchShipError):
    """A request body over the server's limit."""

    code = "body_too_large"


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


class DisagreementError(ArchiveError):
    """An archive that did not reproduce its own golden cases, or has none to reproduce."""

    code = "disagreement"


class ServerError(TorchShipError):
    """Raised by our client: the server answered with an error."""

    code = "server"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


STATUS: dict[type[Exception], int] = {
    InputError: 400,
    ModelError: 400,
    LoadError: 400,
    ModeError: 400,
    UnknownModelError: 404,
    DeadlineError: 408,
    BodyTooLargeError: 413,
    EncodingError: 415,
    QueueFullError: 429,
    ClientGoneError: 499,
    NotReadyError: 503,
}


def status_of(error: Exception) -> int:
    """Return the HTTP status of an error: its own kind's or its nearest base's, else 500."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)
