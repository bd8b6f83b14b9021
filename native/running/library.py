"""A compiled library in this process, called through ctypes with named tensors."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from torchship.native.errors import NativeError
from torchship.native.ir.dtypes import TORCH
from torchship.script.errors import InputError, ModelError
from torchship.script.format.manifest import Manifest
from torchship.script.format.tree import Flat
from torchship.script.runtime.program import check_inputs

MESSAGE_BYTES = 4096
RAISED = 1


class _Word(ctypes.Union):
    """A field of a struct of inputs or outputs: all are 8 bytes wide."""

    _fields_ = (
        ("integer", ctypes.c_int64),
        ("number", ctypes.c_double),
        ("pointer", ctypes.c_void_p),
    )


class Library:
    """The methods of a compiled archive. Calls are thread-safe; each makes its own workspace."""

    def __init__(self, path: Path, manifest: Manifest, digest: str) -> None:
        """Load the library at `path`, which must have been compiled from the archive.

        Raises:
            NativeError: it cannot be loaded, or belongs to another archive.
        """
        try:
            self._library = ctypes.CDLL(str(path.resolve()))
            tell = self._library.torchship_native_info
        except (OSError, AttributeError) as error:
            raise NativeError(
                f"'{path.name}' is no library that torchship compiled: {error}"
            ) from None
        tell.restype = ctypes.c_char_p
        self._info: dict[str, Any] = json.loads(tell())
        if self._info["archive"] != digest:
            raise NativeError(
                f"'{path.name}' was compiled from another archive: expected the digest "
                f"{digest[:16]}…, got {self._info['archive'][:16]}…; compile it again"
            )
        self.manifest = manifest

    def call(self, method: str, inputs: Mapping[str, torch.Tensor]) -> Flat:
        """Check the inputs, run the method and return its named outputs.

        Raises:
            InputError: the inputs do not fit the signature.
            ModelError: the model raised.
        """
        if method not in self._info["methods"]:
            raise InputError(f"the library has no method '{method}'")
        known = self._info["methods"][method]
        symbols = check_inputs(self.manifest.methods[method], inputs)
        kept: list[torch.Tensor] = []
        given = (_Word * max(1, len(known["inputs"])))()
        for word, field in zip(given, known["inputs"], strict=False):
            self._fill(word, field, inputs, symbols, kept)
        prefix = f"{self._info['prefix']}_{method}"
        outputs: Flat = {}
        results = (_Word * (len(known["outputs"]) + 2))()
        for number, (word, field) in enumerate(zip(results, known["outputs"], strict=False)):
            shape = (ctypes.c_int64 * max(1, field["rank"]))()
            self._function(f"{prefix}_shape")(given, number, shape)
            made = torch.empty(list(shape)[: field["rank"]], dtype=TORCH[field["dtype"]])
            outputs[field["leaf"]] = made
            word.pointer = made.data_ptr() or ctypes.addressof(results)
        message = ctypes.create_string_buffer(MESSAGE_BYTES)
        results[-2].pointer, results[-1].integer = ctypes.addressof(message), MESSAGE_BYTES
        size_of = self._function(f"{prefix}_workspace_size")
        size_of.restype = ctypes.c_size_t
        workspace = ctypes.create_string_buffer(int(size_of(given)))
        status = self._function(prefix)(None, given, results, workspace)
        if status:
            text = message.value.decode(errors="replace")
            if status == RAISED:
                raise ModelError(f"model '{self.manifest.name}' method '{method}' raised: {text}")
            raise InputError(f"method '{method}': {text}")
        return outputs

    def _function(self, name: str) -> Any:
        return getattr(self._library, name)

    def _fill(
        self,
        word: _Word,
        field: Mapping[str, Any],
        inputs: Mapping[str, torch.Tensor],
        symbols: Mapping[str, int],
        kept: list[torch.Tensor],
    ) -> None:
        leaf = field["leaf"]
        if field["kind"] == "size":
            word.integer = symbols.get(leaf, _size(leaf, inputs))
            return
        value = inputs.get(leaf)
        if value is None:
            if not field["optional"]:
                raise InputError(f"input '{leaf}' is missing")
            return
        if field["kind"] == "tensor":
            plain = value.detach().contiguous()
            kept.append(plain)
            word.pointer = plain.data_ptr() or ctypes.addressof(word)
        elif field["kind"] == "float":
            word.number = float(value)
        else:
            word.integer = int(value)


def _size(leaf: str, inputs: Mapping[str, torch.Tensor]) -> int:
    """Return the size of a dimension without a symbol, whose key is `<leaf>.<axis>`."""
    name, _, axis = leaf.rpartition(".")
    return inputs[name].shape[int(axis)] if name in inputs else 0
