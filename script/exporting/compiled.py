"""Checks of a compiled module: it must be saveable, loadable, and behave like the eager one.

Every function raises ExportError, which says what to change.
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

IGNORED = "annotated to be ignored"  # torch's message for a call to an unused function


def refuse_undefined_defaults(compiled: torch.jit.ScriptModule) -> None:
    """Refuse arguments without annotation, hence of type Tensor, whose default is None."""
    for method, argument in torchscript.undefined_defaults(compiled):
        raise ExportError(
            f"the argument '{argument}' of {method} has the default None and no annotation that "
            f"allows it: annotate it, {argument}: Tensor | None = None"
        )


def refuse_unreadable_names(compiled: torch.jit.ScriptModule, script: bytes | str) -> None:
    """Refuse names that LibTorch writes into saved code and cannot read again."""
    for name in unreadable_names(compiled, script):
        what = "a word of Python's own" if name.isascii() else "not ASCII"
        raise ExportError(
            f"the name '{name}' is {what}, and LibTorch cannot read saved code with such names: "
            "rename the argument, attribute, class, function, module or key that has it"
        )


def refuse_other_structure(
    compiled: torch.jit.ScriptModule, method: str, call: Mapping[str, object], result: object
) -> None:
    """Refuse a compiled method whose result has another structure than the eager one's."""
    try:
        with torch.no_grad():
            compiled_result = torchscript.entry(compiled, method)(**copy.deepcopy(dict(call)))
    except Exception as error:
        reason = torchscript.raised_message(error)
        if IGNORED in reason:
            reason = f"{reason}; {hint(reason)}"
        raise ExportError(
            f"the compiled module fails where eager runs: {method} raised: {reason}"
        ) from None
    if outline(compiled_result) != outline(result):
        raise ExportError(
            f"the compiled {method} returns {outline(compiled_result)} where the eager one returns "
            f"{outline(result)}: make both return the same structure (a condition on "
            "torch.jit.is_scripting() may be what differs)"
        )
