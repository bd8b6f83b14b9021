"""Everything that knows TorchScript: compile, save, load, and the runtime's settings.

Scripting is deprecated upstream, and still what a C++ program can load today; another kind of
archive would get a module beside this one.
"""

from __future__ import annotations

import ast
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from torchship.script import print_handler
from torchship.script.content import Draft
from torchship.script.errors import ArchiveError, ExportError, UnreadableError, UsageError
from torchship.script.trace_warnings import TraceWarning, found_in, refuse

Mode = Literal["script", "trace"]
Fusion = Literal["off", "static", "dynamic"]


@dataclass(frozen=True)
class Settings:
    """How a module is loaded and run.

    The defaults are those of the C++ library (`cpp_runner/include/torchship/options.h`): agreement
    depends on them, and a test reads both back.
    """

    threads: int = 1  # inside an operator
    device: str = "cpu"
    freeze: bool = False  # weights become constants of the graph
    fusion: Fusion = "off"  # of the tensor-expression fuser


DEFAULTS = Settings()
# How many shapes get a kernel of their own, and how many kernels for any shape: torch's figures.
FUSION_STRATEGIES = {"static": ("STATIC", 2), "dynamic": ("DYNAMIC", 10)}

# What to change, by what the compiler says. The first pattern that is found is used.
HINTS = (
    (
        r"[Kk]eyword-only|keyword-arguments? with defaults|\*\*kwargs",
        "make the arguments positional",
    ),
    (r"variable number of arguments", "give the method explicit arguments instead of *args"),
    (
        r"value of type 'Tensor'|inferred to be (of type )?'?Tensor|found Tensor|must be ints",
        "annotate the argument's type: without one TorchScript takes it for a Tensor",
    ),
    (
        r"[Pp]ython value of type|cannot be used as a value|has no attribute|closed over",
        "make it a tensor buffer, a submodule, or an attribute annotated with a plain type",
    ),
    (
        r"Unknown type annotation: '\w+'",
        "write the annotation without quotes, and without `from __future__ import annotations` in "
        "that file, which puts them in quotes",
    ),
    (r"Unknown (type|builtin)|undefined value", "use an operator or type that TorchScript knows"),
    (
        r"[Ll]ambda|[Cc]omprehension|[Tt]ry|[Ww]ith|yield|generator|isn't supported|not supported|"
        r"[Uu]nsupported",
        "rewrite this statement with plain loops, conditions and functions",
    ),
)
OTHERWISE = {
    "script": "rewrite the line with what TorchScript supports, or trace the module "
    "(--mode trace) if its control flow does not depend on the data",
    "trace": "a trace takes tensors, and tuples, lists and dicts of them, in one method; script "
    "the module instead (--mode script)",
}

# Namespaces of operators that LibTorch itself registers, in a build for the CPU or for a GPU.
BUILT_IN = {
    "_c10d_functional", "_c10d_functional_autograd", "_dtensor", "_native", "_quantized",
    "_test", "aten", "c10d", "cuda", "cudnn", "inductor", "inductor_prims", "miopen", "mkl",
    "mkldnn", "mkldnn_prepacked", "mps", "onednn", "onnx", "prepacked", "prim", "prims",
    "profiler", "quantization", "quantized", "rngprims", "sparse", "static_runtime", "symm_mem",
    "vulkan", "xnnpack", "xpu",
}  # fmt: skip


@contextmanager
def _deprecation_is_known() -> Iterator[None]:
    """Silence the notice that torch.jit is deprecated: this module is where we know it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=DeprecationWarning)
        yield


def configure(threads: int = DEFAULTS.threads, fusion: Fusion = DEFAULTS.fusion) -> None:
    """Set what the numbers depend on, for the whole process, as the C++ library does.

    One intra-op thread by default, since the order of a parallel sum depends on the number of
    threads; no tensor-expression fusion, since fused kernels round differently and only from the
    second call on; products of float32 in float32 on a GPU too. Without fusion a profile of the
    calls is of no use: the first call runs the graph that every other runs, and small models are an
    eighth faster.
    """
    torch.set_num_threads(threads)
    if torch.get_num_interop_threads() != 1:
        # Torch takes it once, before the first use. It decides about no number, only about who
        # computes the branches of a `torch.jit.fork`.
        with suppress(RuntimeError):
            torch.set_num_interop_threads(1)
    torch.backends.cudnn.allow_tf32 = False
    torch._C._jit_set_texpr_fuser_enabled(fusion != "off")
    torch._C._jit_set_profiling_mode(fusion != "off")
    if fusion != "off":
        torch._C._jit_set_fusion_strategy([FUSION_STRATEGIES[fusion]])


def settings_in_force() -> dict[str, object]:
    """Return what torch says of this process's settings, as `torchship-runner bench --json` does.

    Keys: threads and interop_threads (numbers), fusion (a Fusion), profiling_executor, onednn,
    deterministic, cudnn_tf32 (booleans), float32_matmul (torch's word for it).
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
    }


def compile_module(
    module: torch.nn.Module,
    mode: Mode,
    examples: Mapping[str, Mapping[str, object]],
    warned: Callable[[Sequence[TraceWarning]], None] = refuse,
) -> torch.jit.ScriptModule:
    """Compile an eager module.

    Args:
        module: what to compile.
        mode: how.
        examples: one call's arguments per method, for tracing.
        warned: takes what the tracer warns of.

    Raises:
        ExportError: torch.jit refuses; the message names the source line and what to change.
    """
    try:
        print_handler.install()
        with _deprecation_is_known():
            if mode == "script":
                return torch.jit.script(module)
            return _trace(module, examples, warned)
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(explain(str(error), mode)) from None


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
            strict=False,  # lets dicts be returned; the golden cases check their structure
            example_inputs_is_kwarg=True,
        )
    warned(found_in(caught))
    assert isinstance(traced, torch.jit.ScriptModule)
    return traced


def explain(text: str, mode: Mode) -> str:
    """Turn a compiler message into one line: what, where in the user's source, what to change."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    what = lines[0].rstrip(":") if lines else "no reason given"
    where = ""
    place = re.search(r'File "([^"]+)", line (\d+)', text)
    if place:
        where = f" at {place.group(1)}:{place.group(2)}"
        marked = _marked_line(text, place.end())
        if marked:
            where += f" (`{marked}`)"
    hint = next((hint for pattern, hint in HINTS if re.search(pattern, what)), OTHERWISE[mode])
    return f"torch.jit cannot {mode} the module{where}: {what}; {hint}"


def _marked_line(text: str, start: int) -> str:
    """Return the source line above the compiler's `~~~ <--- HERE` mark."""
    previous = ""
    for line in text[start:].splitlines():
        if "<--- HERE" in line:
            return previous.strip()
        previous = line
    return ""


def method_names(module: torch.jit.ScriptModule) -> list[str]:
    """Return the names of the module's callable methods, `forward` first."""
    names = [name for name in module._c._method_names() if not name.startswith("_")]
    return sorted(names, key=lambda name: (name != "forward", name))


def entry(module: torch.nn.Module, method: str) -> Callable[..., Any]:
    """Return what runs a method: of a scripted module without the Python around it."""
    if isinstance(module, torch.jit.ScriptModule):
        run: Callable[..., Any] = module._c._get_method(method)
        return run
    bound: Callable[..., Any] = getattr(module, method)
    return bound


def inference() -> AbstractContextManager[None]:
    """Return `torch.inference_mode()` without the Python around it."""
    return torch._C._InferenceMode(True)


def schema(module: torch.jit.ScriptModule, method: str) -> Any:
    """Return the method's FunctionSchema: arguments with types and defaults, and the result."""
    return module._c._get_method(method).schema


def code(module: torch.jit.ScriptModule) -> str:
    """Return the TorchScript source of every method."""
    return "\n".join(str(module._c._get_method(name).code) for name in method_names(module))


def save(module: torch.jit.ScriptModule) -> bytes:
    """Return the bytes of the module's TorchScript zip."""
    buffer = io.BytesIO()
    with _deprecation_is_known():
        torch.jit.save(module, buffer)
    return buffer.getvalue()


def save_into(draft: Draft, module: torch.jit.ScriptModule) -> None:
    """Write the module's TorchScript zip, the same bytes as `save` returns.

    LibTorch itself writes them where it can: into a buffer of Python's, weights would be copied
    several times. It names the zip's folder after the file, and so gets one by another name.
    (A file on a disk would not do: LibTorch ends the process when the disk is full.)

    Raises:
        UsageError: there is no folder for temporary files.
    """
    target = draft.source
    if isinstance(target, bytes):
        draft.file.write(save(module))
        return
    try:
        with tempfile.TemporaryDirectory() as folder, _deprecation_is_known():
            alias = Path(folder, "archive.pt")
            alias.symlink_to(target)
            torch.jit.save(module, str(alias))
    except OSError as error:
        raise UsageError(f"cannot make a temporary folder: {error.strerror}") from None


def records(source: bytes | str) -> dict[str, bytes]:
    """Return the records of a TorchScript zip, its bytes or its file, as LibTorch sees them.

    Raises:
        ArchiveError: LibTorch's reader refuses the zip.
    """
    found: dict[str, bytes] = {}
    visit_records(source, lambda name, view: found.update({name: bytes(view)}))
    return found


def visit_records(
    source: bytes | str,
    visit: Callable[[str, memoryview], None],
    wanted: Callable[[str], bool] = lambda name: True,
) -> None:
    """Show `visit` the name and the bytes of each wanted record, as LibTorch's own reader sees it.

    Two zip readers may see two contents in the same damaged bytes, so that what is checked has to
    be what is loaded. (LibTorch's takes one bit of a record's file attributes for "this is a
    folder" and then returns memory that was never written.) One record is in memory at a time,
    and once: weights may be most of what there is.

    Args:
        source: the bytes of the zip, or the name of its file.
        visit: what to do with each; it shall not keep the view.
        wanted: which records, by name; all when it is left out.

    Raises:
        ArchiveError: LibTorch's reader refuses the zip, or `visit` the record.
    """
    try:
        reader = torch._C.PyTorchFileReader(_readable(source))
        for name in reader.get_all_records():
            if wanted(name):
                visit(name, _view(reader, name))
    except ArchiveError:
        raise
    except Exception as error:
        raise _refused("read the zip", error) from None


def _view(reader: torch._C.PyTorchFileReader, name: str) -> memoryview:
    tensor = reader.get_storage_from_record(name, reader.get_record_size(name), torch.uint8)
    data = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).numpy().data
    return data.cast("B")


def _readable(source: bytes | str) -> io.BytesIO | str:
    return io.BytesIO(source) if isinstance(source, bytes) else source


def is_scarcity(text: str) -> bool:
    """Whether what LibTorch says is that the machine has no memory, or no file, left for it."""
    return re.search(r"(alloc\w*|enough|out of) memory|Too many open files", text) is not None


def _refused(what: str, error: Exception) -> ArchiveError:
    kind = UnreadableError if is_scarcity(str(error)) else ArchiveError
    return kind(f"LibTorch cannot {what}: {_first_line(error)}")


def custom_operators(script: bytes | str) -> list[str]:
    """Return the operators, by name, that the code in a TorchScript zip uses and torch lacks.

    `script` is the zip's bytes, or the name of its file. What is read is the code that LibTorch
    will compile when it loads the zip: of every module's methods, and of every function and class
    that they use.
    """
    found = set()

    def read(name: str, code: memoryview) -> None:
        for node in ast.walk(ast.parse(bytes(code))):
            match node:  # ops.<namespace>.<name>
                case ast.Attribute(ast.Attribute(ast.Name("ops"), namespace), operator):
                    if namespace not in BUILT_IN:
                        found.add(f"{namespace}::{operator}")

    visit_records(
        script, read, wanted=lambda name: name.startswith("code/") and name.endswith(".py")
    )
    return sorted(found)


def load_library(path: Path) -> None:
    """Load a library of operators, and so run its code.

    Raises:
        OSError: it cannot be loaded; the message says why.
    """
    torch.ops.load_library(path)  # type: ignore[no-untyped-call]


_LOAD = """
import json, os, sys
sys.path[:], needed, registered = json.loads(sys.argv[1])
os.set_inheritable(registered, False)
import torch
for name, path in needed:
    if not torch._C._jit_get_schemas_for_operator(name):
        torch.ops.load_library(path)
        if not torch._C._jit_get_schemas_for_operator(name):
            sys.exit(3)
    os.write(registered, b".")
"""


def load_apart(needed: Sequence[tuple[str, Path]]) -> tuple[int, str] | None:
    """Load the library of each operator that is not registered yet, in a process of its own.

    In this process the operators may be there already, whoever has registered them.

    Returns:
        Nothing when all operators are registered then; otherwise the index of the first whose
        library does not register it, with an empty text, or cannot be loaded, with the reason.
    """
    # A file of its own for what it tells us: the library may print what it likes.
    with tempfile.TemporaryFile() as registered:
        descriptor = registered.fileno()
        told = json.dumps([sys.path, [(name, str(path)) for name, path in needed], descriptor])
        done = subprocess.run(
            [sys.executable, "-I", "-c", _LOAD, told],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[descriptor],
            text=True,
            errors="replace",
            check=False,
        )
        index = registered.seek(0, os.SEEK_END)
    if done.returncode == 0:
        return None
    if done.returncode == 3:
        return index, ""
    lines = done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"]
    # What an exception says that ends a process in C++, or the last line of Python's traceback.
    reason = next((line for line in lines if line.strip().startswith("what():")), lines[-1])
    return index, reason.strip().removeprefix("what():").removeprefix("OSError:").strip()


def has_operator(name: str) -> bool:
    """Whether an operator, such as `aten::relu`, is registered in this process."""
    return bool(torch._C._jit_get_schemas_for_operator(name))


def load(
    source: bytes | str,
    device: str | torch.device = DEFAULTS.device,
    freeze: bool = DEFAULTS.freeze,
) -> torch.jit.ScriptModule:
    """Load a module from a TorchScript zip, its bytes or the name of its file, frozen if asked.

    Raises:
        ArchiveError: LibTorch refuses it.
    """
    try:
        print_handler.install()
        with _deprecation_is_known():
            module = torch.jit.load(  # type: ignore[no-untyped-call]
                _readable(source), map_location=device
            )
            if freeze:
                others = [name for name in method_names(module) if name != "forward"]
                module = torch.jit.freeze(module.eval(), preserved_attrs=others)
    except Exception as error:
        raise _refused("load the archive", error) from None
    assert isinstance(module, torch.jit.ScriptModule)
    return module


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def raised_message(error: Exception) -> str:
    """Return the first line of what a model raised, without TorchScript's own trace."""
    text = str(error)
    if "Traceback of TorchScript" in text:
        # The kind and message stand below the trace: `builtins.ValueError: ...`.
        kinds = list(re.finditer(r"(?m)^(?:\w+\.)*\w+(?:Error|Exception): ", text))
        text = text[kinds[-1].end() :] if kinds else text.splitlines()[-1]
        text = text.removeprefix("AssertionError: ")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
