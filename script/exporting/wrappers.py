"""Refuses wrappers around the module to ship, and parts that are recomputed at every call.

torch.jit's errors for these point into torch's own code and do not say what to do.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from torchship.script.errors import ExportError

# The attribute with the wrapped module, by the wrapper's full class name; names, so that optional
# parts of torch need not be imported.
WRAPPED = {
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel": "module",
    "torch.optim.swa_utils.AveragedModel": "module",
}
CALLED = {"OptimizedModule": "what torch.compile returns"}
EXPORTED = "torch.export._unlift._StatefulGraphModule"


def refuse_wrappers(module: torch.nn.Module, scripting: bool) -> None:
    """Refuse wrappers and, for scripting, weights that hooks or parametrisations compute.

    Raises:
        ExportError: the message names the part, and the attribute to ship or the function to call.
    """
    for path, part in module.named_modules():
        _refuse_wrapper(path, part)
        for hook in part._forward_pre_hooks.values():
            # A trace records what a hook computes, but spectral norm changes the module's weight.
            if scripting or isinstance(hook, SpectralNorm):
                _refuse_weight_hook(path, hook)
        if scripting and parametrize.is_parametrized(part):
            _refuse_parametrisation(path, part)
        for hook in [*part._forward_pre_hooks.values(), *part._forward_hooks.values()]:
            if scripting and not hasattr(hook, "__name__"):
                raise ExportError(
                    f"{_called(path)} has a hook that is a {type(hook).__name__}: TorchScript "
                    "compiles only functions as hooks; remove it in the factory, by the handle "
                    "that registering it returned"
                )


def _class_names(part: torch.nn.Module) -> Iterator[str]:
    for kind in type(part).__mro__:
        yield f"{kind.__module__}.{kind.__qualname__}"


def _refuse_wrapper(path: str, part: torch.nn.Module) -> None:
    for name in _class_names(part):
        if name in WRAPPED:
            kind = name.rpartition(".")[2]
            called = CALLED.get(kind, f"a wrapper ({kind})")
            attribute = WRAPPED[name]
            raise ExportError(
                f"'{path}' is {called}: put the module that it wraps in its place, its attribute "
                f"'{attribute}'"
                if path
                else f"the module is {called}: ship the module that it wraps, its attribute "
                f"'{attribute}' (return model.{attribute} in the factory)"
            )
        if name == EXPORTED:
            raise ExportError(
                f"{_called(path)} comes from torch.export, and TorchScript cannot compile that: "
                "ship the nn.Module that was exported"
            )
    if path and part._compiled_call_impl is not None:
        raise ExportError(
            f"'{path}' was compiled in place: leave its .compile() out of the factory, since "
            "torch.compile's code is not in an archive"
        )


def _refuse_weight_hook(path: str, hook: object) -> None:
    place = _expression(path)
    if isinstance(hook, WeightNorm):
        what, remedy = "weight norm", f"torch.nn.utils.remove_weight_norm({place}, {hook.name!r})"
    elif isinstance(hook, SpectralNorm):
        what = "spectral norm"
        remedy = f"torch.nn.utils.remove_spectral_norm({place}, {hook.name!r})"
    elif isinstance(hook, prune.BasePruningMethod):
        name = getattr(hook, "_tensor_name", "weight")
        what, remedy = "pruning", f"torch.nn.utils.prune.remove({place}, {name!r})"
    else:
        return
    raise ExportError(
        f"{_called(path)} computes its weight anew at every call ({what}), which TorchScript "
        f"cannot compile: call {remedy} in the factory, which keeps the numbers"
    )


def _refuse_parametrisation(path: str, part: torch.nn.Module) -> None:
    parametrisations: torch.nn.ModuleDict = part.parametrizations  # type: ignore[assignment]
    name, kinds = next(iter(parametrisations.items()))
    listed = ", ".join(type(kind).__name__.strip("_") for kind in kinds.children())
    raise ExportError(
        f"{_called(path)} computes its {name} anew at every call (the parametrisation {listed}), "
        "which TorchScript cannot compile: call torch.nn.utils.parametrize."
        f"remove_parametrizations({_expression(path)}, {name!r}) in the factory, which keeps the "
        "numbers"
    )


def _called(path: str) -> str:
    return f"'{path}'" if path else "the module"


def _expression(path: str) -> str:
    """Return a submodule as a Python expression: `model.body[0]` for `body.0`."""
    steps = path.split(".") if path else []
    return "model" + "".join(f"[{step}]" if step.isdecimal() else f".{step}" for step in steps)
