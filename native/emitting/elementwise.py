"""C for fused elementwise operations: loops over indices, with vectors of floats if possible."""

from __future__ import annotations

from dataclasses import dataclass

import sympy

from torchship.native.emitting.places import address, c_type
from torchship.native.emitting.writer import Writer, double_literal, float_literal, integer_literal
from torchship.native.errors import UnsupportedError
from torchship.native.ir import sizes
from torchship.native.ir.names import identifier
from torchship.native.ir.program import Elementwise, Fused, Iota, Operand, Scalar, View
from torchship.native.ir.sizes import Size

VECTOR_OPERATIONS = {
    "copy", "add", "sub", "mul", "div", "fma", "neg", "abs", "sqrt", "max", "min", "relu", "exp",
    "tanh", "sigmoid", "log", "erf", "expm1", "log1p", "softplus", "sin", "cos", "where", "eq",
    "ne", "lt", "le", "gt", "ge", "and", "or", "xor", "not",
}  # fmt: skip
FUNCTIONS = {
    "exp",
    "tanh",
    "sigmoid",
    "log",
    "erf",
    "expm1",
    "log1p",
    "softplus",
    "sin",
    "cos",
    "sqrt",
}
SINGLES = {"fma", "max", "min", "relu", "remainder", "sign", "floor_div"}
COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
LANES = 16


@dataclass
class Axis:
    """A loop of C: its size, and the axes of the iteration that it walks."""

    size: Size
    members: list[int]
    name: str = ""


def emit(writer: Writer, group: Fused) -> None:
    """Write the loops of a group."""
    plan = _Plan(group)
    plan.write(writer)


class _Plan:
    def __init__(self, group: Fused) -> None:
        self.group = group
        self.shape = group.members[0].out.shape
        self.views: list[View] = []
        self.loaded: list[View] = []
        for view in (*group.reads(), *group.writes()):
            if not any(view.same_elements(known) for known in self.views):
                self.views.append(view)
        self.axes = self._axes()
        self.vector = self._is_vector()

    # --- the loops ---

    def _axes(self) -> list[Axis]:
        """Return the loops, the outermost first: axes of size 1 left out, neighbours joined."""
        iotas = {o.axis for m in self.group.members for o in m.operands if isinstance(o, Iota)}
        order = [axis for axis, size in enumerate(self.shape) if size != 1]
        lead = next((v for v in self.group.writes()), self.group.members[0].out)
        order.sort(key=lambda axis: -_magnitude(lead.strides[axis]))
        loops: list[Axis] = []
        for axis in order:
            last = loops[-1] if loops else None
            if last is not None and axis not in iotas and last.members[-1] not in iotas:
                above = last.members[-1]
                if all(
                    sizes.simple(v.strides[above] - v.strides[axis] * self.shape[axis]) == 0
                    for v in self.views
                ):
                    last.size = sizes.simple(last.size * self.shape[axis])
                    last.members.append(axis)
                    continue
            loops.append(Axis(self.shape[axis], [axis]))
        if not loops:
            loops = [Axis(1, [])]
        for number, loop in enumerate(loops[:-1]):
            loop.name = f"i{number}"
        loops[-1].name = "j"
        return loops

    def stride(self, view: View, loop: Axis) -> Size:
        return view.strides[loop.members[-1]] if loop.members else 0

    def _is_vector(self) -> bool:
        inner = self.axes[-1]
        if isinstance(inner.size, int) and inner.size < 4:
            return False
        for view in self.views:
            if self.stride(view, inner) not in (0, 1):
                return False
        return all(_vectorisable(member) for member in self.group.members)

    def write(self, writer: Writer) -> None:
        """Write everything."""
        self._loops(writer, 0)

    def _loops(self, writer: Writer, depth: int) -> None:
        if depth == len(self.axes) - 1:
            self._inner(writer)
            return
        loop = self.axes[depth]
        with writer.block(
            f"for (int64_t {loop.name} = 0; {loop.name} < {sizes.c_text(loop.size)}; {loop.name}++)"
        ):
            self._loops(writer, depth + 1)

    def _pointers(self, writer: Writer) -> dict[int, str]:
        """Write the pointers of all views at the current outer indices."""
        names: dict[int, str] = {}
        for number, view in enumerate(self.views):
            offset: Size = 0
            for loop in self.axes[:-1]:
                offset = offset + sizes.symbol(loop.name) * self.stride(view, loop)
            written = any(view.same_elements(other) for other in self.group.writes())
            name = f"{'to' if written else 'of'}_{view.storage.name}"
            taken = set(names.values())
            names[number] = identifier(name, taken)
            name = names[number]
            const = "" if written else "const "
            place = address(view, sizes.simple(offset))
            writer.line(f"{const}{c_type(view.dtype)} *const {name} = {place};")
        return names

    def _inner(self, writer: Writer) -> None:
        size = self.axes[-1].size
        with writer.block(""):
            pointers = self._pointers(writer)
            if not self.vector:
                with writer.block(f"for (int64_t j = 0; j < {sizes.c_text(size)}; j++)"):
                    _Scalars(self, pointers).write(writer)
                return
            whole = isinstance(size, int) and size % LANES == 0
            if whole:
                with writer.block(f"for (int64_t j = 0; j < {sizes.c_text(size)}; j += TS_W)"):
                    _Vectors(self, pointers, "").write(writer)
                return
            writer.line("int64_t j = 0;")
            with writer.block(f"for (; j + TS_W <= {sizes.c_text(size)}; j += TS_W)"):
                _Vectors(self, pointers, "").write(writer)
            with writer.block(f"if (j < {sizes.c_text(size)})"):
                writer.line(f"const int rest = (int)({sizes.c_text(size)} - j);")
                _Vectors(self, pointers, "rest").write(writer)

    def view_number(self, view: View) -> int:
        """Return the number of a view among those with pointers."""
        return next(n for n, known in enumerate(self.views) if view.same_elements(known))


def _magnitude(stride: Size) -> int:
    expr = sizes.simple_expr(stride)
    values = {s: sympy.Integer(97) for s in expr.free_symbols}
    return abs(int(expr.xreplace(values)))


def _vectorisable(member: Elementwise) -> bool:
    if member.operation not in VECTOR_OPERATIONS or member.compute not in (
        "float32",
        "bool",
        "uint8",
    ):
        return False
    if member.out.dtype not in ("float32", "bool"):
        return False
    if member.out.dtype == "bool" and member.operation in ("max", "min"):
        return False
    if member.compute == "uint8" and not (
        member.operation == "copy" and member.out.dtype == "float32"
    ):
        return False
    for operand in member.operands:
        if isinstance(operand, Iota):
            return False
        if isinstance(operand, View) and operand.dtype not in ("float32", "bool", "uint8"):
            return False
        if isinstance(operand, View) and operand.dtype == "uint8" and member.operation != "copy":
            return False
    return True


class _Body:
    """The statements inside the innermost loop."""

    def __init__(self, plan: _Plan, pointers: dict[int, str]) -> None:
        self.plan = plan
        self.pointers = pointers
        self.made: list[tuple[View, str]] = []
        """Values in registers: results of members, and what was loaded."""
        self.names: set[str] = set(pointers.values()) | {"j", "rest"}

    def name(self, wish: str) -> str:
        """Return a variable name that is not in use."""
        name, count = wish, 2
        while name in self.names:
            name, count = f"{wish}_{count}", count + 1
        self.names.add(name)
        return name

    def at(self, view: View) -> str:
        """Return the address of the current element of a view."""
        pointer = self.pointers[self.plan.view_number(view)]
        stride = self.plan.stride(view, self.plan.axes[-1])
        if stride == 0:
            return pointer
        return f"{pointer} + j" if stride == 1 else f"{pointer} + j * {_factor(stride)}"

    def known(self, view: View) -> str | None:
        """Return the variable that holds the current element of a view."""
        for other, name in reversed(self.made):
            if view.same_elements(other):
                return name
        return None

    def write(self, writer: Writer) -> None:
        """Write all members."""
        group = self.plan.group
        for member, stored in zip(group.members, group.stored, strict=True):
            value = self.result(writer, member)
            name = self.name(f"{member.out.storage.name}_")
            self.declare(writer, name, member, value)
            self.made = [pair for pair in self.made if not pair[0].same_elements(member.out)]
            self.made.append((member.out, name))
            if stored:
                self.store(writer, member, name)

    def result(self, writer: Writer, member: Elementwise) -> str:
        raise NotImplementedError

    def declare(self, writer: Writer, name: str, member: Elementwise, value: str) -> None:
        raise NotImplementedError

    def store(self, writer: Writer, member: Elementwise, name: str) -> None:
        raise NotImplementedError


def _factor(stride: Size) -> str:
    text = sizes.c_text(stride)
    return text if text.isidentifier() or text.isdigit() else f"({text})"


class _Vectors(_Body):
    """Members as operations on vectors; booleans are masks. `rest` counts the lanes of the last."""

    def __init__(self, plan: _Plan, pointers: dict[int, str], rest: str) -> None:
        super().__init__(plan, pointers)
        self.rest = rest

    def operand(self, writer: Writer, operand: Operand, wants_mask: bool) -> str:
        if not isinstance(operand, View):
            return _mask_constant(operand) if wants_mask else f"ts_set({_float_constant(operand)})"
        name = self.known(operand)
        is_mask = operand.dtype == "bool"
        if name is None:
            name = self.name(operand.storage.name + "_")
            writer.line(f"const {'ts_i' if is_mask else 'ts_v'} {name} = {self.load(operand)};")
            self.made.append((operand, name))
        if wants_mask and not is_mask:
            return f"ts_not_zero({name})"
        if is_mask and not wants_mask:
            return f"ts_select({name}, ts_set(1), ts_set(0))"
        return name

    def load(self, view: View) -> str:
        stride = self.plan.stride(view, self.plan.axes[-1])
        at = self.at(view)
        if view.dtype == "float32":
            if stride == 0:
                return f"ts_set(*({at}))" if " " in at else f"ts_set(*{at})"
            return f"ts_load_first({at}, {self.rest})" if self.rest else f"ts_load({at})"
        if stride == 0:
            loaded = f"ts_set((float)*({at}))"
        else:
            loaded = f"ts_load_u8_first({at}, {self.rest})" if self.rest else f"ts_load_u8({at})"
        return f"ts_not_zero({loaded})" if view.dtype == "bool" else loaded

    def result(self, writer: Writer, member: Elementwise) -> str:
        kind = member.operation
        mask = kind in ("and", "or", "xor", "not") or (
            kind == "copy" and member.out.dtype == "bool"
        )
        if kind == "where":
            condition = self.operand(writer, member.operands[0], True)
            if member.out.dtype == "bool":
                a, b = (self.operand(writer, o, True) for o in member.operands[1:])
                return f"({condition} & {a}) | (~{condition} & {b})"
            a, b = (self.operand(writer, o, False) for o in member.operands[1:])
            return f"ts_select({condition}, {a}, {b})"
        values = [self.operand(writer, o, mask) for o in member.operands]
        if kind == "copy":
            return values[0]
        if kind in SIGNS:
            return f"{values[0]} {SIGNS[kind]} {values[1]}"
        if kind in COMPARISONS:
            if kind in ("gt", "ge"):
                return f"ts_{'lt' if kind == 'gt' else 'le'}({values[1]}, {values[0]})"
            return f"ts_{kind}({values[0]}, {values[1]})"
        if kind in ("and", "or", "xor"):
            return f"{values[0]} {({'and': '&', 'or': '|', 'xor': '^'})[kind]} {values[1]}"
        if kind == "not":
            return f"~{values[0]}"
        if kind == "neg":
            return f"-{values[0]}"
        return f"ts_{kind}({', '.join(values)})"

    def declare(self, writer: Writer, name: str, member: Elementwise, value: str) -> None:
        writer.line(f"const {'ts_i' if member.out.dtype == 'bool' else 'ts_v'} {name} = {value};")

    def store(self, writer: Writer, member: Elementwise, name: str) -> None:
        at = self.at(member.out)
        if member.out.dtype == "bool":
            writer.line(f"ts_store_bool({at}, {name}, {self.rest or 'TS_W'});")
        elif self.rest:
            writer.line(f"ts_store_first({at}, {name}, {self.rest});")
        else:
            writer.line(f"ts_store({at}, {name});")


def _mask_constant(operand: Operand) -> str:
    if isinstance(operand, Scalar):
        return f"ts_seti(-(({operand.text}) != 0))"
    return f"ts_seti({-1 if operand else 0})"


def _float_constant(operand: Operand) -> str:
    if isinstance(operand, Scalar):
        return f"(float)({operand.text})"
    assert isinstance(operand, bool | int | float)
    return float_literal(float(operand))


class _Scalars(_Body):
    """Members as operations on single elements."""

    def operand(self, writer: Writer, operand: Operand, dtype: str) -> str:
        """Return an operand converted to a dtype."""
        if isinstance(operand, Iota):
            start, step = sizes.c_text(operand.start), operand.step
            index = self._index(operand.axis)
            text = index if step == 1 else f"{index} * {_factor(step)}"
            text = text if start == "0" else f"{start} + {text}"
            return _cast(f"({text})", "int64", dtype)
        if isinstance(operand, Scalar):
            return _cast(
                f"({operand.text})",
                {"int": "int64", "float": "float64", "bool": "bool"}[operand.kind],
                dtype,
            )
        if not isinstance(operand, View):
            return constant(operand, dtype)
        name = self.known(operand)
        if name is None:
            name = self.name(operand.storage.name + "_")
            at = self.at(operand)
            pointer, _, index = at.partition(" + ")
            element = f"{pointer}[{index or 0}]"
            writer.line(f"const {c_type(operand.dtype)} {name} = {element};")
            self.made.append((operand, name))
        return _cast(name, operand.dtype, dtype)

    def _index(self, axis: int) -> str:
        for loop in self.plan.axes:
            if axis in loop.members:
                return loop.name
        return "0"

    def result(self, writer: Writer, member: Elementwise) -> str:
        kind, dtype = member.operation, member.compute
        if kind == "where":
            condition = self.operand(writer, member.operands[0], "bool")
            a, b = (self.operand(writer, o, member.out.dtype) for o in member.operands[1:])
            return f"{condition} ? {a} : {b}"
        values = [self.operand(writer, o, dtype) for o in member.operands]
        try:
            text = scalar_operation(kind, dtype, values)
        except UnsupportedError as error:
            raise UnsupportedError(f"{member.where}: {member.note}: {error}") from None
        return _cast(
            f"({text})",
            _result_dtype(kind, dtype),
            member.out.dtype,
        )

    def declare(self, writer: Writer, name: str, member: Elementwise, value: str) -> None:
        if value.startswith("(") and value.endswith(")") and _closes_at_end(value):
            value = value[1:-1]
        writer.line(f"const {c_type(member.out.dtype)} {name} = {value};")

    def store(self, writer: Writer, member: Elementwise, name: str) -> None:
        pointer, _, index = self.at(member.out).partition(" + ")
        writer.line(f"{pointer}[{index or 0}] = {name};")


def _closes_at_end(text: str) -> bool:
    depth = 0
    for position, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth == 0:
            return position == len(text) - 1
    return False


def constant(value: bool | int | float, dtype: str) -> str:
    """Return a number as a C literal of a dtype."""
    if dtype == "float32":
        return float_literal(float(value))
    if dtype == "float64":
        return double_literal(float(value))
    if dtype == "bool":
        return "1" if value else "0"
    return integer_literal(int(value))


def _result_dtype(kind: str, dtype: str) -> str:
    return "bool" if kind in COMPARISONS else dtype


def _cast(text: str, source: str, target: str) -> str:
    if source == target:
        return text
    if target == "bool":
        return f"(uint8_t)({text} != 0)"
    return f"({c_type(target)}){text}"


def scalar_operation(kind: str, dtype: str, v: list[str]) -> str:
    """Return an operation on single elements of a dtype as a C expression."""
    floating = dtype.startswith("float")
    if kind == "copy":
        return v[0]
    if kind in COMPARISONS:
        return f"{v[0]} {COMPARISONS[kind]} {v[1]}"
    if dtype == "float32":
        return _float_operation(kind, v)
    if dtype == "float64":
        return _double_operation(kind, v)
    if floating:
        raise UnsupportedError(f"{kind} of {dtype} has no C yet")
    return _integer_operation(kind, dtype, v)


def _float_operation(kind: str, v: list[str]) -> str:
    if kind in SIGNS:
        return f"{v[0]} {SIGNS[kind]} {v[1]}"
    if kind == "neg":
        return f"-{v[0]}"
    if kind in FUNCTIONS or kind in SINGLES:
        return f"ts_{kind}1({', '.join(v)})"
    simple = {
        "abs": "fabsf",
        "floor": "floorf",
        "ceil": "ceilf",
        "trunc": "truncf",
        "round": "rintf",
    }
    if kind in simple:
        return f"{simple[kind]}({v[0]})"
    raise UnsupportedError(f"{kind} of float32 has no C yet")


def _double_operation(kind: str, v: list[str]) -> str:
    if kind in SIGNS:
        return f"{v[0]} {SIGNS[kind]} {v[1]}"
    plain = {
        "exp",
        "tanh",
        "log",
        "erf",
        "expm1",
        "log1p",
        "sin",
        "cos",
        "sqrt",
        "floor",
        "ceil",
        "trunc",
        "fma",
    }
    if kind in plain:
        return f"{kind}({', '.join(v)})"
    forms = {
        "neg": "-{0}", "abs": "fabs({0})", "round": "rint({0})", "relu": "{0} < 0 ? 0 : {0}",
        "sigmoid": "1 / (1 + exp(-{0}))", "max": "{0} < {1} || {1} != {1} ? {1} : {0}",
        "min": "{1} < {0} || {1} != {1} ? {1} : {0}", "sign": "(double)(({0} > 0) - ({0} < 0))",
        "softplus": "{0} > 20 ? {0} : log1p(exp({0}))",
    }  # fmt: skip
    if kind in forms:
        return forms[kind].format(*v)
    raise UnsupportedError(f"{kind} of float64 has no C yet")


UNSIGNED = {
    "int64": "uint64_t",
    "int32": "uint32_t",
    "int16": "uint32_t",
    "int8": "uint32_t",
    "uint8": "uint32_t",
}


def _integer_operation(kind: str, dtype: str, v: list[str]) -> str:
    if dtype == "bool":
        forms = {
            "and": "{0} & {1}",
            "or": "{0} | {1}",
            "xor": "{0} ^ {1}",
            "not": "!{0}",
            "max": "{0} | {1}",
            "min": "{0} & {1}",
        }
        if kind not in forms:
            raise UnsupportedError(f"{kind} of bool has no C yet")
        return forms[kind].format(*v)
    u, t = UNSIGNED[dtype], c_type(dtype)
    forms = {
        "add": f"({t})(({u}){{0}} + ({u}){{1}})", "sub": f"({t})(({u}){{0}} - ({u}){{1}})",
        "mul": f"({t})(({u}){{0}} * ({u}){{1}})", "neg": f"({t})(0 - ({u}){{0}})",
        "fma": f"({t})(({u}){{0}} * ({u}){{1}} + ({u}){{2}})",
        "and": f"({t})({{0}} & {{1}})", "or": f"({t})({{0}} | {{1}})",
        "xor": f"({t})({{0}} ^ {{1}})", "not": f"({t})~{{0}}",
        "shift_left": f"({t})(({u}){{0}} << {{1}})", "shift_right": f"({t})({{0}} >> {{1}})",
        "max": "{0} < {1} ? {1} : {0}", "min": "{1} < {0} ? {1} : {0}", "relu": "{0} < 0 ? 0 : {0}",
        "abs": f"{{0}} < 0 ? ({t})(0 - ({u}){{0}}) : {{0}}",
        "sign": f"({t})(({{0}} > 0) - ({{0}} < 0))",
        "remainder": f"({t})ts_modulo({{0}}, {{1}})",
        "int_div_floor": f"({t})ts_floor_div({{0}}, {{1}})",
        "int_div_trunc": f"({t})({{0}} / {{1}})",
        "floor": "{0}", "ceil": "{0}", "round": "{0}", "trunc": "{0}",
    }  # fmt: skip
    if kind not in forms:
        raise UnsupportedError(f"{kind} of {dtype} has no C yet")
    return forms[kind].format(*v)
