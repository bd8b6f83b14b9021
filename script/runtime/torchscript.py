"""TorchScript: modules compiled, their methods and attributes, and the settings of the runtime.

Nothing but this module, `torchscript_file` and `torchscript_graph` calls torch.jit. Scripting is
deprecated upstream, but still what a C++ program can load today; another kind of archive would get
modules beside these.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from torchship.script.errors import (
    ExportError,
    UsageError,
)
from torchship.script.runtime import print_handler
from torchship.script.runtime.blas import foreign_blas
from torchship.script.runtime.explanations import explain
from torchship.script.runtime.floating_point import kept_mode
from torchship.script.runtime.printing import TORCH_JIT_IS_DEPRECATED
from torchship.script.runtime.trace_warnings import TraceWarning, found_in, refuse

Mode = Literal["script", "trace"]
Fusion = Literal["off", "static", "dynamic"]


@dataclass(frozen=True)
class Settings:
    """How a module is loaded and run.

    The defaults are those of the C++ library (`cpp_runner/include/torchship/options.h`), because
    agreement depends on them; a test compares both.
    """

    threads: int = 1  # intra-op
    device: str = "cpu"
    freeze: bool = False  # weights become constants of the graph
    fusion: Fusion = "off"  # the tensor-expression fuser


DEFAULTS = Settings()
MOST_THREADS = 1024  # OpenMP ends a process that cannot create its threads
# The number of static or dynamic specialisations, as torch's defaults.
FUSION_STRATEGIES = {"static": ("STATIC", 2), "dynamic": ("DYNAMIC", 10)}


@contextmanager
def no_deprecation_warning() -> Iterator[None]:
    """Silence the warning that torch.jit is deprecated, which users cannot act on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=TORCH_JIT_IS_DEPRECATED.pattern)
        yield


def configure(threads: int = DEFAULTS.threads, fusion: Fusion = DEFAULTS.fusion) -> None:
    """Set the process-wide settings that results depend on, as the C++ library does.

    One intra-op thread by default, because the order of a parallel sum depends on the number of
    threads. No tensor-expression fusion, because fused kernels round differently, and only from
    the second call on. No TF32 for float32 products on a GPU. Without fusion, profiling is useless
    and off: the first call runs the same graph as later ones, and small models are an eighth
    faster.
    """
    if not 1 <= threads <= MOST_THREADS:
        raise UsageError(f"threads: expected 1 to {MOST_THREADS}, got {threads}")
    torch.set_num_threads(threads)
    if torch.get_num_interop_threads() != 1:
        # Torch accepts this only before the first use. It does not affect results, only which
        # threads run the branches of a `torch.jit.fork`.
        with suppress(RuntimeError):
            torch.set_num_interop_threads(1)
    torch.backends.cudnn.allow_tf32 = False
    torch._C._jit_set_texpr_fuser_enabled(fusion != "off")
    torch._C._jit_set_profiling_mode(fusion != "off")
    if fusion != "off":
        torch._C._jit_set_fusion_strategy([FUSION_STRATEGIES[fusion]])


def settings_in_force() -> dict[str, object]:
    """Return torch's settings in this process, as `torchship-runner bench --json` prints them.

    Keys: threads and interop_threads (numbers), fusion (a Fusion), profiling_executor, onednn,
    deterministic, cudnn_tf32 (booleans), float32_matmul (torch's name), foreign_blas (a file, or
    "").
    """
    strategy = torch._C._jit_set_fusion_strategy([])  # returns the one before
    torch._C._jit_set_fusion_strategy(strategy)
    profiling = torch._C._jit_set_profiling_mode(True)
    torch._C._jit_set_profiling_mode(profiling)
    fusion: Fusion = "off"
    if torch._C._jit_texpr_fuser_enabled():
        fusion = "static" if strategy and strategy[-1][0] == "STATIC" else "dynamic"
    return {
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "fusion": fusion,
        "profiling_executor": profiling,
        "onednn": torch._C._get_mkldnn_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "float32_matmul": torch.get_float32_matmul_precision(),
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "foreign_blas": foreign_blas(),
    }


def compile_module(
    module: torch.nn.Module,
    mode: Mode,
    examples: Mapping[str, Mapping[str, object]],
    warned: Callable[[Sequence[TraceWarning]], None] = refuse,
) -> torch.jit.ScriptModule:
    """Compile an eager module; `examples` has the arguments of one call per method.

    A module that is compiled already is returned unchanged. `warned` gets the tracer's warnings.

    Raises:
        ExportError: torch.jit refuses; the message names the source line and what to change.
    """
    if isinstance(module, torch.jit.ScriptModule):
        compiled = _as_it_is(module, mode)
    else:
        try:
            print_handler.install()
            with no_deprecation_warning():
                compiled = (
                    torch.jit.script(module)
                    if mode == "script"
                    else _trace(module, examples, warned)
                )
        except ExportError:
            raise
        except Exception as error:
            raise ExportError(explain(str(error), mode)) from None
    for method in examples:
        if not compiled._c._has_method(method):
            raise ExportError(
                f"the compiled module has no method '{method}': mark it with @torch.jit.export, "
                "and not with @torch.jit.ignore or @torch.jit.unused, or trace the module "
                "(--mode trace)"
            )
    return compiled


def _as_it_is(module: torch.jit.ScriptModule, mode: Mode) -> torch.jit.ScriptModule:
    if mode == "trace":
        raise ExportError(
            "the factory returned a module that torch.jit has compiled: it cannot be traced; leave "
            "--mode trace out"
        )
    return module


def compiled_parts(module: torch.nn.Module) -> tuple[str, ...]:
    """Return the dotted names of the topmost submodules that torch.jit has compiled.

    The module itself is `""`. There is no eager code to compare these with.
    """
    found: list[str] = []
    for path, part in module.named_modules():
        below = any(path.startswith(f"{above}." if above else "") for above in found)
        if isinstance(part, torch.jit.ScriptModule) and not below:
            found.append(path)
    return tuple(found)


def as_module(value: object) -> object:
    """Return a module whose `forward` is the compiled function; other values unchanged."""
    if not isinstance(value, torch.jit.ScriptFunction):
        return value
    function = value  # the source below refers to it by this name
    signature: Any = function.schema
    listed = ", ".join(
        f"{argument.name}: {argument.type.annotation_str}"
        f"{f' = {argument.default_value!r}' if argument.has_default_value() else ''}"
        for argument in signature.arguments
    )
    given = ", ".join(argument.name for argument in signature.arguments)

    class Module(torch.nn.Module):
        """A new class, so that the TorchScript type that gets the method is new too."""

    with no_deprecation_warning():
        module = torch.jit.script(Module().eval())
        module.define(f"def forward(self, {listed}):\n    return function({given})\n")
    return module


def attributes(module: torch.jit.ScriptModule) -> dict[str, object]:
    """Return a compiled module's attributes other than parameters, buffers and submodules."""
    kind: Any = torch._C.ConcreteModuleType.from_jit_type(module._c._type())
    return {name: module._c.getattr(name) for name in kind.get_attributes()}


def _trace(
    module: torch.nn.Module,
    examples: Mapping[str, Mapping[str, object]],
    warned: Callable[[Sequence[TraceWarning]], None],
) -> torch.jit.ScriptModule:
    with torch.no_grad(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        traced = torch.jit.trace_module(  # type: ignore[no-untyped-call]
            module,
            {method: dict(arguments) for method, arguments in examples.items()},
            check_trace=False,
            strict=False,  # allows dicts as results; the golden cases check their structure
            example_inputs_is_kwarg=True,
        )
    warned(found_in(caught))
    assert isinstance(traced, torch.jit.ScriptModule)
    return traced


def method_names(module: torch.jit.ScriptModule) -> list[str]:
    """Return the names of the module's callable methods, `forward` first."""
    names = [name for name in module._c._method_names() if not name.startswith("_")]
    return sorted(names, key=lambda name: (name != "forward", name))


def entry(module: torch.nn.Module, method: str) -> Callable[..., Any]:
    """Return the callable of a method; for scripted modules, without the Python wrapper."""
    if isinstance(module, torch.jit.ScriptModule):
        run: Callable[..., Any] = module._c._get_method(method)
        return run
    bound: Callable[..., Any] = getattr(module, method)
    return bound


def inference() -> AbstractContextManager[None]:
    """Return `torch.inference_mode()` without its Python wrapper."""
    return torch._C._InferenceMode(True)


def schema(module: torch.jit.ScriptModule, method: str) -> Any:
    """Return the method's FunctionSchema: arguments with types and defaults, and the result."""
    return module._c._get_method(method).schema


def required_arguments(module: torch.nn.Module, method: str) -> set[str]:
    """Return the arguments of a method that have no default."""
    if isinstance(module, torch.jit.ScriptModule):
        arguments = schema(module, method).arguments[1:]
        return {argument.name for argument in arguments if not argument.has_default_value()}
    parameters = inspect.signature(getattr(module, method)).parameters
    return {name for name, known in parameters.items() if known.default is known.empty}


def undefined_defaults(module: torch.jit.ScriptModule) -> list[tuple[str, str]]:
    """Return methods (with submodule path) and arguments of type Tensor with the default None.

    TorchScript compiles these but cannot save them.
    """
    return [
        (f"{path}.{method}" if path else method, argument.name)
        for path, part in module.named_modules()
        if isinstance(part, torch.jit.ScriptModule)
        for method in part._c._method_names()
        for argument in schema(part, method).arguments
        if argument.type.kind() == "TensorType"
        and argument.has_default_value()
        and argument.default_value is None
    ]


def code(module: torch.jit.ScriptModule) -> str:
    """Return the TorchScript source of every method."""
    return "\n".join(str(module._c._get_method(name).code) for name in method_names(module))


def load_library(path: Path) -> None:
    """Load a library of operators, which runs its code.

    Raises:
        OSError: it cannot be loaded; the message says why.
    """
    with kept_mode():  # a library compiled with -ffast-math changes the floating-point mode
        torch.ops.load_library(path)  # type: ignore[no-untyped-call]


def has_operator(name: str) -> bool:
    """Return whether an operator, such as `aten::relu`, is registered in this process."""
    return bool(torch._C._jit_get_schemas_for_operator(name))


def raised_message(error: Exception) -> str:
    """Return the first line of a model's error, without TorchScript's traceback."""
    text = str(error)
    if "Traceback of TorchScript" in text:
        # Type and message follow the traceback: `builtins.ValueError: ...`.
        kinds = list(re.finditer(r"(?m)^(?:\w+\.)*\w+(?:Error|Exception): ", text))
        text = text[kinds[-1].end() :] if kinds else text.splitlines()[-1]
        text = text.removeprefix("AssertionError: ")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
