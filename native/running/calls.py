"""Calls of one compiled method: what a call of known sizes needs is made once for each thread."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from torchship.native.errors import NativeError
from torchship.script.errors import InputError
from torchship.script.format.dtypes import BY_NAME
from torchship.script.format.manifest import Method
from torchship.script.format.nodes import omissible
from torchship.script.format.tree import Flat
from torchship.script.runtime.program import arguments_of, initial_state

MESSAGE_BYTES = 4096
RAISED = 1
MOST_PREPARED = 256  # sizes of calls that a thread keeps
LARGEST = (
    1 << 20
)  # bytes of outputs that are kept; making larger ones is a small part of their call

Words = Any  # an array of c_int64: every field of a struct of inputs or outputs is 8 bytes wide


class RaisedError(Exception):
    """The model raised; the text is the first line of its message."""


class Memory(threading.local):
    """The workspace of a thread; it grows to what the largest call needs."""

    def __init__(self) -> None:
        self._tensor = torch.empty(0, dtype=torch.uint8)

    def of(self, size: int) -> int:
        """Return the address of at least `size` bytes, which the next call may use too."""
        if self._tensor.numel() < size:
            self._tensor = torch.empty(size, dtype=torch.uint8)
        return self._tensor.data_ptr()


@dataclass(frozen=True)
class _Prepared:
    """A call with certain sizes: its structs, and the outputs that the second one points to."""

    given: Words
    given_address: int
    results: Words
    results_address: int
    message: ctypes.Array[ctypes.c_char]
    outputs: Flat
    workspace_bytes: int


class _Kept(threading.local):
    """The prepared calls of a thread, by their sizes."""

    def __init__(self) -> None:
        self.calls: dict[tuple[int | None, ...], _Prepared] = {}


class MethodCalls:
    """One method of a library. Calls are thread-safe: each thread has its own structs."""

    def __init__(
        self,
        library: ctypes.CDLL,
        prefix: str,
        known: Mapping[str, Any],
        signature: Method,
        memory: Memory,
    ) -> None:
        """Look the functions of `<prefix>` up; `known` is what the library tells of the method.

        Raises:
            NativeError: an argument has a default that the compiled code does not know.
        """
        self._signature = signature
        self._memory = memory
        self._kept = _Kept()
        pointer = ctypes.c_void_p
        self._run = _function(library, prefix, ctypes.c_int, pointer, pointer, pointer, pointer)
        self._size = _function(library, f"{prefix}_workspace_size", ctypes.c_size_t, pointer)
        self._shape = _function(
            library, f"{prefix}_shape", ctypes.c_int, pointer, ctypes.c_int, pointer
        )
        fields = list(enumerate(known["inputs"]))
        self._fields = len(fields)
        self._sizes = [(n, field["leaf"]) for n, field in fields if field["kind"] == "size"]
        self._symbols = [leaf for _, leaf in self._sizes]
        self._numbers = [
            (n, field["leaf"], field["kind"])
            for n, field in fields
            if field["kind"] not in ("size", "tensor")
        ]
        self._tensors = [(n, field["leaf"]) for n, field in fields if field["kind"] == "tensor"]
        self._outputs = [
            (field["leaf"], BY_NAME[field["dtype"]].torch, field["rank"])
            for field in known["outputs"]
        ]
        optional = {field["leaf"] for _, field in fields if field.get("optional")}
        for argument in signature.inputs:
            for leaf in omissible(argument.value, argument.required):
                if leaf.name not in optional:
                    raise NativeError(
                        f"argument '{argument.name}' has a default that compiled code does not know"
                    )
        self._accepted: list[frozenset[str]] = []

    def run(self, inputs: Mapping[str, torch.Tensor], symbols: Mapping[str, int]) -> Flat:
        """Run the method on checked CPU tensors; `symbols` is the result of `check_inputs`.

        Small outputs are valid until the thread's next call of the method only.

        Raises:
            InputError: an input is missing.
            RaisedError: the model raised.
        """
        if inputs.keys() not in self._accepted:
            self._accept(inputs, symbols)
        sizes = tuple(map(symbols.get, self._symbols))
        if None in sizes:
            sizes = self._open_sizes(sizes, inputs)
        key = sizes
        words: list[tuple[int, int]] = []
        if self._numbers:
            words = [(n, _word(kind, inputs[leaf])) for n, leaf, kind in self._numbers]
            key = (*sizes, *(word for _, word in words))
        prepared = self._kept.calls.get(key)
        if prepared is None:
            prepared = self._prepare(key, sizes, words)
        given = prepared.given
        copies = []
        for n, leaf in self._tensors:
            tensor = inputs.get(leaf)
            if tensor is None:
                given[n] = 0
                continue
            if not tensor.is_contiguous():
                tensor = tensor.contiguous()
                copies.append(tensor)
            given[n] = tensor.data_ptr() or prepared.given_address  # an empty one has no address
        workspace = self._memory.of(prepared.workspace_bytes)
        status = self._run(None, prepared.given_address, prepared.results_address, workspace)
        if status:
            text = prepared.message.value.decode(errors="replace")
            if status == RAISED:
                raise RaisedError(
                    next((line for line in map(str.strip, text.splitlines()) if line), "")
                )
            raise InputError(text)
        return dict(prepared.outputs)

    def _accept(self, inputs: Mapping[str, torch.Tensor], symbols: Mapping[str, int]) -> None:
        """Refuse calls in which an input is missing, with the message of every runtime."""
        started = initial_state(self._signature, inputs, symbols)
        arguments_of(self._signature, {**inputs, **started})
        self._accepted.append(frozenset(inputs))

    def _open_sizes(
        self, sizes: tuple[int | None, ...], inputs: Mapping[str, torch.Tensor]
    ) -> tuple[int | None, ...]:
        """Return the sizes, with those of dimensions without a symbol: `<leaf>.<axis>`."""
        found = []
        for size, key in zip(sizes, self._symbols, strict=True):
            leaf, _, axis = key.rpartition(".")
            if size is None:
                size = inputs[leaf].shape[int(axis)] if leaf in inputs else 0
            found.append(size)
        return tuple(found)

    def _prepare(
        self,
        key: tuple[int | None, ...],
        sizes: Sequence[int | None],
        words: Sequence[tuple[int, int]],
    ) -> _Prepared:
        given = (ctypes.c_int64 * max(1, self._fields))()
        for (n, _), size in zip(self._sizes, sizes, strict=True):
            given[n] = size or 0
        for n, word in words:
            given[n] = word
        address = ctypes.addressof(given)
        results = (ctypes.c_int64 * (len(self._outputs) + 2))()
        outputs: Flat = {}
        for number, (leaf, dtype, rank) in enumerate(self._outputs):
            shape = (ctypes.c_int64 * max(1, rank))()
            self._shape(address, number, ctypes.addressof(shape))
            axes = [max(0, size) for size in list(shape)[:rank]]  # below 0: the call raises
            made = outputs[leaf] = torch.empty(axes, dtype=dtype)
            results[number] = made.data_ptr() or address
        message = ctypes.create_string_buffer(MESSAGE_BYTES)
        results[-2], results[-1] = ctypes.addressof(message), MESSAGE_BYTES
        prepared = _Prepared(
            *(given, address, results, ctypes.addressof(results), message, outputs),
            self._size(address),
        )
        if sum(output.nbytes for output in outputs.values()) <= LARGEST:
            if len(self._kept.calls) >= MOST_PREPARED:
                self._kept.calls.clear()
            self._kept.calls[key] = prepared
        return prepared


def _function(library: ctypes.CDLL, name: str, gives: Any, *takes: Any) -> Any:
    function = library[name]
    function.restype, function.argtypes = gives, takes
    return function


def _word(kind: str, value: torch.Tensor) -> int:
    """Return a number as the 8 bytes of its field."""
    if kind == "float":
        return ctypes.c_int64.from_buffer(ctypes.c_double(float(value))).value
    return int(value)
