import pytest

from torchship.script.errors import ArchiveError, InputError, ModelError, TorchShipError
from torchship.serve.errors import (
    BodyTooLargeError,
    DeadlineError,
    DisagreementError,
    EncodingError,
    LoadError,
    ModeError,
    NotReadyError,
    QueueFullError,
    RequestError,
    UnauthorizedError,
    UnknownModelError,
    status_of,
)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (InputError, 400),
        (RequestError, 400),
        (ModelError, 400),
        (LoadError, 400),
        (ModeError, 400),
        (UnknownModelError, 404),
        (DeadlineError, 408),
        (BodyTooLargeError, 413),
        (EncodingError, 415),
        (QueueFullError, 429),
        (UnauthorizedError, 401),
        (NotReadyError, 503),
        (ArchiveError, 500),
        (DisagreementError, 500),
        (TorchShipError, 500),
        (ValueError, 500),
    ],
)
def test_each_kind_has_its_status(kind: type[Exception], status: int) -> None:
    assert status_of(kind("why")) == status
