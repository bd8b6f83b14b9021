"""The errors that a user can cause: one class per kind, each with a stable code.

`code` is for programs, `exit_code` for shells.
"""


class ModelsError(Exception):
    """Base of every error a user can cause; messages say what was expected and what was given."""

    code = "models"
    exit_code = 2


class UnknownModelError(ModelsError):
    """A name that is not one of our models, or a model without a training recipe."""

    code = "unknown_model"
    exit_code = 2


class NonFiniteError(ModelsError):
    """A loss or a weight became infinite or NaN, so the training stopped and saved nothing."""

    code = "non_finite"
    exit_code = 1


class WeightsError(ModelsError):
    """Stored weights that are missing, damaged, or do not match their JSON."""

    code = "bad_weights"
    exit_code = 3


class OutputError(ModelsError):
    """A folder that cannot be written to."""

    code = "output"
    exit_code = 2


class DataMissingError(ModelsError):
    """A data set that is not in TORCHSHIP_DATA or the cache, and cannot be downloaded."""

    code = "data_missing"
    exit_code = 4


class DataDamagedError(ModelsError):
    """A data file whose bytes differ from the published data set."""

    code = "data_damaged"
    exit_code = 4


class CheckpointError(ModelsError):
    """A checkpoint that is in the way, missing, damaged, or from another training."""

    code = "checkpoint"
    exit_code = 2


class LibraryMissingError(ModelsError):
    """A shared library of this package is not built, or is of another version."""

    code = "library_missing"
    exit_code = 2


class OperatorsMissingError(ModelsError):
    """The library of our own operators is not built, or cannot be loaded."""

    code = "operators_missing"
    exit_code = 2


class ExtraMissingError(ModelsError):
    """A package that only training needs is not installed."""

    code = "extra_missing"
    exit_code = 2
