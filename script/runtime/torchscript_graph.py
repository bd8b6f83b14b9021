"""The graphs of TorchScript methods, for whoever translates or takes them apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from torchship.script.runtime.torchscript import inference, schema


def inlined_graph(module: torch.jit.ScriptModule, method: str) -> Any:
    """Return a copy of the method's graph with all calls of other methods inlined."""
    graph = module._c._get_method(method).graph.copy()
    torch._C._jit_pass_inline(graph)
    return graph


def with_intermediates(
    module: torch.jit.ScriptModule, method: str, graph: Any, values: Sequence[Any]
) -> Callable[[Mapping[str, object]], tuple[Any, list[torch.Tensor]]]:
    """Return a function that runs a graph, and returns copies of tensors on the way too.

    `graph` is that of `inlined_graph`, which is changed, and `values` are values of it. The
    function takes the method's arguments by name.
    """
    copies = []
    for value in values:
        none = graph.create("prim::Constant", 1)
        none.output().setType(torch._C.NoneType.get())
        none.insertAfter(value.node())
        # A copy made at once: a later node may write to the tensor in place.
        copy = graph.create("aten::clone", [value, none.output()], 1)
        copy.insertAfter(none)
        copies.append(copy.output())
    (result,) = graph.outputs()
    together = graph.create("prim::TupleConstruct", [result, *copies], 1)
    tensor = torch._C.TensorType.get()
    kinds = [result.type(), *(tensor for _ in copies)]
    together.output().setType(torch._C.TupleType(kinds))
    graph.appendNode(together)
    graph.eraseOutput(0)
    graph.registerOutput(together.output())
    function = torch._C._create_function_from_graph(method, graph)
    declared = schema(module, method).arguments[1:]

    def run(arguments: Mapping[str, object]) -> tuple[Any, list[torch.Tensor]]:
        given = [arguments.get(each.name, each.default_value) for each in declared]
        with inference():
            result, *found = function(root_object(module), *given)
        return result, found

    return run


def root_object(module: torch.jit.ScriptModule) -> object:
    """Return the object that is the first argument of the module's graphs."""
    return module._c


def is_object(value: object) -> bool:
    """Whether the value of an attribute is a submodule or another object with attributes."""
    return isinstance(value, torch._C.ScriptModule | torch._C.ScriptObject)


def declared_arguments(node: Any) -> Any:
    """Return the arguments that the operator of a graph's node declares."""
    return torch._C.parse_schema(node.schema()).arguments
