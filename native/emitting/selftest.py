"""C that runs the golden cases where the code is: on the robot, in the browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from torchship.native.emitting.numbers import array_lines
from torchship.native.emitting.places import c_type
from torchship.native.emitting.unit import CompiledMethod, Unit
from torchship.native.emitting.writer import Writer, double_literal, string_literal
from torchship.native.importing.method import Field
from torchship.native.ir.dtypes import ITEM_SIZES, NAMES
from torchship.script.format.golden import Case, Step
from torchship.script.format.manifest import Method
from torchship.script.format.tree import matches


def emit(out: Writer, unit: Unit) -> None:
    """Write `<prefix>_selftest` and the size of its workspace."""
    prefix, methods, signatures, cases = unit.prefix, unit.methods, unit.signatures, unit.cases
    known = {method.program.name: method for method in methods}
    _comparisons(
        out,
        {NAMES[t.dtype] for case in cases for step in case.steps for t in step.outputs.values()},
    )
    body, total = Writer(1), 0
    for number, case in enumerate(cases):
        method, signature = known[case.method], signatures[case.method]
        carried: dict[str, str] = {}
        for index, step in enumerate(case.steps):
            names = {}
            for side, tensors in (("in", step.inputs), ("out", step.outputs)):
                for leaf, tensor in tensors.items():
                    field = _field(method, leaf, side)
                    if field is not None and field.kind == "tensor":
                        names[side, leaf] = f"case_{number}_{index}_{side}_{field.name}"
                        _array(out, names[side, leaf], tensor)
            places, total = _places(method, step.outputs, total)
            carried = _step(body, prefix, method, signature, case, step, names, places, carried)
    with out.block(f"size_t {prefix}_selftest_workspace_size(void)"):
        out.line(f"return {total} + {prefix}_selftest_call_size();")
    out.line(f"{_head(unit)} {{")
    if not unit.weights_apart:
        out.line(f"  const {prefix}_weights *const weights = NULL;")
    with out.indented():
        out.line("ts_message message = {text, text_size, 0};")
        out.line("char *memory = (char *)workspace + (64 - (uintptr_t)workspace % 64) % 64;")
        out.line(f"char *call = memory + {total};")
        out.line("int64_t checked = 0, differing = 0;")
    out.lines += body.lines
    with out.indented():
        out.line("if (differing) {")
        with out.indented():
            out.line('ts_say(&message, " differs");')
            out.line("return (int)differing;")
        out.line("}")
        out.line("ts_say_integer(&message, checked);")
        out.line(
            f"ts_say(&message, {string_literal(f' outputs of {len(cases)} golden cases agree')});"
        )
        out.line("return 0;")
    out.line("}")


def declare(out: Writer, unit: Unit) -> None:
    """Write the declarations for the header."""
    out.line()
    out.line(
        "/* Runs the golden cases. Returns how many outputs differ from them by more than "
        "their tolerances, or -1 if a call fails; the text says which, or how many agree. */"
    )
    out.line(f"{_head(unit)};")
    out.line(f"size_t {unit.prefix}_selftest_workspace_size(void);")


def _head(unit: Unit) -> str:
    weights = f"const {unit.prefix}_weights *weights, " if unit.weights_apart else ""
    return f"int {unit.prefix}_selftest({weights}void *workspace, char *text, int64_t text_size)"


def call_size(
    out: Writer, prefix: str, methods: Sequence[CompiledMethod], cases: Sequence[Case]
) -> None:
    """Write a function that returns the largest workspace that a golden case needs."""
    known = {method.program.name: method for method in methods}
    with out.block(f"static size_t {prefix}_selftest_call_size(void)"):
        out.line("size_t largest = 0, size;")
        for case in cases:
            method = known[case.method]
            for step in case.steps[:1]:
                with out.block(""):
                    out.line(f"{prefix}_{case.method}_in in;")
                    out.line("memset(&in, 0, sizeof in);")
                    _sizes(out, method, step.inputs)
                    out.line(f"size = {prefix}_{case.method}_workspace_size(&in);")
                    out.line("if (size > largest) largest = size;")
            for step in case.steps[1:]:
                if _size_values(method, step.inputs) != _size_values(method, case.steps[0].inputs):
                    with out.block(""):
                        out.line(f"{prefix}_{case.method}_in in;")
                        out.line("memset(&in, 0, sizeof in);")
                        _sizes(out, method, step.inputs)
                        out.line(f"size = {prefix}_{case.method}_workspace_size(&in);")
                        out.line("if (size > largest) largest = size;")
        out.line("return largest + 64;")


def _field(method: CompiledMethod, leaf: str, side: str) -> Field | None:
    fields = method.interface.inputs if side == "in" else method.interface.outputs
    return next((f for f in fields if f.leaf == leaf and f.kind != "size"), None)


def _array(out: Writer, name: str, tensor: torch.Tensor) -> None:
    kind = c_type(NAMES[tensor.dtype])
    lines = array_lines(tensor.reshape(-1), NAMES[tensor.dtype])
    out.line(f"static const {kind} {name}[{max(1, tensor.numel())}] = {{")
    out.lines += [f"    {line}" for line in lines]
    out.lines[-1] += "};"


def _places(
    method: CompiledMethod, outputs: Mapping[str, torch.Tensor], total: int
) -> tuple[dict[str, int], int]:
    places = {}
    for field in method.interface.outputs:
        places[field.leaf] = total
        size = outputs[field.leaf].numel() * ITEM_SIZES[field.dtype]
        total += -(-max(1, size) // 64) * 64
    return places, total


def _size_values(method: CompiledMethod, inputs: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Return the sizes and numbers of a call by field."""
    values: dict[str, int] = {}
    for field in method.interface.inputs:
        if field.kind == "tensor" and field.leaf in inputs:
            for size, actual in zip(field.symbols, inputs[field.leaf].shape, strict=True):
                if isinstance(size, str):
                    values[size] = actual
    return values


def _sizes(out: Writer, method: CompiledMethod, inputs: Mapping[str, torch.Tensor]) -> None:
    values = _size_values(method, inputs)
    for field in method.interface.inputs:
        if field.kind == "size":
            out.line(f"in.{field.name} = {values.get(field.leaf, 0)};")
        elif field.kind == "float":
            out.line(f"in.{field.name} = {double_literal(float(inputs[field.leaf]))};")
        elif field.kind in ("int", "bool"):
            out.line(f"in.{field.name} = {int(inputs[field.leaf])};")


def _step(
    out: Writer,
    prefix: str,
    method: CompiledMethod,
    signature: Method,
    case: Case,
    step: Step,
    names: Mapping[tuple[str, str], str],
    places: Mapping[str, int],
    carried: Mapping[str, str],
) -> dict[str, str]:
    """Write one call and its comparisons; return where the next step finds its state."""
    inputs, outputs = step.inputs, step.outputs
    with out.block(""):
        out.line(f"{prefix}_{case.method}_in in;")
        out.line(f"{prefix}_{case.method}_out out;")
        out.line("memset(&in, 0, sizeof in);")
        out.line("memset(&out, 0, sizeof out);")
        _sizes(out, method, inputs)
        for field in method.interface.inputs:
            if field.kind == "tensor":
                given = carried.get(field.leaf) or names.get(("in", field.leaf))
                if given:
                    out.line(f"in.{field.name} = {given};")
        for field in method.interface.outputs:
            out.line(f"out.{field.name} = {_place(field.dtype, places[field.leaf])};")
        # A call empties its message, and the first difference must stay there.
        out.line("out.message = differing ? NULL : text;")
        out.line("out.message_size = text_size;")
        out.line(f"if ({prefix}_{case.method}(weights, &in, &out, call)) return -1;")
        for field in method.interface.outputs:
            pattern = next(p for p in signature.tolerances if matches(p, field.leaf))
            tolerance = signature.tolerances[pattern]
            golden = names["out", field.leaf]
            out.line("checked++;")
            with out.block(
                f"if (ts_differs_{field.dtype}(out.{field.name}, {golden}, "
                f"{outputs[field.leaf].numel()}, {double_literal(tolerance.atol)}, "
                f"{double_literal(tolerance.rtol)}))"
            ):
                label = string_literal(f"{case.name}: {field.leaf}")
                out.line(f"if (!differing++) ts_say(&message, {label});")
    return {
        state.input: _place(_dtype(method, state.output), places[state.output])
        for state in signature.state
        if state.output in places
    }


def _place(dtype: str, offset: int) -> str:
    return f"({c_type(dtype)} *)(void *)(memory + {offset})"


def _dtype(method: CompiledMethod, leaf: str) -> str:
    return next(f.dtype for f in method.interface.outputs if f.leaf == leaf)


def _comparisons(out: Writer, dtypes: set[str]) -> None:
    for dtype in sorted(dtypes):
        kind = c_type(dtype)
        with out.block(
            f"static int ts_differs_{dtype}(const {kind} *a, const {kind} *b, int64_t count, "
            "double atol, double rtol)"
        ):
            with out.block("for (int64_t i = 0; i < count; i++)"):
                out.line("const double x = (double)a[i], y = (double)b[i];")
                # Of an infinite golden value, `rtol * fabs(y)` would allow everything.
                out.line("if (x == y) continue;")
                out.line("if (isinf(y) || !(fabs(x - y) <= atol + rtol * fabs(y))) return 1;")
            out.line("return 0;")
