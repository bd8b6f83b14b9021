"""Other runtimes, each as fast as its own settings make it on one thread.

Each function returns calls by name. A peer's outputs are compared with eager's before it is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from side_by_side.plain import Plain

RTOL, ATOL = 1e-4, 1e-5
Calls = dict[str, Callable[[], Any]]
Made = TypeVar("Made")


class WrongError(Exception):
    """A peer's outputs are not eager's."""


def check(expected: Sequence[Tensor], got: Sequence[Any], own_error: float = 0.0) -> None:
    """Compare a peer's outputs with eager's; four times eager's own error is allowed too.

    Raises:
        WrongError: there are others, or they differ by more than rounding.
    """
    if len(expected) != len(got):
        raise WrongError(f"expected {len(expected)} outputs, got {len(got)}")
    for number, (right, value) in enumerate(zip(expected, got, strict=True)):
        found = torch.as_tensor(value)
        if found.shape != right.shape:
            raise WrongError(f"output {number}: expected {list(right.shape)}, got {found.shape}")
        bound = ATOL * max(1.0, float(right.abs().max())) + RTOL * right.abs() + 4 * own_error
        worst = float(((found - right).abs() - bound).max())
        if not worst <= 0:
            raise WrongError(f"output {number} differs from eager's by {worst:.2g} too much")


def eager(module: Callable[..., Any], inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the outputs of an eager call, as a tuple."""
    with torch.inference_mode():
        found = module(*inputs)
    return tuple(found) if isinstance(found, tuple | list) else (found,)


def onnx_file(plain: Plain, path: Path) -> Path:
    """Export a module to ONNX, of any batch size."""
    inputs = plain.feed(2)
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        *(plain.module, inputs, str(path)),
        dynamo=True,
        input_names=plain.inputs,
        output_names=plain.outputs,
        dynamic_shapes=tuple({0: batch} for _ in inputs),
        verbose=False,
    )
    return path


def onnx_runtime(exported: Callable[[], Path], plain: Plain, batch: int) -> Calls:
    """Return two ways to run a model in ONNX Runtime: with arrays, and with bound memory."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(exported()), options, providers=["CPUExecutionProvider"]
    )
    inputs = plain.feed(batch)
    expected = eager(plain.module, inputs)
    feed = {name: tensor.numpy() for name, tensor in zip(plain.inputs, inputs, strict=True)}
    check(expected, session.run(None, feed))
    binding = session.io_binding()
    bound = {name: onnxruntime.OrtValue.ortvalue_from_numpy(x) for name, x in feed.items()}
    for name, value in bound.items():
        binding.bind_ortvalue_input(name, value)
    for name, tensor in zip(plain.outputs, expected, strict=True):
        own = onnxruntime.OrtValue.ortvalue_from_numpy(tensor.clone().zero_().numpy())
        binding.bind_ortvalue_output(name, own)
    session.run_with_iobinding(binding)
    check(expected, binding.copy_outputs_to_cpu())
    return {
        "ONNX Runtime": lambda: session.run(None, feed),
        "ONNX Runtime (bound)": lambda: session.run_with_iobinding(binding),
    }


def openvino(exported: Callable[[], Path], plain: Plain, batch: int) -> Calls:
    """Return how to run a model in OpenVINO: compiled for this batch size, memory shared."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(str(exported()))
    inputs = plain.feed(batch)
    model.reshape(
        {name: list(tensor.shape) for name, tensor in zip(plain.inputs, inputs, strict=True)}
    )
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    for name, tensor in zip(plain.inputs, inputs, strict=True):
        request.set_tensor(name, ov.Tensor(tensor.numpy(), shared_memory=True))
    request.infer()
    found = [request.get_tensor(name).data.copy() for name in plain.outputs]
    check(eager(plain.module, inputs), found)
    return {"OpenVINO": lambda: request.infer(share_outputs=True)}


def torch_compile(plain: Plain, batch: int, dynamic: bool) -> Calls:
    """Return how to run a module through torch.compile, for this batch size or for any."""
    inputs = plain.feed(batch)
    compiled = torch.compile(plain.module, dynamic=dynamic)
    check(eager(plain.module, inputs), eager(compiled, inputs))
    return {"torch.compile": lambda: compiled(*inputs)}


def aot_inductor(plain: Plain, batch: int | None, folder: Path) -> Callable[..., Any]:
    """Compile a module ahead of time for one batch size, or for any, and load it."""
    from torch._inductor import aoti_compile_and_package, aoti_load_package

    inputs = plain.feed(batch or 32)
    symbol = torch.export.Dim("batch", min=1, max=4096)
    shapes = None if batch else tuple({0: symbol} for _ in inputs)
    program = torch.export.export(plain.module, inputs, dynamic_shapes=shapes)
    path = folder / f"aot-{batch or 'any'}.pt2"
    loaded: Callable[..., Any] = aoti_load_package(
        aoti_compile_and_package(program, package_path=str(path))
    )
    return loaded


def run_aot(program: Callable[[], Callable[..., Any]], plain: Plain, batch: int) -> Calls:
    """Return how to run what AOTInductor has compiled."""
    loaded, inputs = program(), plain.feed(batch)
    check(eager(plain.module, inputs), eager(loaded, inputs))
    return {"AOTInductor": lambda: loaded(*inputs)}


def configure() -> None:
    """Set this process's torch to one thread, in its compilers too."""
    from torch._inductor import config

    torch.set_num_threads(1)
    config.cpp.threads = 1
