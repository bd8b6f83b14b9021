"""A method's signature in the protocol: wire tensors to flat leaves and back, and metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from torchship.script.format.dtypes import BY_NAME, name_of
from torchship.script.format.manifest import Manifest, Method
from torchship.script.format.nodes import Leaf, TensorNode, leaves, omissible
from torchship.script.format.tree import SCALAR_DTYPES, matches
from torchship.script.runtime.program import shape_text
from torchship.serve.errors import RequestError
from torchship.serve.protocol.tensors import (
    BYTES,
    RawTensor,
    Strings,
    Value,
    Wire,
    datatype_of,
    pack,
)

PLATFORM = "pytorch_libtorch"  # as Triton names a TorchScript model
BACKEND = "torchship"


class Signature:
    """Maps wire tensors to the flat leaves of a method, and back.

    On the wire, a number is a tensor of shape [1] or [], a string a BYTES tensor of one element.
    docs/archive.md ("Values") describes the flat leaves.
    """

    def __init__(self, method: Method) -> None:
        self.method = method
        known = wire_inputs(method)
        self._exact = {leaf.name: leaf for leaf in known if "*" not in leaf.name}
        self._patterns = [leaf for leaf in known if "*" in leaf.name]
        self._unchanged = {name for name, leaf in self._exact.items() if leaf.kind != "str"}
        self._outputs = frozenset(leaf.name for leaf in leaves(method.outputs))

    def leaf(self, name: str) -> Leaf:
        """Return the input leaf with this name.

        Raises:
            RequestError: the method has no such input.
        """
        found = self._exact.get(name)
        if found is None:
            found = next((leaf for leaf in self._patterns if matches(leaf.name, name)), None)
        if found is None:
            names = ", ".join(f"'{leaf}'" for leaf in self._exact | _by_name(self._patterns))
            raise RequestError(f"unknown input '{name}': expected {names}")
        return found

    def wanted(self, asked: frozenset[str]) -> frozenset[str] | None:
        """Return the requested outputs; None if it is all of them, or if one is unknown."""
        return asked if asked and asked <= self._outputs else None

    def to_flat(self, values: Mapping[str, Wire]) -> dict[str, RawTensor]:
        """Return wire tensors as flat leaves; those that are raw already share their memory.

        Raises:
            RequestError: an unknown name; a string where a tensor is expected, or the reverse.
                Dtypes and shapes are not checked here.
        """
        flat: dict[str, RawTensor] = {}
        for name, value in values.items():
            if type(value) is RawTensor and name in self._unchanged:
                flat[name] = value  # most are; to look for their leaves takes 1 us a request
                continue
            leaf = self.leaf(name)
            if isinstance(value, Strings):
                if leaf.kind != "str" or value.shape not in ((), (1,)):
                    raise RequestError(
                        f"input '{name}': expected {_expected(leaf)}, "
                        f"got {BYTES}{shape_text(value.shape)}"
                    )
                data = value.items[0]
                flat[name] = RawTensor(torch.uint8, (len(data),), data)
            elif leaf.kind == "str":
                actual = f"{name_of(value.dtype)}{shape_text(tuple(value.shape))}"
                raise RequestError(f"input '{name}': expected {_expected(leaf)}, got {actual}")
            else:
                flat[name] = value if isinstance(value, RawTensor) else pack(value)
        return flat

    def to_wire(self, flat: Mapping[str, torch.Tensor]) -> dict[str, Value]:
        """Return flat leaves as wire tensors, for a client to send.

        Raises:
            RequestError: an unknown name.
        """
        values: dict[str, Value] = {}
        for name, tensor in flat.items():
            kind = self.leaf(name).kind
            if kind == "str":
                values[name] = Strings((1,), [bytes(pack(tensor).data)])
            else:
                values[name] = tensor if kind == "tensor" else tensor.reshape(1)
        return values


def describe(
    manifest: Manifest, versions: Sequence[str], parameters: Mapping[str, object]
) -> dict[str, object]:
    """Return the protocol's model metadata; `methods` holds the methods other than `forward`.

    A dimension of any size is -1. An input that may be left out has `"optional": true`.
    """
    forward = manifest.methods.get("forward")
    others = {name: method for name, method in manifest.methods.items() if name != "forward"}
    return {
        "name": manifest.name,
        "versions": list(versions),
        "platform": PLATFORM,
        "parameters": parameters,
        **(_tensors(forward) if forward else {"inputs": [], "outputs": []}),
        **({"methods": {k: _tensors(method) for k, method in others.items()}} if others else {}),
    }


def describe_config(manifest: Manifest) -> dict[str, object]:
    """Return Triton's model configuration of `forward`.

    `max_batch_size` is 0, which in Triton means that the shapes include the batch dimension: a
    request may have any number of rows in the first dimension that is -1.
    """
    forward = manifest.methods.get("forward")
    tensors = _tensors(forward) if forward else {"inputs": [], "outputs": []}
    return {
        "name": manifest.name,
        "platform": PLATFORM,
        "backend": BACKEND,
        "max_batch_size": 0,
        "input": [_config(tensor) for tensor in tensors["inputs"]],
        "output": [_config(tensor) for tensor in tensors["outputs"]],
    }


def _config(tensor: Mapping[str, object]) -> dict[str, object]:
    """Return a tensor of the metadata in the form of the model configuration."""
    datatype = tensor["datatype"]
    return {
        "name": tensor["name"],
        "data_type": "TYPE_STRING" if datatype == BYTES else f"TYPE_{datatype}",
        "dims": tensor["shape"],
        **({"optional": True} if "optional" in tensor else {}),
    }


def wire_inputs(method: Method) -> list[Leaf]:
    """Return the input leaves of a method, in order; `*` in a name matches any key or number."""
    return [leaf for argument in method.inputs for leaf in leaves(argument.value)]


def optional_inputs(method: Method) -> set[str]:
    """Return the names of the inputs that may be left out, including state."""
    optional = {state.input for state in method.state}
    for argument in method.inputs:
        optional.update(leaf.name for leaf in omissible(argument.value, argument.required))
    return optional


def _tensors(method: Method) -> dict[str, list[dict[str, object]]]:
    optional = optional_inputs(method)
    inputs = [
        describe_leaf(leaf) | ({"optional": True} if leaf.name in optional else {})
        for leaf in wire_inputs(method)
    ]
    return {"inputs": inputs, "outputs": [describe_leaf(leaf) for leaf in leaves(method.outputs)]}


def describe_leaf(leaf: Leaf) -> dict[str, object]:
    """Return a leaf's metadata: name, datatype, and shape with -1 for an open size."""
    if isinstance(leaf, TensorNode):
        shape = [size if isinstance(size, int) else -1 for size in leaf.shape]
        return {"name": leaf.name, "datatype": BY_NAME[leaf.dtype].wire, "shape": shape}
    datatype = BYTES if leaf.kind == "str" else datatype_of(_number(leaf.kind))
    return {"name": leaf.name, "datatype": datatype, "shape": [1]}


def _number(kind: str) -> torch.Tensor:
    return torch.empty((), dtype=SCALAR_DTYPES[kind])


def _expected(leaf: Leaf) -> str:
    if isinstance(leaf, TensorNode):
        return f"{leaf.dtype}{shape_text(leaf.shape)}"
    return "str (BYTES[1])" if leaf.kind == "str" else leaf.kind


def _by_name(found: Sequence[Leaf]) -> dict[str, Leaf]:
    return {leaf.name: leaf for leaf in found}
