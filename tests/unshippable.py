"""Modules that the exporter refuses, or exports only with a warning, each for another reason."""

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._jit_internal import is_scripting
from torch.nn.utils import parametrizations, prune

import zoo


class Ignored(zoo.Linear):
    """Calls what TorchScript leaves to Python."""

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def helper(self, y: Tensor) -> Tensor:
        return y * 2

    def forward(self, x: Tensor) -> Tensor:
        return self.helper(self.layer(x))


class Around(nn.Module):
    """Holds another module."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


@torch.jit.ignore  # type: ignore[untyped-decorator]
def ignored_function(y: Tensor) -> Tensor:
    return y * 2


class CallsIgnoredFunction(zoo.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return ignored_function(self.layer(x))


class Unused(zoo.Linear):
    """Compiles, and raises when it is called."""

    @torch.jit.unused
    def helper(self, y: Tensor) -> Tensor:
        return y * 2

    def forward(self, x: Tensor) -> Tensor:
        return self.helper(self.layer(x))


class IgnoredForward(zoo.Linear):
    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Unexported(zoo.Linear):
    def act(self, x: Tensor) -> Tensor:
        return self.layer(x).argmax(1)


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


class OwnGradient(zoo.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return Double.apply(self.layer(x))


class UnannotatedNone(zoo.Linear):
    def forward(self, x: Tensor, mask=None) -> Tensor:  # type: ignore[no-untyped-def]
        y = self.layer(x)
        if mask is not None:
            y = y * mask
        return y


class UnannotatedNumber(zoo.Linear):
    def forward(self, x: Tensor, times=3) -> Tensor:  # type: ignore[no-untyped-def]
        return self.layer(x) * times


class Holding(nn.Module):
    """Has a tensor that it does not use."""

    held: Tensor

    def __init__(self, held: Tensor) -> None:
        super().__init__()
        self.register_buffer("held", held)

    def forward(self, x: Tensor) -> Tensor:
        return x * 1


class HoldingInAList(zoo.Linear):
    def __init__(self) -> None:
        super().__init__()
        self.parts = [torch.eye(2).to_sparse()]


class Same(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class ToSparse(zoo.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).to_sparse()


class ToMeta(zoo.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).to("meta")


class ToNumpy(zoo.Linear):
    def forward(self, x: Tensor) -> Any:
        return self.layer(x).numpy()


class Yielding(zoo.Linear):
    def forward(self, x: Tensor) -> Any:
        yield self.layer(x)


class Leaving(zoo.Linear):
    def forward(self, x: Tensor) -> Tensor:
        raise SystemExit(0)


class Nothing(zoo.Linear):
    def forward(self, x: Tensor) -> None:
        return None


class Subclass(torch.Tensor):
    """Has nothing of its own."""


class OwnParameter(nn.Parameter):
    """Has nothing of its own."""


# --- weights that are made at every call, and wrappers ---


def sequential() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4)).eval()


def weight_norm() -> nn.Module:
    return nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(3, 4))).eval()


def spectral_norm() -> nn.Module:
    return nn.Sequential(torch.nn.utils.spectral_norm(nn.Linear(3, 4))).eval()


def pruned() -> nn.Module:
    module = sequential()
    prune.l1_unstructured(module[0], "weight", 0.5)
    return module


def parametrised_weight_norm() -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 4))).eval()


def parametrised_spectral_norm() -> nn.Module:
    return nn.Sequential(parametrizations.spectral_norm(nn.Linear(3, 4))).eval()


def orthogonal() -> nn.Module:
    return nn.Sequential(parametrizations.orthogonal(nn.Linear(3, 4))).eval()


class Hook:
    """A hook that is no function."""

    def __call__(self, module: nn.Module, given: object, result: Tensor) -> Tensor:
        return result


def hooked() -> nn.Module:
    module = sequential()
    module[0].register_forward_hook(Hook())
    return module


def hooked_by_a_partial() -> nn.Module:
    module = sequential()
    module.register_forward_hook(functools.partial(Hook.__call__, Hook()))
    return module


def torch_compiled() -> object:
    return torch.compile(sequential())


def torch_compiled_part() -> nn.Module:
    return nn.Sequential(torch.compile(nn.Linear(3, 4))).eval()  # type: ignore[call-overload]


def compiled_in_place() -> nn.Module:
    module = sequential()
    module[0].compile()
    return module


def data_parallel() -> nn.Module:
    return nn.DataParallel(sequential()).eval()


def data_parallel_part() -> nn.Module:
    return Around(nn.DataParallel(sequential())).eval()


def averaged() -> nn.Module:
    return torch.optim.swa_utils.AveragedModel(sequential()).eval()


def exported() -> nn.Module:
    return torch.export.export(sequential(), (torch.ones(2, 3),)).module()


def quantised() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(sequential(), {nn.Linear}, dtype=torch.qint8)


def quantised_lstm() -> nn.Module:
    module = Around(nn.LSTM(3, 4)).eval()
    return torch.ao.quantization.quantize_dynamic(module, {nn.LSTM}, dtype=torch.qint8)


def uninitialised() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(4)).eval()


# --- scripted and eager return different structures ---


class TupleForTensor(zoo.Linear):
    def forward(self, x: Tensor):  # type: ignore[no-untyped-def]
        y = self.layer(x)
        if is_scripting():
            return y, y
        return y


class TensorForTuple(zoo.Linear):
    def forward(self, x: Tensor):  # type: ignore[no-untyped-def]
        y = self.layer(x)
        if is_scripting():
            return y
        return y, y


class TupleForDict(zoo.Linear):
    def forward(self, x: Tensor):  # type: ignore[no-untyped-def]
        y = self.layer(x)
        if is_scripting():
            return y, y
        return {"a": y, "b": y}


class OtherKeys(zoo.Linear):
    def forward(self, x: Tensor):  # type: ignore[no-untyped-def]
        y = self.layer(x)
        if is_scripting():
            return {"a": y}
        return {"b": y}


class LongerList(zoo.Linear):
    def forward(self, x: Tensor):  # type: ignore[no-untyped-def]
        y = self.layer(x)
        if is_scripting():
            return [y, y]
        return [y]


class TupleForList(zoo.Linear):
    def forward(self, x: Tensor):  # type: ignore[no-untyped-def]
        y = self.layer(x)
        if is_scripting():
            return y, y
        return [y, y]


class DeeperTuple(zoo.Linear):
    def forward(self, x: Tensor):  # type: ignore[no-untyped-def]
        y = self.layer(x)
        if is_scripting():
            return y, (y, y)
        return y, y


# --- names that LibTorch writes and cannot read again ---


class Größe(zoo.Linear):
    pass


class BeyondAsciiArgument(zoo.Linear):
    def forward(self, é: Tensor) -> Tensor:
        return self.layer(é)


class BeyondAsciiAttribute(zoo.Linear):
    def __init__(self) -> None:
        super().__init__()
        self.größe = 2.0

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.größe


class BeyondAsciiSubmodule(zoo.Linear):
    def __init__(self) -> None:
        super().__init__()
        self.größe = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.größe(self.layer(x))


class BeyondAsciiMethod(zoo.Linear):
    def größe(self, y: Tensor) -> Tensor:
        return y * 2

    def forward(self, x: Tensor) -> Tensor:
        return self.größe(self.layer(x))


def größe(y: Tensor) -> Tensor:
    return y * 2


class BeyondAsciiFunction(zoo.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return größe(self.layer(x))


class BeyondAsciiFields(NamedTuple):
    größe: Tensor
    other: Tensor


class BeyondAsciiField(zoo.Linear):
    def forward(self, x: Tensor) -> BeyondAsciiFields:
        return BeyondAsciiFields(self.layer(x), x)


class Keyed(nn.Module):
    """Has a submodule under any key."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({key: nn.Linear(3, 4)})

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts.values():
            x = part(x)
        return x


class BeyondAsciiWhereItMay(zoo.Linear):
    """A local name, a string, and an attribute that no code uses."""

    def __init__(self) -> None:
        super().__init__()
        self.größe = 2.0

    def forward(self, x: Tensor, text: str = "größe") -> dict[str, Tensor]:
        größe = self.layer(x)
        return {"größe": größe * 2 if text == "größe" else größe}
