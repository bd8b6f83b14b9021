"""C for kernels: matrix products, convolutions, reductions and what works on rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torchship.native.emitting.elementwise import constant
from torchship.native.emitting.places import address, c_type
from torchship.native.emitting.writer import Writer, float_literal, string_literal
from torchship.native.ir import sizes
from torchship.native.ir.program import Call, View
from torchship.native.ir.sizes import Size

Emitter = Callable[[Writer, Call], None]


def emit(writer: Writer, call: Call) -> None:
    """Write a kernel's call."""
    EMITTERS[call.kernel](writer, call)


def text(size: Size) -> str:
    """Return a size as an argument."""
    return sizes.c_text(size)


def _start(call: Call) -> View | None:
    return call.inputs[2] if call.attributes["start"] else None


def _start_arguments(call: Call) -> str:
    start = _start(call)
    return "NULL, 0" if start is None else f"{address(start)}, {text(_start_stride(call))}"


def _linear(writer: Writer, call: Call) -> None:
    (out,), (x, packed) = call.outputs, call.inputs[:2]
    k, n = call.attributes["k"], call.attributes["n"]
    writer.line(
        f"ts_linear({text(out.shape[0])}, {address(x)}, {text(x.strides[0])}, {k}, "
        f"{address(packed)}, {n}, {_start_arguments(call)}, {address(out)}, "
        f"{text(out.strides[0])}, {_relu(call)});"
    )


def _conv(writer: Writer, call: Call) -> None:
    (out,), (x, packed) = call.outputs, call.inputs[:2]
    attributes: dict[str, Any] = call.attributes
    kh, kw = attributes["kernel"]
    dy, dx = attributes["dilation"]
    channels = x.shape[1]
    image, _, row, pixel = x.strides
    merged = dx == 1 and (pixel == channels or kw == 1)
    offsets = [sizes.simple(y * dy * row) for y in range(kh)] if merged else _taps(call, row, pixel)
    length = sizes.simple(channels * (kw if merged else 1))
    with writer.block(""):
        _offsets(writer, offsets)
        writer.line(f"const ts_segments segments = {{{len(offsets)}, offsets, {text(length)}}};")
        _places(writer, call, image, row, pixel)
        writer.line(
            f"ts_conv(&places, {address(x)}, &segments, {address(packed)}, {text(out.shape[1])}, "
            f"{_start_arguments(call)}, {address(out)}, {text(out.strides[3])}, {_relu(call)});"
        )


def _start_stride(call: Call) -> Size:
    start = _start(call)
    return (
        0
        if start is None or len(start.shape) == 1
        else start.strides[-1 if len(start.shape) == 4 else 0]
    )


def _places(writer: Writer, call: Call, image: Size, row: Size, pixel: Size) -> None:
    """Write where the outputs of a convolution begin in its input."""
    (out,) = call.outputs
    attributes: dict[str, Any] = call.attributes
    sy, sx = attributes["stride"]
    sizes_text = ", ".join(map(text, (out.shape[0], out.shape[2], out.shape[3])))
    steps = ", ".join(map(text, (image, sizes.simple(row * sy), sizes.simple(pixel * sx))))
    writer.line(f"const ts_places places = {{{sizes_text}, {steps}}};")


def _taps(call: Call, row: Size, pixel: Size) -> list[Size]:
    """Return the offsets of what a kernel sees from its first element."""
    attributes: dict[str, Any] = call.attributes
    (kh, kw), (dy, dx) = attributes["kernel"], attributes["dilation"]
    return [sizes.simple(y * dy * row + c * dx * pixel) for y in range(kh) for c in range(kw)]


def _offsets(writer: Writer, offsets: list[Size]) -> None:
    writer.line(f"const ptrdiff_t offsets[] = {{{', '.join(map(text, offsets))}}};")


def _depthwise(writer: Writer, call: Call) -> None:
    (out,), (x, taps) = call.outputs, call.inputs[:2]
    image, _, row, pixel = x.strides
    offsets = _taps(call, row, pixel)
    with writer.block(""):
        _offsets(writer, offsets)
        _places(writer, call, image, row, pixel)
        writer.line(
            f"ts_depthwise(&places, {address(x)}, {len(offsets)}, offsets, {address(taps)}, "
            f"{text(out.shape[1])}, {_start_arguments(call)}, {address(out)}, "
            f"{text(out.strides[3])}, {_relu(call)});"
        )


def _relu(call: Call) -> int:
    return int(bool(call.attributes["relu"]))


def _gather_conv(writer: Writer, call: Call) -> None:
    (out,), (index, table) = call.outputs, call.inputs[:2]
    image, row, pixel = index.strides
    offsets = _taps(call, row, pixel)
    with writer.block(""):
        _offsets(writer, offsets)
        writer.line(f"const ts_segments taps = {{{len(offsets)}, offsets, 1}};")
        _places(writer, call, image, row, pixel)
        _gather(writer, call, index, table, out.shape[1], out.strides[3])


def _gather_sum(writer: Writer, call: Call) -> None:
    (out,), (index, table) = call.outputs, call.inputs[:2]
    with writer.block(""):
        writer.line("const ptrdiff_t offset = 0;")
        writer.line("const ts_segments taps = {1, &offset, 1};")
        writer.line(
            f"const ts_places places = {{1, 1, {text(out.shape[0])}, 0, 0, "
            f"{text(index.strides[0])}}};"
        )
        _gather(writer, call, index, table, out.shape[1], out.strides[0])


def _gather(
    writer: Writer, call: Call, index: View, table: View, n: Size, out_stride: Size
) -> None:
    padded = sizes.simple(sizes.floor_div(n + 15, 16) * 16)
    step = sizes.simple(padded * int(str(call.attributes["classes"])))
    writer.line(
        f"ts_gather_sum(&places, {address(index)}, &taps, {address(table)}, {text(step)}, "
        f"{text(n)}, {_start_arguments(call)}, {address(call.outputs[0])}, {text(out_stride)}, "
        f"{_relu(call)});"
    )


def _classes(writer: Writer, call: Call) -> None:
    (out,), (index,) = call.outputs, call.inputs
    names = [f"i{axis}" for axis in range(len(index.shape))]
    source: Size = 0
    target: Size = 0
    for name, a, b in zip(names, index.strides, out.strides, strict=True):
        source, target = source + sizes.symbol(name) * a, target + sizes.symbol(name) * b

    def inside() -> None:
        writer.line(f"const int64_t chosen = (int64_t)({address(index, sizes.simple(source))})[0];")
        writer.line(f"wrong |= chosen < 0 || chosen >= {call.attributes['classes']};")
        writer.line(f"({address(out, sizes.simple(target))})[0] = (int32_t)chosen;")

    with writer.block(""):
        writer.line("int wrong = 0;")
        _nested(writer, list(zip(names, index.shape, strict=True)), inside)
        with writer.block("if (wrong)"):
            last = int(str(call.attributes["classes"])) - 1
            writer.line(f'ts_say(message, "one_hot: expected classes from 0 to {last}");')
            writer.line("return TS_RAISED;")


def _matmul(writer: Writer, call: Call) -> None:
    out = call.outputs[0]
    outer = len(out.shape) - 2
    names = [f"b{axis}" for axis in range(outer)]
    _nested(
        writer,
        list(zip(names, out.shape[:outer], strict=True)),
        lambda: _one_product(writer, call, names),
    )


def _nested(writer: Writer, loops: list[tuple[str, Size]], inside: Callable[[], None]) -> None:
    if not loops:
        inside()
        return
    (name, size), rest = loops[0], loops[1:]
    with writer.block(f"for (int64_t {name} = 0; {name} < {text(size)}; {name}++)"):
        _nested(writer, rest, inside)


def _one_product(writer: Writer, call: Call, names: list[str]) -> None:
    (out, scratch), (a, b) = call.outputs, call.inputs

    def place(view: View) -> str:
        offset: Size = 0
        for axis, name in enumerate(names):
            offset = offset + sizes.symbol(name) * view.strides[axis]
        return address(view, sizes.simple(offset))

    m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
    writer.line(
        f"ts_matmul(1, {text(m)}, {text(k)}, {text(n)}, {place(a)}, 0, {text(a.strides[-2])}, "
        f"{place(b)}, 0, {text(b.strides[-2])}, {text(b.strides[-1])}, "
        f"{place(out)}, 0, {text(out.strides[-2])}, {address(scratch)});"
    )


def _embedding(writer: Writer, call: Call) -> None:
    (out,), (index, table) = call.outputs, call.inputs
    count, width, size = sizes.product(index.shape), table.shape[1], table.shape[0]
    with writer.block(f"for (int64_t at = 0; at < {text(count)}; at++)"):
        writer.line(f"int64_t chosen = (int64_t)({address(index)})[at];")
        if call.attributes.get("wraps"):
            writer.line(f"if (chosen < 0) chosen += {text(size)};")
        with writer.block(f"if (chosen < 0 || chosen >= {text(size)})"):
            wraps: Any = call.attributes.get("wraps")
            if wraps:
                writer.line(f"ts_say(message, {string_literal(wraps[0])});")
                writer.line(f"ts_say_integer(message, (int64_t)({address(index)})[at]);")
                writer.line(f"ts_say(message, {string_literal(wraps[1])});")
                writer.line(f"ts_say_integer(message, {text(size)});")
            else:
                writer.line('ts_say(message, "index out of range in self");')
            writer.line("return TS_RAISED;")
        writer.line(
            f"memcpy({address(out, sizes.simple(sizes.symbol('at') * width))}, "
            f"{address(table, sizes.simple(sizes.symbol('chosen') * width))}, "
            f"(size_t)({text(width)}) * sizeof({c_type(out.dtype)}));"
        )


def _rows(kernel: str) -> Emitter:
    def write(writer: Writer, call: Call) -> None:
        (out,), (view,) = call.outputs, call.inputs
        n = view.shape[-1]
        rows = sizes.product(view.shape[:-1])
        writer.line(f"ts_{kernel}({text(rows)}, {text(n)}, {address(view)}, {address(out)});")

    return write


def _cumsum(writer: Writer, call: Call) -> None:
    (out,), (view,) = call.outputs, call.inputs
    n, rows, t = view.shape[-1], sizes.product(view.shape[:-1]), c_type(view.dtype)
    with writer.block(f"for (int64_t row = 0; row < {text(rows)}; row++)"):
        offset = sizes.simple(sizes.symbol("row") * n)
        # torch sums floats in double precision here.
        writer.line(f"{'double' if t == 'float' else t} sum = 0;")
        with writer.block(f"for (int64_t at = 0; at < {text(n)}; at++)"):
            element = f"({address(view, offset)})[at]"
            if view.dtype == "int64":
                writer.line(f"sum = (int64_t)((uint64_t)sum + (uint64_t){element});")
            else:
                writer.line(f"sum = sum + {element};")
            writer.line(f"({address(out, offset)})[at] = ({t})sum;")


def _layer_norm(writer: Writer, call: Call) -> None:
    (out,), (x, *rest) = call.outputs, call.inputs
    attributes: dict[str, Any] = call.attributes
    weight = address(rest[0]) if attributes["weight"] else "NULL"
    bias = address(rest[-1]) if attributes["bias"] else "NULL"
    writer.line(
        f"ts_layer_norm({text(x.shape[0])}, {text(x.shape[1])}, {address(x)}, {weight}, {bias}, "
        f"{float_literal(attributes['eps'])}, {address(out)}, {text(out.strides[0])}, "
        f"{text(x.strides[0])});"
    )


def _reduce(writer: Writer, call: Call) -> None:
    (out,), (view,) = call.outputs, call.inputs
    attributes: dict[str, Any] = call.attributes
    kind, outer = attributes["kind"], attributes["outer"]
    names = [f"i{axis}" for axis in range(outer)]
    inner = [(f"k{axis}", size) for axis, size in enumerate(view.shape[outer:])]

    def inside() -> None:
        place: Size = 0
        target: Size = 0
        for axis, name in enumerate(names):
            place = place + sizes.symbol(name) * view.strides[axis]
            target = target + sizes.symbol(name) * out.strides[axis]
        _one_reduction(
            writer,
            call,
            kind,
            sizes.simple(place),
            sizes.simple(target),
            inner,
            view.strides[outer:],
        )

    with writer.block(""):
        _nested(writer, list(zip(names, out.shape, strict=True)), inside)


def _one_reduction(
    writer: Writer,
    call: Call,
    kind: str,
    place: Size,
    target: Size,
    inner: list[tuple[str, Size]],
    strides: tuple[Size, ...],
) -> None:
    (out,), (view,) = call.outputs, call.inputs
    t, dtype = c_type(view.dtype), view.dtype
    if kind == "sum" and dtype == "float32":
        flat = _one_run(inner, strides)
        if flat is not None:
            writer.line(
                f"({address(out, target)})[0] = ts_sum_row({address(view, place)}, {text(flat)});"
            )
            return
    offset: Size = place
    for (name, _), stride in zip(inner, strides, strict=True):
        offset = offset + sizes.symbol(name) * stride
    element = f"({address(view, sizes.simple(offset))})[0]"
    starts = {"sum": "0", "prod": "1", "any": "0", "all": "1"}
    if kind in starts:
        # One sum of floats in order would lose ever more digits as it grows.
        wide = kind == "sum" and dtype == "float32"
        writer.line(f"{'double' if wide else c_type(out.dtype)} total = {starts[kind]};")

        def step() -> None:
            if kind == "any":
                writer.line(f"total = (uint8_t)(total | ({element} != 0));")
            elif kind == "all":
                writer.line(f"total = (uint8_t)(total & ({element} != 0));")
            elif dtype == "int64":
                sign = "+" if kind == "sum" else "*"
                writer.line(f"total = (int64_t)((uint64_t)total {sign} (uint64_t){element});")
            elif wide:
                writer.line(f"total += {element};")
            else:
                writer.line(f"total = ({t})(total {'+' if kind == 'sum' else '*'} {element});")

        _nested(writer, inner, step)
        writer.line(f"({address(out, target)})[0] = {'(float)' if wide else ''}total;")
        return
    _extreme(writer, call, kind, element, place, target, inner)


def _one_run(inner: list[tuple[str, Size]], strides: tuple[Size, ...]) -> Size | None:
    """Return the length of the reduced elements if they lie side by side, else None."""
    step: Size = 1
    for (_, size), stride in reversed(list(zip(inner, strides, strict=True))):
        if size != 1 and sizes.simple(stride - step) != 0:
            return None
        step = sizes.simple(step * size)
    return step


def _extreme(
    writer: Writer,
    call: Call,
    kind: str,
    element: str,
    place: Size,
    target: Size,
    inner: list[tuple[str, Size]],
) -> None:
    (out,), (view,) = call.outputs, call.inputs
    t = c_type(view.dtype)
    sign = "<" if kind.endswith("min") else ">"
    first = f"({address(view, place)})[0]"
    count = sizes.product(size for _, size in inner)
    # A NaN is larger, and smaller, than any number, and the first one counts, as in torch.
    nan = " || value != value" if view.dtype.startswith("float") else ""
    guard = " && best == best" if nan else ""
    empty = constant(0, out.dtype)

    def step() -> None:
        writer.line(f"const {t} value = {element};")
        better = f"(value {sign} best{nan}){guard}"
        if kind.startswith("arg"):
            with writer.block(f"if ({better})" if guard else f"if (value {sign} best)"):
                writer.line("best = value;")
                writer.line("chosen = at;")
            writer.line("at++;")
        else:
            writer.line(f"if ({better if guard else f'value {sign} best'}) best = value;")

    writer.line(f"{t} best = {text(count)} > 0 ? {first} : {empty};")
    if kind.startswith("arg"):
        writer.line("int64_t at = 0, chosen = 0;")
    _nested(writer, inner, step)
    writer.line(f"({address(out, target)})[0] = {'chosen' if kind.startswith('arg') else 'best'};")


def _pool(writer: Writer, call: Call) -> None:
    (out,), (x,) = call.outputs, call.inputs
    attributes: dict[str, Any] = call.attributes
    (kh, kw), (sy, sx) = attributes["kernel"], attributes["stride"]
    (py, px), (dy, dx) = attributes["padding"], attributes["dilation"]
    largest = attributes["kind"] == "max"
    i = [sizes.symbol(name) for name in ("image", "y", "x", "c", "ty", "tx")]
    target = sum(
        (
            a * b
            for a, b in zip(
                i[:4], (out.strides[0], out.strides[2], out.strides[3], out.strides[1]), strict=True
            )
        ),
        0,
    )
    source = i[0] * x.strides[0] + i[4] * x.strides[2] + i[5] * x.strides[3] + i[3] * x.strides[1]
    loops: list[tuple[str, Size]] = [
        ("image", out.shape[0]),
        ("y", out.shape[2]),
        ("x", out.shape[3]),
        ("c", out.shape[1]),
    ]

    def inside() -> None:
        writer.line(f"float total = {'-INFINITY' if largest else '0'};")
        writer.line("int64_t count = 0;")
        with (
            writer.block(f"for (int64_t ky = 0; ky < {kh}; ky++)"),
            writer.block(f"for (int64_t kx = 0; kx < {kw}; kx++)"),
        ):
            writer.line(
                f"const int64_t ty = y * {sy} - {py} + ky * {dy}, tx = x * {sx} - {px} + kx * {dx};"
            )
            writer.line(
                f"if (ty < 0 || ty >= {text(x.shape[2])} || tx < 0 || tx >= {text(x.shape[3])}) "
                "continue;"
            )
            element = f"({address(x, sizes.simple(source))})[0]"
            writer.line(
                f"total = {f'ts_max1(total, {element})' if largest else f'total + {element}'};"
            )
            writer.line("count++;")
        place = f"({address(out, sizes.simple(target))})[0]"
        if largest:
            writer.line("(void)count;")
            writer.line(f"{place} = total;")
        elif attributes["counted"] and (py or px):
            # Padding counts, but for what would lie beyond the padded input.
            writer.line(
                f"count = ts_smaller({text(x.shape[2])} + {py}, y * {sy} - {py} + {kh}) - "
                f"(y * {sy} - {py});"
            )
            writer.line(
                f"count *= ts_smaller({text(x.shape[3])} + {px}, x * {sx} - {px} + {kw}) - "
                f"(x * {sx} - {px});"
            )
            writer.line(f"{place} = total / (float)count;")
        else:
            writer.line(f"{place} = total / (float)count;")

    with writer.block(""):
        _nested(writer, loops, inside)


EMITTERS: dict[str, Emitter] = {
    "classes": _classes,
    "linear": _linear,
    "conv": _conv,
    "depthwise": _depthwise,
    "gather_conv": _gather_conv,
    "gather_sum": _gather_sum,
    "matmul": _matmul,
    "embedding": _embedding,
    "softmax": _rows("softmax"),
    "log_softmax": _rows("log_softmax"),
    "cumsum": _cumsum,
    "layer_norm": _layer_norm,
    "reduce": _reduce,
    "pool": _pool,
}
