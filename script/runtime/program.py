"""A loaded model wrapped in its signature: named tensors in, named tensors out.

Every Python runtime uses this class, so that inputs are checked in one place before the model gets
them.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from threading import get_ident
from typing import Any

import torch

from torchship.script.errors import InputError, ModelError, OutOfMemoryError
from torchship.script.format import dtypes
from torchship.script.format.manifest import Manifest, Method
from torchship.script.format.nodes import Leaf, Node, TensorNode, TupleNode, leaves
from torchship.script.format.nodes import shape_text as shape_text
from torchship.script.format.plain_tensors import plain
from torchship.script.format.tree import SCALAR_DTYPES, Flat, build, flatten, matches
from torchship.script.runtime import floating_point
from torchship.script.runtime.out_of_memory import amount, ran_out
from torchship.script.runtime.output_check import OutputCheck, Shaped, SignatureError
from torchship.script.runtime.printing import end_line, running, unfinished
from torchship.script.runtime.torchscript import entry, inference, raised_message


class Program:
    """A module (eager or scripted) that is called with flat, named inputs.

    Calls are thread-safe if the module is: eval-mode modules without hidden state are.
    """

    def __init__(
        self, manifest: Manifest, module: torch.nn.Module, device: str | torch.device = "cpu"
    ) -> None:
        """Take a module that is on `device`; inputs and outputs are on the CPU."""
        self.manifest = manifest
        self.module = module
        self._name = manifest.name
        self._device = None if torch.device(device).type == "cpu" else device
        self._plans = {name: _Plan(method) for name, method in manifest.methods.items()}
        self._checks = {name: OutputCheck(method) for name, method in manifest.methods.items()}
        self._entries: dict[str, Callable[..., Any]] = {}

    def method(self, name: str) -> Method:
        """Return a method's signature.

        Raises:
            InputError: there is no such method.
        """
        return method_of(self.manifest, name)

    def call(self, method: str, inputs: Mapping[str, torch.Tensor]) -> Flat:
        """Check the inputs, run the method, check its named outputs and return them.

        A missing state input gets the initial value of the manifest. The model gets copies, and no
        output shares memory with the model or another output, so that writes by the model or the
        caller have no side effects.

        Raises:
            InputError: the inputs do not fit the signature; nothing was run.
            ModelError: the model raised.
            OutOfMemoryError: there was not enough memory.
            SignatureError: an output does not match the signature.
        """
        symbols = check_inputs(self.method(method), inputs)
        copies = {name: value.detach().clone() for name, value in inputs.items()}
        outputs = self.run(method, copies, symbols)
        try:
            self._checks[method].check(outputs, symbols)
        except SignatureError as error:
            text = self._signature_error_text(method, error)
            raise SignatureError(text, error.output, error.shape) from None
        return _without_aliases(outputs)

    def run(
        self, method: str, inputs: Mapping[str, torch.Tensor], symbols: Mapping[str, int]
    ) -> Flat:
        """Run the method on checked inputs; `symbols` is the result of `check_inputs`.

        The outputs may share memory with the inputs or the model, and their dtypes and shapes are
        not checked against the signature.

        Raises:
            InputError: an input is missing.
            ModelError: the model raised, or returned another structure than the signature says.
            OutOfMemoryError: there was not enough memory.
        """
        plan = self._plans[method]
        given = plan.started(inputs, symbols)
        if self._device is not None:
            given = {name: value.to(self._device) for name, value in given.items()}
        plain = plan.takes is not None and given.keys() == plan.takes
        arguments = given if plain else arguments_of(plan.method, given)
        thread = get_ident()
        outer = running.get(thread)
        running[thread] = self._name  # what is printed until the call returns is the model's
        mode = floating_point.enter()
        try:
            with inference():
                result = self._entry(method)(**arguments)
        except Exception as error:
            if ran_out(error):
                raise OutOfMemoryError(
                    f"model '{self.manifest.name}' method '{method}' ran out of memory"
                    f"{amount(error)}"
                ) from None
            raise ModelError(
                f"model '{self.manifest.name}' method '{method}' raised: {raised_message(error)}"
            ) from error
        finally:
            if mode is not None:
                floating_point.leave(mode)
            if unfinished:
                end_line(thread)
            running[thread] = outer
        try:
            outputs = plan.outputs(result)
            if self._device is None:
                return outputs
            return {name: value.cpu() for name, value in outputs.items()}
        except TypeError as error:
            raise ModelError(self._signature_error_text(method, error)) from None

    def _signature_error_text(self, method: str, error: Exception) -> str:
        return f"model '{self.manifest.name}' method '{method}' broke its signature: {error}"

    def _entry(self, method: str) -> Callable[..., Any]:
        known = self._entries.get(method)
        if known is None:
            known = self._entries[method] = entry(self.module, method)
        return known


def _without_aliases(outputs: Flat) -> Flat:
    """Return the outputs, cloning those that share memory with the model or another output.

    Tensors that a call makes in inference mode are inference tensors; others existed before it.
    """
    owned: Flat = {}
    places: set[int] = set()
    for name, tensor in outputs.items():
        made = plain(tensor)
        place = made.untyped_storage().data_ptr()
        if not tensor.is_inference() or tensor.requires_grad or place in places:
            made = made.clone()
            place = made.untyped_storage().data_ptr()
        places.add(place)
        owned[name] = made
    return owned


class _Plan:
    """Facts about a method, computed once: most methods take and return plain tensors."""

    def __init__(self, method: Method) -> None:
        self.method = method
        plain = all(isinstance(argument.value, TensorNode) for argument in method.inputs)
        self.takes = {argument.name for argument in method.inputs} if plain else None
        nodes = {leaf.name: leaf for arg in method.inputs for leaf in leaves(arg.value)}
        self._starts = [
            node
            for state in method.state
            if state.start == "zeros" and isinstance(node := nodes[state.input], TensorNode)
        ]
        items = method.outputs.items if isinstance(method.outputs, TupleNode) else ()
        self._names = [item.name for item in items if isinstance(item, TensorNode)]
        self._tuple = bool(items) and len(items) == len(self._names)

    def outputs(self, result: object) -> Flat:
        """Return the named outputs of a call.

        Raises:
            TypeError: their structure differs from the signature.
        """
        if (
            self._tuple
            and type(result) is tuple
            and len(result) == len(self._names)
            and set(map(type, result)) == {torch.Tensor}
        ):
            return dict(zip(self._names, result, strict=True))
        return flatten(self.method.outputs, result)

    def started(
        self, inputs: Mapping[str, torch.Tensor], symbols: Mapping[str, int]
    ) -> Mapping[str, torch.Tensor]:
        """Return the inputs, with zeros for missing state inputs that start at zeros.

        Raises:
            InputError: the size of a state does not follow from the other inputs.
        """
        state = self.initial_state(inputs, symbols)
        return {**inputs, **state} if state else inputs

    def initial_state(self, given: Container[str], symbols: Mapping[str, int]) -> Flat:
        """Return zeros for the state inputs that start at zeros and are not given.

        Raises:
            InputError: as `started`.
        """
        state: Flat = {}
        for node in self._starts:
            if node.name in given:
                continue
            shape = []
            for size in node.shape:
                known = symbols.get(size) if isinstance(size, str) else size
                if known is None:
                    raise InputError(
                        f"input '{node.name}' is missing, and its size '{size}' follows from no "
                        f"other input: expected {_text(node)}"
                    )
                shape.append(known)
            state[node.name] = torch.zeros(shape, dtype=dtypes.BY_NAME[node.dtype].torch)
        return state


def method_of(manifest: Manifest, name: str) -> Method:
    """Return a method's signature.

    Raises:
        InputError: there is no such method.
    """
    if name not in manifest.methods:
        raise InputError(
            f"model '{manifest.name}' has no method '{name}': it has {_listed(manifest.methods)}"
        )
    return manifest.methods[name]


def arguments_of(signature: Method, given: Mapping[str, torch.Tensor]) -> Mapping[str, object]:
    """Assemble flat values into a method's arguments.

    Raises:
        InputError: an input is missing, or a string is not UTF-8.
    """
    arguments = {}
    for argument in signature.inputs:
        try:
            arguments[argument.name] = build(argument.value, given)
        except KeyError as missing:
            name = str(missing.args[0])
            if not argument.required and not _any_given(argument.value, given):
                continue
            raise InputError(
                f"input '{name}' is missing: expected {_all_inputs(signature)}"
            ) from None
        except UnicodeDecodeError:
            raise InputError(f"input '{argument.name}': expected UTF-8 text") from None
    return arguments


def initial_state(signature: Method, given: Container[str], symbols: Mapping[str, int]) -> Flat:
    """Return zeros for the state inputs that start at zeros and are not among those `given`.

    `symbols` is the result of `check_inputs`.

    Raises:
        InputError: a state's size follows from no other input.
    """
    return _Plan(signature).initial_state(given, symbols)


def check_inputs(signature: Method, inputs: Mapping[str, Shaped]) -> dict[str, int]:
    """Check names, dtypes and shapes; return the size of each symbol.

    Raises:
        InputError: an input does not fit; the message says what was expected and given.
    """
    known = [leaf for argument in signature.inputs for leaf in leaves(argument.value)]
    symbols: dict[str, int] = {}
    for name, tensor in inputs.items():
        leaf = next((leaf for leaf in known if matches(leaf.name, name)), None)
        if leaf is None:
            raise InputError(f"unknown input '{name}': expected {_all_inputs(signature)}")
        _check_leaf(leaf, name, tensor, symbols)
    return symbols


def _check_leaf(leaf: Leaf, name: str, tensor: Shaped, symbols: dict[str, int]) -> None:
    shape = tensor.shape
    if not isinstance(leaf, TensorNode):
        if leaf.kind == "str":
            fits = tensor.dtype == torch.uint8 and len(shape) == 1
        else:
            fits = tensor.dtype == SCALAR_DTYPES[leaf.kind] and tuple(shape) in ((), (1,))
        if not fits:
            raise InputError(f"input '{name}': expected {leaf.kind}, got {_actual(tensor)}")
        return
    if dtypes.name_of(tensor.dtype) != leaf.dtype or len(shape) != len(leaf.shape):
        raise InputError(f"input '{name}': expected {_text(leaf)}, got {_actual(tensor)}")
    for size, dimension in zip(shape, leaf.shape, strict=True):
        if isinstance(dimension, int) and size != dimension:
            raise InputError(f"input '{name}': expected {_text(leaf)}, got {_actual(tensor)}")
        if isinstance(dimension, str) and symbols.setdefault(dimension, size) != size:
            raise InputError(
                f"input '{name}': expected {_text(leaf)} with {dimension}={symbols[dimension]}, "
                f"got {_actual(tensor)}"
            )


def _actual(tensor: Shaped) -> str:
    return f"{dtypes.name_of(tensor.dtype)}[{','.join(map(str, tensor.shape))}]"


def _text(leaf: TensorNode) -> str:
    return f"{leaf.dtype}{shape_text(leaf.shape)}"


def _any_given(value: Node, given: Mapping[str, torch.Tensor]) -> bool:
    return any(matches(leaf.name, name) for leaf in leaves(value) for name in given)


def _all_inputs(signature: Method) -> str:
    return _listed(leaf.name for argument in signature.inputs for leaf in leaves(argument.value))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
