"""Turns errors of torch.jit into one line: what is wrong, where, and what to change."""

from __future__ import annotations

import re
from typing import Literal

Step = Literal["script", "trace", "save"]

# Advice by torch.jit's message. The first matching pattern is used.
HINTS = (
    (
        r"was not annotated",
        "annotate the argument's type: without one TorchScript takes it for a Tensor",
    ),
    (
        r"Python function call|annotated to be ignored|call to ignored|apply of FunctionMeta",
        "a function of Python (@torch.jit.ignore, @torch.jit.unused, autograd.Function) is not "
        "in the archive: write it with torch's operators, in a function that TorchScript compiles",
    ),
    (
        r"'numpy\.\w+' object",
        "make the attribute a number of Python's own: int(...) or float(...)",
    ),
    (
        r"Expected a default value of type",
        "give a default of that type, or annotate the argument as this type | None",
    ),
    (
        r"undefined Tensor|Unsupported value kind: Tensor",
        "an argument without an annotation has the default None, and TorchScript takes it for a "
        "Tensor: annotate it as Tensor | None",
    ),
    (
        r"get source|source code|built-in class|__module__ can't be None",
        "TorchScript reads the source from a file: put the code into a .py file and import it, "
        "since what a notebook, an interpreter's prompt or exec() defines has none",
    ),
    (
        r"[Kk]eyword-only|keyword-arguments? with defaults|\*\*kwargs",
        "make the arguments positional",
    ),
    (r"variable number of arguments", "give the method explicit arguments instead of *args"),
    (
        r"value of type 'Tensor'|inferred to be (of type )?'?Tensor|found Tensor|must be ints",
        "annotate the argument's type: without one TorchScript takes it for a Tensor",
    ),
    (
        r"[Pp]ython value of type|cannot be used as a value|has no attribute|closed over",
        "make it a tensor buffer, a submodule, or an attribute annotated with a plain type",
    ),
    (
        r"Unknown type annotation: '\w+'",
        "write the annotation without quotes, and without `from __future__ import annotations` in "
        "that file, which puts them in quotes",
    ),
    (r"Unknown (type|builtin)|undefined value", "use an operator or type that TorchScript knows"),
    (
        r"\b[Ll]ambda|\b[Cc]omprehension|\b[Tt]ry\b|\b[Ww]ith (statement|item)|\byield\b|"
        r"\bgenerator|n't supported|not (yet )?supported|[Uu]nsupported",
        "rewrite this statement with plain loops, conditions and functions",
    ),
)
TRACE_IT = "or trace the module (--mode trace) if its control flow does not depend on the data"
OTHERWISE = {
    "script": f"rewrite the line with what TorchScript supports, {TRACE_IT}",
    "trace": "a trace takes tensors, and tuples, lists and dicts of them, in one method; script "
    "the module instead (--mode script)",
    "save": "keep in the module what TorchScript can save: tensors, numbers, strings, and tuples, "
    "lists and dicts of them",
}


def explain(text: str, step: Step) -> str:
    """Turn a message of torch.jit into one line: what is wrong, where, and what to change."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    what = lines[0].rstrip(":") if lines else "no reason given"
    what = what.partition(". Remove calls to Python functions")[0]  # advice that may not apply
    where = ""
    place = re.search(r'File "([^"]+)", line (\d+)', text)
    if place:
        where = f" at {place.group(1)}:{place.group(2)}"
        marked = _marked_line(text, place.end())
        if marked:
            where += f" (`{marked}`)"
    advice = hint(what)
    if advice is None:
        advice = OTHERWISE[step]
    elif step == "script":  # the line may be in a library, which the user cannot change
        advice = f"{advice}; {TRACE_IT}"
    return f"torch.jit cannot {step} the module{where}: {what}; {advice}"


def hint(what: str) -> str | None:
    """Return advice for a message of torch.jit; None if there is none."""
    return next((advice for pattern, advice in HINTS if re.search(pattern, what)), None)


def _marked_line(text: str, start: int) -> str:
    """Return the source line above the compiler's `~~~ <--- HERE` mark."""
    previous = ""
    for line in text[start:].splitlines():
        if "<--- HERE" in line:
            return previous.strip()
        previous = line
    return ""
