"""What a compiled module must not be if it is to be saved, loaded again, and do what eager does.

Every function here raises ExportError, with what to change.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch

from torchship.script.errors import ExportError
from torchship.script.exporting.saved_code import unreadable_names
from torchship.script.exporting.values import outline
from torchship.script.runtime import torchscript
from torchship.script.runtime.explanations import hint

IGNORED = "annotated to be ignored"  # what torch says of a call to an unused function


def refuse_undefined_defaults(compiled: torch.jit.ScriptModule) -> None:
    """Refuse arguments that TorchScript takes for tensors and whose default is None."""
    for method, argument in torchscript.undefined_defaults(compiled):
        raise ExportError(
            f"the argument '{argument}' of {method} has the default None and no annotation that "
            f"allows it: annotate it, {argument}: Tensor | None = None"
        )


def refuse_unreadable_names(compiled: torch.jit.ScriptModule, script: bytes | str) -> None:
    """Refuse code that LibTorch writes and cannot read again."""
    for name in unreadable_names(compiled, script):
        what = "a word of Python's own" if name.isascii() else "not ASCII"
        raise ExportError(
            f"the name '{name}' is {what}, and LibTorch cannot read saved code with such names: "
            "rename the argument, attribute, class, function, module or key that has it"
        )


def refuse_other_structure(
    compiled: torch.jit.ScriptModule, method: str, call: Mapping[str, object], result: object
) -> None:
    """Refuse a compiled method that answers a call with another structure than the eager one."""
    try:
        with torch.no_grad():
            came = torchscript.entry(compiled, method)(**copy.deepcopy(dict(call)))
    except Exception as error:
        said = torchscript.raised_message(error)
        if IGNORED in said:
            said = f"{said}; {hint(said)}"
        raise ExportError(
            f"the compiled module fails where eager runs: {method} raised: {said}"
        ) from None
    if outline(came) != outline(result):
        raise ExportError(
            f"the compiled {method} returns {outline(came)} where the eager one returns "
            f"{outline(result)}: make both return the same structure (a condition on "
            "torch.jit.is_scripting() may be what differs)"
        )
