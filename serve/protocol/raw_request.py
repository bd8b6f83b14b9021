"""Raw requests: with `Inference-Header-Content-Length: 0`, the body is the data of the one input.

Source: Triton's binary tensor data extension ("Raw Binary Request").
"""

from __future__ import annotations

from math import prod

from torchship.script.format.dtypes import BY_NAME
from torchship.script.format.manifest import Method
from torchship.script.format.nodes import TensorNode
from torchship.script.runtime.program import shape_text
from torchship.serve.errors import RequestError
from torchship.serve.protocol.messages import InferRequest
from torchship.serve.protocol.tensors import from_binary
from torchship.serve.protocol.wire_signature import optional_inputs, wire_inputs


def decode_raw(method: Method, body: bytes | bytearray) -> InferRequest:
    """Read a raw request; its outputs are sent as binary data.

    The size of the one open dimension follows from the body's size.

    Raises:
        RequestError: the method needs more than one tensor, the tensor leaves more than one
            dimension open, or the body is not a whole number of rows.
    """
    leaf = _only_tensor(method)
    dtype = BY_NAME[leaf.dtype]
    what = f"a raw request for input '{leaf.name}'"
    open_sizes = [size for size in leaf.shape if not isinstance(size, int)]
    if len(open_sizes) > 1:
        raise RequestError(
            f"{what}: expected a shape with at most one open dimension, "
            f"got {leaf.dtype}{shape_text(leaf.shape)}"
        )
    step = prod(size for size in leaf.shape if isinstance(size, int)) * dtype.size
    if open_sizes and (not step or len(body) % step):
        raise RequestError(
            f"{what}: expected a multiple of {step} bytes for "
            f"{leaf.dtype}{shape_text(leaf.shape)}, got {len(body)}"
        )
    shape = tuple(s if isinstance(s, int) else len(body) // step for s in leaf.shape)
    value = from_binary(what, dtype.wire, shape, memoryview(body))
    return InferRequest({leaf.name: value}, parameters={"binary_data_output": True})


def _only_tensor(method: Method) -> TensorNode:
    optional = optional_inputs(method)
    needed = [leaf for leaf in wire_inputs(method) if leaf.name not in optional]
    if len(needed) == 1 and isinstance(needed[0], TensorNode):
        return needed[0]
    names = ", ".join(f"'{leaf.name}'" for leaf in needed) or "none"
    raise RequestError(f"a raw request: expected a model that needs one tensor, it needs {names}")
