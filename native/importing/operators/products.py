"""Matrix products and convolutions: what the GEMM kernels do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torchship.native.importing.importer import Importer
from torchship.native.importing.operators.promotion import promoted
from torchship.native.importing.operators.views import axis_of, permuted, reshaped
from torchship.native.importing.packing import pack_columns, pad_rows
from torchship.native.importing.registry import operator
from torchship.native.importing.values import Concat, Full, ListValue, OneHot, Tensor, is_weight
from torchship.native.ir import sizes
from torchship.native.ir.layout import as_matrix, contiguous_strides, narrow
from torchship.native.ir.program import View
from torchship.native.ir.sizes import Size


@operator("aten::linear")
def linear(importer: Importer, node: Any, arguments: list[Any]) -> object:
    x, weight, bias = arguments
    if not is_weight(weight):
        product = matmul(importer, x, permuted(weight, [1, 0]))
        return (
            product
            if bias is None
            else importer.builder.elementwise("add", [product, bias], product.dtype)
        )
    return linear_of(importer, x, weight, bias)


def linear_of(importer: Importer, x: Tensor, weight: View, bias: View | None) -> View:
    """Return x @ weight.T + bias of a constant weight [n, k]; x is [..., k]."""
    importer.builder.note = "aten::linear"
    _only_float32(importer, x, weight)
    n, k = (int(size) for size in weight.shape)
    if sizes.equal(x.shape[-1], k) is not True:
        raise importer.builder.unsupported(f"a linear map of {k} inputs applied to {x.shape[-1]}")
    hint = importer.builder.hint
    out = importer.builder.temporary("float32", [*x.shape[:-1], n])
    start = None if bias is None else _bias(importer, bias, n)
    rows = out.with_shape([sizes.product(x.shape[:-1]), n], [n, 1])
    parts: Sequence[tuple[Any, View]] = [(x, weight)]
    if (
        isinstance(x, Concat)
        and x.axis == len(x.shape) - 1
        and all(isinstance(p.shape[-1], int) for p in x.parts)
    ):
        parts, begin = [], 0
        for part in x.parts:
            parts.append((part, narrow(weight, 1, begin, part.shape[-1])))
            begin += int(part.shape[-1])
    for part, columns in parts:
        if isinstance(part, Full) and part.value == 0 and len(parts) > 1:
            continue
        importer.builder.hint = hint
        _linear_part(importer, part, columns, start, rows)
        start = rows
    return out


def _bias(importer: Importer, bias: Tensor, n: int) -> View:
    """Return a bias of `n` floats, side by side."""
    _only_float32(importer, bias)
    view = importer.builder.materialise(bias)
    return importer.builder.contiguous(view.expanded([n]))


def _linear_part(
    importer: Importer, x: Tensor, weight: View, start: View | None, out: View
) -> None:
    if isinstance(x, OneHot) and x.axis == len(x.shape) - 1:
        index = _as_rows_of_one(importer, x.index)
        table = importer.builder.packed(weight, "classes", lambda w: pad_rows(w.t()))
        importer.builder.call(
            "gather_sum",
            [out],
            [index, table, *_given(start)],
            rows=out.shape[0],
            taps=1,
            classes=x.classes,
            n=out.shape[1],
            start=start is not None,
            relu=False,
        )
        return
    rows = as_rows(importer, importer.builder.materialise(x))
    packed = importer.builder.packed(weight, "columns", lambda w: pack_columns(w.t()))
    importer.builder.call(
        "linear",
        [out],
        [rows, packed, *_given(start)],
        k=int(weight.shape[1]),
        n=int(weight.shape[0]),
        start=start is not None,
        relu=False,
    )


def _given(view: View | None) -> list[View]:
    return [] if view is None else [view]


def _as_rows_of_one(importer: Importer, index: View) -> View:
    flat = reshaped(importer, index, [sizes.product(index.shape)])
    assert isinstance(flat, View)
    return flat


def as_rows(importer: Importer, view: View) -> View:
    """Return [..., k] as [rows, k] whose rows are contiguous; a copy if it must be."""
    rows, k = sizes.product(view.shape[:-1]), view.shape[-1]
    if view.strides[-1] == 1 or k == 1:
        flat = as_matrix(view)
        if flat is not None:
            return flat
    made = importer.builder.contiguous(view)
    return made.with_shape([rows, k], [k, 1])


def _only_float32(importer: Importer, *tensors: Tensor) -> None:
    for tensor in tensors:
        if tensor.dtype != "float32":
            raise importer.builder.unsupported(f"a matrix product of {tensor.dtype}: float32 has C")


@operator("aten::matmul", "aten::mm", "aten::bmm", "aten::mv", "aten::dot")
def matmul_node(importer: Importer, node: Any, arguments: list[Any]) -> object:
    return matmul(importer, *arguments)


def matmul(importer: Importer, a: Tensor, b: Tensor) -> View:
    """Return torch.matmul(a, b)."""
    if len(a.shape) == 1:
        made = matmul(importer, reshaped(importer, a, [1, *a.shape]), b)
        if len(b.shape) == 1:
            return made.with_shape((), ())
        return made.with_shape(
            [*made.shape[:-2], *made.shape[-1:]], [*made.strides[:-2], *made.strides[-1:]]
        )
    if len(b.shape) == 1:
        view = importer.builder.materialise(b)
        made = matmul(importer, a, view.with_shape([*b.shape, 1], [*view.strides, 1]))
        return made.with_shape(made.shape[:-1], made.strides[:-1])
    if is_weight(b) and len(b.shape) == 2:
        transposed = permuted(b, [1, 0])
        assert isinstance(transposed, View)
        return linear_of(importer, a, transposed, None)
    _only_float32(importer, a, b)
    if sizes.equal(a.shape[-1], b.shape[-2]) is not True:
        raise importer.builder.unsupported(f"a product of {list(a.shape)} and {list(b.shape)}")
    left, right = importer.builder.materialise(a), importer.builder.materialise(b)
    if left.strides[-1] != 1 and left.shape[-1] != 1:
        left = importer.builder.contiguous(left)
    outer = importer.builder.broadcast([left.shape[:-2], right.shape[:-2]])
    m, k, n = left.shape[-2], left.shape[-1], right.shape[-1]
    hint = importer.builder.hint
    out = importer.builder.temporary("float32", [*outer, m, n])
    importer.builder.hint = "packed"
    scratch = importer.builder.temporary("float32", [sizes.simple(k * 32)])
    importer.builder.hint = hint
    importer.builder.call(
        "matmul", [out, scratch], [left.expanded([*outer, m, k]), right.expanded([*outer, k, n])]
    )
    return out


@operator("aten::addmm", "aten::baddbmm", "aten::addmv")
def addmm(importer: Importer, node: Any, arguments: list[Any]) -> object:
    start, a, b, beta, alpha = arguments
    if (
        is_weight(b)
        and len(b.shape) == 2
        and beta == 1
        and alpha == 1
        and len(start.shape) == 1
        and start.dtype == "float32"
        and isinstance(start.shape[0], int)
    ):
        return linear_of(importer, a, permuted(b, [1, 0]), start)  # type: ignore[arg-type]
    made: Any = matmul(importer, a, b)
    if alpha != 1:
        made = importer.builder.elementwise("mul", [made, alpha], "float32")
    if beta == 0:
        return made
    if beta != 1:
        start = importer.builder.elementwise("mul", [start, beta], "float32")
    return importer.builder.elementwise("add", [made, start], promoted(made, start))


@operator("aten::embedding")
def embedding(importer: Importer, node: Any, arguments: list[Any]) -> object:
    table, index = arguments[:2]
    view = importer.builder.contiguous(importer.builder.materialise(index))
    rows = importer.builder.contiguous(table)
    out = importer.builder.temporary(rows.dtype, [*view.shape, rows.shape[1]])
    importer.builder.call("embedding", [out], [view, rows])
    return out


@operator("aten::index", "aten::index_select")
def index(importer: Importer, node: Any, arguments: list[Any]) -> object:
    name = node.kind().partition("::")[2]
    if name == "index":
        value, given = arguments
        items = [i for i in given.items if i is not None]
        if len(items) != 1 or items[0].dtype not in ("int64", "int32"):
            raise importer.builder.unsupported("an index of other than one tensor of integers")
        axis, chosen = next(n for n, i in enumerate(given.items) if i is not None), items[0]
    else:
        value, axis, chosen = arguments
        axis = axis_of(axis, len(value.shape))
    order = [axis, *(a for a in range(len(value.shape)) if a != axis)]
    view = importer.builder.contiguous(permuted(value, order))
    rest = view.shape[1:]
    rows = view.with_shape([view.shape[0], sizes.product(rest)], [sizes.product(rest), 1])
    places = importer.builder.contiguous(importer.builder.materialise(chosen))
    out = importer.builder.temporary(view.dtype, [*places.shape, *rest])
    flat = out.with_shape(
        [*places.shape, rows.shape[1]], contiguous_strides([*places.shape, rows.shape[1]])
    )
    message = ("index ", f" is out of bounds for dimension {axis} with size ")
    if name == "index_select":
        importer.builder.call("embedding", [flat], [places, rows])
    else:
        importer.builder.call("embedding", [flat], [places, rows], wraps=message)
    inner = list(range(len(places.shape)))
    outer = [n + len(places.shape) for n in range(len(rest))]
    return permuted(out, [*outer[:axis], *inner, *outer[axis:]])


# --- convolutions ---


@operator("aten::conv2d", "aten::conv1d", "aten::_convolution", "aten::convolution")
def convolution(importer: Importer, node: Any, arguments: list[Any]) -> object:
    kind = node.kind()
    if kind.endswith("convolution"):
        x, weight, bias, stride, padding, dilation, transposed, _, groups = arguments[:9]
        if importer.truth(transposed) is not False:
            raise importer.builder.unsupported("a transposed convolution")
    else:
        x, weight, bias, stride, padding, dilation, groups = arguments
    axes = len(weight.shape) - 2
    if axes not in (1, 2) or not is_weight(weight):
        raise importer.builder.unsupported(
            "a convolution with three axes or without constant weights"
        )
    unbatched = len(x.shape) == axes + 1
    importer.builder.note = kind
    if unbatched:
        x = _unsqueezed(importer, x, 0)
    if isinstance(padding, str):
        padding = _named_padding(importer, padding, weight, dilation)
    pairs = [_pair(v, axes, neutral) for v, neutral in ((stride, 1), (padding, 0), (dilation, 1))]
    if axes == 1:
        x = _unsqueezed(importer, x, 2)
        weight = weight.with_shape(
            [*weight.shape[:2], 1, weight.shape[2]], [*weight.strides[:2], 0, weight.strides[2]]
        )
    out = conv2d(importer, x, weight, bias, pairs[0], pairs[1], pairs[2], groups)
    if axes == 1:
        out = out.with_shape([*out.shape[:2], out.shape[3]], [*out.strides[:2], out.strides[3]])
    return out.with_shape(out.shape[1:], out.strides[1:]) if unbatched else out


def _unsqueezed(importer: Importer, x: Tensor, axis: int) -> View:
    view = importer.builder.materialise(x)
    return view.with_shape(
        [*view.shape[:axis], 1, *view.shape[axis:]], [*view.strides[:axis], 0, *view.strides[axis:]]
    )


def _pair(value: ListValue, axes: int, neutral: int) -> tuple[int, int]:
    items = [int(item) for item in value.items]
    if len(items) == 1:
        items = items * axes
    return (neutral, items[0]) if axes == 1 else (items[0], items[1])


def _named_padding(importer: Importer, name: str, weight: View, dilation: ListValue) -> ListValue:
    kernel = [int(n) for n in weight.shape[2:]]
    if name == "valid":
        return ListValue([0] * len(kernel), 0)
    reach = [int(d) * (n - 1) for d, n in zip(dilation.items, kernel, strict=True)]
    if any(r % 2 for r in reach):
        raise importer.builder.unsupported("padding 'same' of an even kernel")
    return ListValue([r // 2 for r in reach], 0)


def conv2d(
    importer: Importer,
    x: Tensor,
    weight: View,
    bias: View | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> View:
    """Return the convolution of x [n, channels, height, width], as a channels-last tensor."""
    _only_float32(importer, x, weight)
    height, width = x.shape[2], x.shape[3]
    cout, cin, kh, kw = (int(size) for size in weight.shape)
    if sizes.equal(x.shape[1], cin * groups) is not True:
        raise importer.builder.unsupported(
            f"a convolution of {cin * groups} channels applied to {x.shape[1]}"
        )
    out_h = _out_size(height, kh, stride[0], padding[0], dilation[0])
    out_w = _out_size(width, kw, stride[1], padding[1], dilation[1])
    for size, given, kernel in ((out_h, height, kh), (out_w, width, kw)):
        importer.require_positive(
            size, f"Kernel size {kernel} can't be greater than the input size, which is ", given
        )
    hint = importer.builder.hint
    out = importer.builder.temporary("float32", [x.shape[0], cout, out_h, out_w], [0, 2, 3, 1])
    start = None if bias is None else _bias(importer, bias, cout)
    parts: list[tuple[Any, View]] = [(x, weight)]
    if isinstance(x, Concat) and x.axis == 1 and groups == 1:
        parts, begin = [], 0
        for part in x.parts:
            parts.append((part, narrow(weight, 1, begin, part.shape[1])))
            begin += int(part.shape[1])
        parts.sort(key=lambda pair: not isinstance(pair[0], OneHot))
    geometry = (stride, padding, dilation)
    for part, channels in parts:
        importer.builder.hint = hint
        if isinstance(part, OneHot) and part.axis == 1 and padding == (0, 0) and groups == 1:
            _gather_conv(importer, part, channels, start, out, geometry)
        else:
            _dense_conv(
                importer, importer.builder.materialise(part), channels, start, out, geometry, groups
            )
        start = out
    return out


def _out_size(size: Size, kernel: int, stride: int, padding: int, dilation: int) -> Size:
    return sizes.simple(
        sizes.floor_div(size + 2 * padding - dilation * (kernel - 1) - 1, stride) + 1
    )


def _gather_conv(
    importer: Importer, x: OneHot, weight: View, start: View | None, out: View, geometry: Any
) -> None:
    """Convolve a one-hot tensor: sum the rows of the weights that its indices choose."""
    stride, _, dilation = geometry
    cout, classes, kh, kw = (int(size) for size in weight.shape)
    table = importer.builder.packed(
        weight, "taps", lambda w: pad_rows(w.permute(2, 3, 1, 0).reshape(kh * kw * classes, cout))
    )
    importer.builder.call(
        "gather_conv",
        [out],
        [x.index, table, *_given(start)],
        kernel=(kh, kw),
        stride=stride,
        dilation=dilation,
        classes=classes,
        start=start is not None,
        relu=False,
    )


def _dense_conv(
    importer: Importer,
    x: View,
    weight: View,
    start: View | None,
    out: View,
    geometry: Any,
    groups: int,
) -> None:
    stride, padding, dilation = geometry
    cout, cin, kh, kw = (int(size) for size in weight.shape)
    x = _channels_last(importer, x, padding)
    if groups > 1 and cin == 1 and cout == groups:
        taps = importer.builder.packed(
            weight, "depthwise", lambda w: pad_rows(w.reshape(cout, kh * kw).t())
        )
        importer.builder.call(
            "depthwise",
            [out],
            [x, taps, *_given(start)],
            kernel=(kh, kw),
            stride=stride,
            dilation=dilation,
            start=start is not None,
            relu=False,
        )
        return
    for group in range(groups):
        mine = narrow(weight, 0, group * (cout // groups), cout // groups)
        packed = importer.builder.packed(
            mine,
            "convolution",
            lambda w: pack_columns(w.permute(2, 3, 1, 0).reshape(kh * kw * cin, -1)),
        )
        place = narrow(out, 1, group * (cout // groups), cout // groups)
        begin = (
            None
            if start is None
            else (
                narrow(
                    start,
                    1 if start.storage is out.storage else 0,
                    group * (cout // groups),
                    cout // groups,
                )
            )
        )
        importer.builder.call(
            "conv",
            [place],
            [narrow(x, 1, group * cin, cin), packed, *_given(begin)],
            kernel=(kh, kw),
            stride=stride,
            dilation=dilation,
            start=begin is not None,
            relu=False,
        )


def _channels_last(importer: Importer, x: View, padding: tuple[int, int]) -> View:
    """Return [n, c, h, w] with its channels side by side in memory, and a border of zeros."""
    n, c, h, w = x.shape
    if padding == (0, 0) and (x.strides[1] == 1 or c == 1):
        return x if c != 1 else x.with_shape(x.shape, [x.strides[0], 1, x.strides[2], x.strides[3]])
    importer.builder.hint = "padded" if padding != (0, 0) else "channels_last"
    tall, wide = sizes.simple(h + 2 * padding[0]), sizes.simple(w + 2 * padding[1])
    made = importer.builder.temporary("float32", [n, c, tall, wide], [0, 2, 3, 1])
    if padding != (0, 0):
        importer.builder.copy(Full(0.0, "float32", made.shape), made)
    inner = narrow(narrow(made, 2, padding[0], h), 3, padding[1], w)
    importer.builder.copy(x, inner)
    return made
