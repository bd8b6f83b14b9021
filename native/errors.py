"""What the compiler cannot do, and libraries that do not fit."""

from torchship.script.errors import TorchShipError, UsageError


class UnsupportedError(UsageError):
    """The compiler has no C for something in the graph; LibTorch can still run the model."""

    code = "native_unsupported"


class CompilerMissingError(UsageError):
    """There is no C compiler on this machine, or not the one that was asked for."""

    code = "compiler_missing"


class NativeError(TorchShipError):
    """A compiled library does not belong to its archive, or the C compiler failed."""

    code = "native_error"
