"""The state inputs and outputs of one step of a sequence."""

from __future__ import annotations

from collections.abc import Container

from torchship.script.format.manifest import Method
from torchship.script.format.nodes import leaves
from torchship.script.format.tree import Flat
from torchship.serve.engine.engine import Engine
from torchship.serve.errors import (
    ExpiredSequenceError,
    LostSequenceError,
    RequestError,
    UnknownSequenceError,
)
from torchship.serve.protocol.messages import InferRequest
from torchship.serve.sequences.store import SequenceKey, SequenceState, Turn


def found(turn: Turn, key: SequenceKey) -> SequenceState:
    """Return the state of a sequence.

    Raises:
        UnknownSequenceError, ExpiredSequenceError: it has no state.
        LostSequenceError: the stored bytes are not a state.
    """
    if turn.state is not None:
        return turn.state
    if turn.damaged:
        raise LostSequenceError(
            f"{key} has ended: what the store holds of it cannot be read; start anew"
        )
    if turn.expired:
        raise ExpiredSequenceError(f"{key} has expired: it was not used for too long; start anew")
    raise UnknownSequenceError(
        f"{key} is unknown: expected sequence_start with its first request; "
        "it was never started, or has ended"
    )


def going_on(
    engine: Engine,
    key: SequenceKey,
    turn: Turn,
    request: InferRequest,
    inputs: Container[str],
) -> Flat:
    """Return the state inputs of a later step than the first.

    Raises:
        RequestError: the request has state inputs of its own, or its method has a different state.
    """
    state, method = found(turn, key), request.method
    requested, first = engine.signature(method).method, engine.signature(state.method).method
    if requested is not first and _layout(requested) != _layout(first):
        raise RequestError(
            f"{key} began with method '{state.method}', whose state is another than that of "
            f"'{method}'"
        )
    for part in requested.state:
        if part.input in inputs:
            raise RequestError(
                f"input '{part.input}' is state of {key}: expected it with sequence_start only"
            )
    retried = request.idempotency_key and request.idempotency_key == state.step
    return state.before if retried else state.tensors


def fits(method: Method, tensors: Flat) -> bool:
    """Return whether the names of these tensors are those of a method's state."""
    needed = {state.input for state in method.state if state.start == "zeros"}
    return needed <= tensors.keys() <= {state.input for state in method.state}


def _layout(method: Method) -> object:
    """Return the state's layout, which must be equal for two methods to step one sequence."""
    nodes = {leaf.name: leaf for argument in method.inputs for leaf in leaves(argument.value)}
    return {state.input: (nodes[state.input], state.start) for state in method.state}
