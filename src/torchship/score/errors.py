"""What can go wrong with tables and with a run over them."""

from torchship.script.errors import InputError, TorchShipError, UsageError


class TableError(InputError):
    """A table that cannot be read, or whose columns do not fit the method's inputs."""

    code = "bad_table"


class RunError(UsageError):
    """A run that may not go on in its output folder as it was asked to."""

    code = "run_refused"


class DisagreementError(TorchShipError):
    """An archive that does not reproduce its own golden cases, or has none."""

    code = "disagreement"
    exit_code = 1


class BadRowsError(InputError):
    """There were more bad rows than are allowed."""

    code = "bad_rows"


class ClusterError(UsageError):
    """A Ray cluster that cannot be used, or a worker of it that failed."""

    code = "cluster"
