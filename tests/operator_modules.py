"""Modules whose methods use every operator that compiles to C.

A method's inputs stand in its decorator. `ulps` bounds the relative error of floats against eager
torch in units of 2**-23, and `spread` the error relative to the largest element of an output, for
sums whose terms cancel; both are 0 for what must be exact. `special` draws NaN, infinities, zeros,
denormal and large numbers too.
"""

# mypy: ignore-errors
# What TorchScript infers and converts by itself has no types in Python.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple, TypeVar  # noqa: UP035 (TorchScript reads them)

import torch
from torch import Tensor, nn
from torch.nn import functional

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Case:
    """How a method is called and compared."""

    signature: str
    ulps: float
    spread: float
    special: bool


def case(
    signature: str, ulps: float = 0, spread: float = 0, special: bool = False
) -> Callable[[Function], Function]:
    """Mark a method as one that is compiled."""

    def mark(function: Function) -> Function:
        function.case = Case(signature, ulps, spread, special)
        exported: Function = torch.jit.export(function)
        return exported

    return mark


class Unary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.prelu_1 = nn.PReLU(1, 0.2)
        self.prelu_3 = nn.PReLU(3)
        self.prelu_3.weight.data = torch.tensor([0.1, 0.5, -0.3])

    @case("x: float32[batch, 3, 7]", special=True)
    def exact(self, x: Tensor):
        return (
            x.relu(),
            x.abs(),
            -x,
            torch.floor(x),
            torch.ceil(x),
            torch.sign(x),
            torch.round(x),
            torch.trunc(x),
            torch.positive(x),
            torch.reciprocal(x),
            functional.relu6(x),
            functional.hardtanh(x, -2.0, 3.0),
            x.square(),
            torch.isnan(x),
            torch.isinf(x),
            torch.isfinite(x),
            x.clamp(-1, 2),
            x.clamp(min=0.5),
            torch.clamp_min(x, 0.25),
            torch.clamp_max(x, 0.25),
            functional.leaky_relu(x, 0.3),
            self.prelu_1(x),
            self.prelu_3(x),
            x.logical_not(),
            functional.dropout(x, 0.5, False),
            x.detach(),
            functional.dropout2d(x[:, :, :, None], 0.5, False),
        )

    @case("x: float32[batch, 3, 7]", ulps=6, special=True)
    def smooth(self, x: Tensor):
        return (
            x.tanh(),
            x.sqrt(),
            x.sigmoid(),
            x.exp(),
            x.log(),
            x.rsqrt(),
            x.erf(),
            x.expm1(),
            x.log1p(),
            functional.softplus(x),
            functional.hardswish(x),
            functional.hardsigmoid(x),
            functional.selu(x),
            functional.elu(x, 0.7),
            x.log2(),
        )

    @case("x: float32[batch, 21]", ulps=16, special=True)
    def gates(self, x: Tensor):
        return functional.silu(x), functional.mish(x)

    @case("x: float32[batch, 21]", ulps=4, spread=2)
    def waves(self, x: Tensor):
        return x.sin(), x.cos(), functional.gelu(x), functional.gelu(x, approximate="tanh")

    @case("x: int64[batch, 5], u: uint8[batch, 5], b: bool[batch, 5]")
    def integers(self, x: Tensor, u: Tensor, b: Tensor):
        return (
            x.abs(),
            -x,
            x.sign(),
            x.relu(),
            x.square(),
            ~x,
            ~u,
            ~b,
            b.logical_not(),
            x.clamp(-1, 3),
            torch.floor(x),
            x.clamp(max=2),
            u.logical_not(),
            torch.isnan(x),
            torch.isfinite(x),
        )

    @case("x: int64[batch, 5]", ulps=4)
    def floats_of_integers(self, x: Tensor):
        return x.exp(), x.sigmoid(), torch.sqrt(x), torch.log1p(x)

    @case("x: float64[batch, 5]", ulps=1e-6)
    def doubles(self, x: Tensor):
        return (
            x.exp(),
            x.tanh(),
            x.abs(),
            -x,
            x.relu(),
            x.sqrt(),
            x.sigmoid(),
            x.floor(),
            x * 0.1 + 1,
        )


class Binary(nn.Module):
    @case("x: float32[batch, 1, 5], y: float32[3, 5]", special=True)
    def arithmetic(self, x: Tensor, y: Tensor):
        return (
            x + y,
            x - y,
            x * y,
            x / y,
            2.5 - x,
            torch.rsub(x, y),
            torch.rsub(x, 2),
            torch.true_divide(x, y),
            x + 1,
            x / 3,
            torch.maximum(x, y),
            torch.minimum(x, y),
            torch.max(x, y),
            torch.min(x, y),
            torch.div(x, y, rounding_mode="trunc"),
            x == y,
            x != y,
            x < y,
            x <= y,
            x > y,
            x >= y,
            x > 0,
            x == 0.0,
            torch.where(x > y, x, y),
            torch.where(x > 0, 1.0, 2.0),
            x.masked_fill(y > 0, 7.0),
            torch.logical_and(x, y),
            torch.logical_or(x, y),
            torch.logical_xor(x, y),
        )

    @case("x: float32[batch, 5], y: float32[batch, 5]", ulps=2, spread=1)
    def mixtures(self, x: Tensor, y: Tensor):
        return (
            torch.add(x, y, alpha=2),
            torch.sub(x, y, alpha=0.5),
            torch.rsub(x, y, alpha=3),
            torch.addcmul(x, y, y, value=0.5),
            torch.addcmul(x, x, y),
            torch.addcdiv(x, x, y * y + 1),
            torch.lerp(x, y, 0.3),
            torch.lerp(x, y, y),
            x**2,
            x**3,
            x**1,
            x.abs() ** 0.5,
            x.abs() ** -0.5,
            (x + 9) ** -1,
        )

    @case("x: float32[batch, 5], y: float32[batch, 5]")
    def divisions(self, x: Tensor, y: Tensor):
        return (
            torch.floor_divide(x, y),
            torch.div(x, 0.1, rounding_mode="floor"),
            x % y,
            x % 0.7,
            torch.remainder(x, -0.3),
        )

    @case("x: int64[batch, 5], y: int64[batch, 5], z: int32[5], u: uint8[5]")
    def integers(self, x: Tensor, y: Tensor, z: Tensor, u: Tensor):
        return (
            x + y,
            x - z,
            x * u,
            x / 2,
            x // 3,
            x % 3,
            torch.div(x, 2, rounding_mode="trunc"),
            torch.div(x, 2, rounding_mode="floor"),
            x & y,
            x | y,
            x ^ y,
            torch.bitwise_and(x, 3),
            torch.bitwise_or(x, z),
            torch.bitwise_xor(x, u),
            x << 2,
            x >> 1,
            u << 1,
            u >> 1,
            torch.bitwise_left_shift(z, 2),
            torch.bitwise_right_shift(z, 1),
            torch.maximum(x, z),
            torch.minimum(x, y),
            x == z,
            x < u,
            x + 1.5,
            u * 3,
            u + u,
            x**2,
            x**3,
            x.where(x > 0, y),
            torch.add(x, y, alpha=2),
            3 - x,
            u - 1,
        )

    @case("a: bool[batch, 9], b: bool[9]")
    def booleans(self, a: Tensor, b: Tensor):
        return (
            a & b,
            a | b,
            a ^ b,
            a + b,
            a * b,
            torch.maximum(a, b),
            torch.minimum(a, b),
            a == b,
            a != b,
            a < b,
            a + 1,
            a * 2.5,
            torch.logical_and(a, b),
            torch.where(a, b, ~b),
            a.masked_fill(b, True),
            torch.where(a, 1, 2),
            a.float() - b.float(),
            a.long() - b.int(),
        )

    @case("x: float32[batch, 19], k: int, f: float, b: bool")
    def numbers(self, x: Tensor, k: int, f: float, b: bool):
        n = x.shape[0]
        y = x * k + f
        if b:
            y = y - 1
        return (
            y,
            x * (n / 2),
            x + n,
            x * (k // 2),
            x > f,
            x * float(k),
            x + int(f),
            x * max(k, 1),
            x * min(k, n),
            x + (k % 3),
            x * (-k),
            torch.full([3], k),
            torch.full([3], f),
            torch.tensor(f),
            torch.tensor(b),
            torch.tensor(k),
            torch.tensor([f, 2.0]),
            torch.tensor([k, 2]),
            torch.tensor(k, dtype=torch.bool),
            torch.full([40], k, dtype=torch.bool),
            torch.full([2], 2.7, dtype=torch.int64).float(),
            torch.full([3], f, dtype=torch.int32).float(),
            x if n in [1, 3] else x + 1,
            x * (not b),
            x + abs(k),
        )


class Views(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.arange(12.0).reshape(4, 3))

    @case("x: float32[batch, 4, 6]")
    def strides(self, x: Tensor):
        return (
            x.transpose(0, 1) + 1,
            x.permute(2, 0, 1) * 2,
            x[:, 1:3],
            x[:, ::2],
            x[:, -3:-1],
            x[:, 1::3, ::2],
            x[:, -1],
            x[..., 0],
            x.select(1, -2),
            x[:, 3:1],
            x[:, :100],
            x.swapaxes(1, 2) - 1,
            x.unsqueeze(1),
            x.unsqueeze(-1).squeeze(-1),
            x[:, None, :, 1:2].squeeze(3),
            x[0:1] + 1,
            x[:, 0].t() + 1,
            x[1:],
            x[1:, 2],
        )

    @case("x: float32[batch, 4, 6]")
    def shapes(self, x: Tensor):
        y = x.transpose(1, 2)
        return (
            x.reshape(-1),
            x.flatten(1),
            x.flatten(),
            y.reshape(-1, 8),
            y.reshape(x.shape[0], 24),
            x.view(-1, 2, 12),
            x.unflatten(2, [2, 3]),
            y.flatten(0, 1),
            y[:, ::2].reshape(-1, 4),
            x.view_as(x),
            x.reshape_as(x),
            y.contiguous().view(-1, 3),
            x.permute(0, 2, 1).contiguous(),
            x.transpose(0, 1).reshape(4, -1),
            x[:, :1].expand(-1, 5, -1),
            x[:, :, :1].expand_as(x) + x,
            x[:, 0].unsqueeze(1).expand(-1, 3, 6).reshape(-1, 6),
        )

    @case("x: float32[batch, 7, 5]")
    def parts(self, x: Tensor):
        a, b, c = x.chunk(3, 1)
        d, e = x.split([2, 3], -1)
        f, g, h, i = x.split(2, 1)
        u = torch.unbind(x, 2)
        v = torch.split(x, 3, dim=2)
        return a + b, c, d, e, f - g, h, i, u[0] - u[4], u[-2], v[1] * 2, x.unbind(1)[3]

    @case("x: float32[batch, 2, 3], y: float32[batch, 2, 3]")
    def joined(self, x: Tensor, y: Tensor):
        return (
            torch.cat([x, y]),
            torch.cat([x, y, x], 1),
            torch.cat([x, y], -1),
            torch.stack([x, y]),
            torch.stack([x, y], 1),
            torch.stack([x, y], 2),
            torch.stack([x, y], -1),
            torch.concat([x, y], 1),
            torch.concatenate([x, y], 2) * 2,
            torch.cat([x.transpose(1, 2), y.transpose(1, 2)], 1),
            torch.cat([x + 1, torch.zeros(x.shape[0], 1, 3)], 1),
            torch.stack([x]),
            torch.cat([x], 1),
            torch.cat([torch.cat([x, y], 1), x], 1).relu(),
            torch.cat([torch.cat([x, y], 1), x[:, :1].expand(-1, 4, -1)], 2),
        )

    @case("i: int64[batch, 2], u: uint8[batch]")
    def indexed(self, i: Tensor, u: Tensor):
        hot = functional.one_hot(i.clamp(0, 3), 4)
        return (
            hot,
            hot.float(),
            hot.permute(0, 2, 1).float() * 2,
            functional.one_hot(u.long().clamp(0, 6), 7).float(),
            functional.embedding(i.clamp(0, 3), self.table),
            self.table[i.clamp(-4, 3)],
            self.table.index_select(0, i[:, 0].clamp(0, 3)),
            self.table[:, i.clamp(-3, 2)],
            self.table.index_select(1, i[:, 1].clamp(0, 2)),
            torch.cat([hot, hot], 1),
            hot.float().sum(1),
            torch.cat([hot.float(), torch.ones_like(hot).float()], -1),
        )

    @case("x: float32[batch, 3, 4], i: int64[1]")
    def rare(self, x: Tensor, i: Tensor):
        """Operators that few write, but TorchScript or other tools may."""
        y = x
        if torch.is_grad_enabled() or torch.is_autocast_enabled():
            y = y + 1
        if x.is_nested or x.is_sparse or x.requires_grad or x.layout != torch.strided:
            y = y + 2
        a, b = torch.split_with_sizes(x, [1, 2], 1)
        given: Optional[Tensor] = x  # noqa: UP045
        return (
            y,
            a,
            b,
            torch.ops.aten._unsafe_view(x, [-1, 4]),
            torch.ops.aten.alias(x),
            torch.ops.aten.lift_fresh(x),
            x[:, 0].T,
            torch.ops.aten._to_copy(x, dtype=torch.float64),
            torch.jit._unwrap_optional(given),
            self.scaled(x, i[0], x.sum(-1).sum(-1)[0:1].sum() * 0 + 2),
        )

    def scaled(self, x: Tensor, k: int, f: float) -> Tensor:
        return x * k + f

    @case("x: float32[batch, 3], k: int")
    def made(self, x: Tensor, k: int):
        n = x.shape[0]
        return (
            torch.zeros(n, 2) + 1,
            torch.ones(2, 3, dtype=torch.int64),
            torch.full([n, 2], 1.5),
            torch.empty(2, 2).zero_(),
            torch.zeros_like(x),
            torch.ones_like(x, dtype=torch.bool),
            torch.full_like(x, 3),
            x.new_zeros(2),
            x.new_ones([n]),
            x.new_full([2], 2.5),
            torch.arange(5),
            torch.arange(2, 9, 3),
            torch.arange(5, 0, -2),
            torch.arange(n),
            torch.arange(n - 1, -1, -1),
            torch.arange(4, dtype=torch.float32),
            x.clone(),
            x.type_as(x),
            x.to(torch.int64),
            x.double(),
            x.to(torch.uint8) if False else x.long().to(torch.uint8),
            x.long().int(),
            x.to("cpu"),
            torch.empty_like(x).fill_(2),
            torch.scalar_tensor(2.5),
            torch.tensor([1, 2]),
            torch.arange(n * 2)[::2],
            x.to(x.dtype),
            x.to(torch.zeros(1, dtype=torch.int32)),
        )


class Reductions(nn.Module):
    @case("x: float32[batch, 5, 33]", ulps=4, spread=16)
    def sums(self, x: Tensor):
        return (
            x.sum(),
            x.sum(0),
            x.sum(1),
            x.sum(-1),
            x.sum([0, 2]),
            x.sum(1, keepdim=True),
            x.mean(-1),
            x.mean([1, 2], keepdim=True),
            x.prod(1),
            x.transpose(1, 2).sum(1),
            x[:, ::2].sum(2),
            x.var(1),
            x.std(2, keepdim=True),
            x.var([1, 2], unbiased=False),
            x.cumsum(0),
            x.cumsum(-1),
            x.cumsum(1),
            x[:, :, :1].mean(2),
            x.sum(1, dtype=torch.float64),
            x.var(1, correction=2),
        )

    @case("x: float32[n, 5, 9]", special=True)
    def extremes(self, x: Tensor):
        a, b = x.max(1)
        c, d = x.min(-1, keepdim=True)
        return (
            a,
            b,
            c,
            d,
            x.max(),
            x.min(),
            x.amax(1),
            x.amin([1, 2]),
            x.amax([0], keepdim=True),
            x.argmax(1),
            x.argmin(-1),
            x.argmax(),
            x.argmin(1, keepdim=True),
            x.any(1),
            x.all(-1),
            x.any(),
            x.all(),
            x.transpose(1, 2).argmax(1),
            (x > 0).any(2, keepdim=True),
            torch.argmax((x > 0).float(), 2),
        )

    @case("x: int64[n, 5], u: uint8[n, 5], b: bool[n, 5]")
    def integers(self, x: Tensor, u: Tensor, b: Tensor):
        return (
            x.sum(1),
            u.sum(0),
            b.sum(),
            x.prod(1),
            x.max(1)[0],
            x.max(1)[1],
            u.argmax(1),
            x.argmin(0),
            x.cumsum(1),
            u.cumsum(0),
            b.cumsum(1),
            b.any(1),
            x.all(),
            u.amax(1),
            x.min(),
            u.long().max(),
            u.long().argmin(1),
            b.float().mean(1),
            b.all(0),
        )

    @case("x: float32[batch, 4, 17]", ulps=8, spread=4, special=True)
    def soft(self, x: Tensor):
        return (
            x.softmax(-1),
            x.softmax(1),
            torch.log_softmax(x, -1),
            functional.log_softmax(x, 2),
            torch.logsumexp(x, 1),
            torch.logsumexp(x, [1, 2], keepdim=True),
            torch.softmax(x.transpose(1, 2), 2),
            torch._softmax(x, 2, False),
            torch._log_softmax(x, 1, False),
        )

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.layer = nn.LayerNorm(13)
        self.layer_2 = nn.LayerNorm([3, 13], elementwise_affine=False)
        self.layer_3 = nn.LayerNorm([3, 13])
        self.group = nn.GroupNorm(2, 4)
        self.instance = nn.InstanceNorm2d(4, affine=True)
        self.instance_1 = nn.InstanceNorm1d(3)
        self.batch_1, self.batch_2 = nn.BatchNorm1d(3), nn.BatchNorm2d(4, affine=False)
        for parameter in [*self.parameters(), *self.buffers()]:
            if parameter.dtype == torch.float32:
                parameter.data = torch.rand(parameter.shape, generator=generator) + 0.3

    @case("x: float32[n, 3, 13], y: float32[n, 4, 3, 5]", ulps=16, spread=16)
    def norms(self, x: Tensor, y: Tensor):
        return (
            self.layer(x),
            self.layer_2(x),
            self.layer_3(x),
            self.layer(x.transpose(0, 1)),
            self.group(y),
            self.instance(y),
            self.instance_1(x),
            self.batch_1(x),
            self.batch_2(y),
            self.batch_1(x[:, :, 0]),
            self.group(y.transpose(2, 3)),
        )

    @case("y: float32[n, 3, 7, 6]", ulps=4, spread=4)
    def pools(self, y: Tensor):
        f = functional
        return (
            f.max_pool2d(y, 2),
            f.max_pool2d(y, 3, 2, 1),
            f.max_pool2d(y, [3, 2], [1, 2], [1, 0]),
            f.max_pool2d(y, 2, 1, 0, 2),
            f.avg_pool2d(y, 2),
            f.avg_pool2d(y, 3, 2, 1),
            f.avg_pool2d(y, 3, 2, 1, count_include_pad=False),
            f.max_pool1d(y[:, 0], 2),
            f.max_pool1d(y[:, 1], 3, 2, 1),
            f.avg_pool1d(y[:, 0], 3, 2, 1),
            f.avg_pool1d(y[:, 0], 2),
            f.adaptive_avg_pool2d(y, 1),
            f.adaptive_avg_pool1d(y[:, 0], 1),
            f.max_pool2d(y.transpose(2, 3), 2),
            f.avg_pool2d(y[:, 0], 2),
        )


class Products(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.plain = (
            nn.Linear(5, 33),
            nn.Linear(33, 7),
            nn.Linear(5, 7, bias=False),
        )
        self.of_hot = nn.Linear(6, 9)
        c = nn.Conv2d
        self.convs = nn.ModuleList(
            [
                c(4, 6, 3),
                c(4, 6, 3, 2, 1),
                c(4, 4, 3, groups=4, padding=1),
                c(4, 6, 1),
                c(4, 6, 3, dilation=2),
                c(4, 6, [3, 2], [2, 1], [1, 0], groups=2),
                c(4, 8, 3, groups=4),
                c(4, 33, 1, 2, bias=False),
                c(4, 5, 3, padding="same"),
                c(4, 5, 2, padding="valid"),
                c(4, 4, 5, groups=4, padding=2, bias=False, stride=2),
            ]
        )
        d = nn.Conv1d
        self.convs_1 = nn.ModuleList(
            [
                d(4, 3, 1),
                d(4, 7, 3, padding=1),
                d(4, 4, 3, groups=4),
                d(4, 5, 4, 3, 2),
                d(4, 2, 3, dilation=2, groups=2),
            ]
        )
        self.single = nn.Conv2d(1, 3, 3, padding=1)
        self.hot_conv = nn.Conv2d(6, 5, 3)
        self.hot_padded = nn.Conv2d(8, 5, 3, padding=1)
        self.cell = nn.LSTMCell(5, 7)

    @case("x: float32[batch, 4, 5]", ulps=8, spread=8)
    def linear(self, x: Tensor):
        h = self.up(x)
        y = self.plain(x)
        part = torch.cat([x, h[:, :, :3], x * 2], -1)
        w = self.up.weight
        return (
            h,
            torch.relu(h),
            self.down(torch.relu(h)) + y,
            y + x[:, :, :1],
            self.up(x.transpose(0, 1)),
            torch.relu(self.plain(x[:, 0]))[:2],
            torch.relu(self.plain(x[:, 0])[:, 1:3]),
            self.plain(x).view(-1, 4, 7) + 1,
            functional.linear(part, w[:9, :1].expand(9, 13)),
            self.plain(x[:, ::2]) + self.plain(x[:, 1::2]),
            self.up(x[:, 1, :]) + self.up(x[:, 2, :]),
            self.plain(x).reshape(-1, 14) + self.plain(x * 2).reshape(-1, 14),
            torch.relu(self.plain(x)[:, 1:3]),
        )

    @case(
        "x: float32[batch, 4, 5], y: float32[batch, 5, 3], m: float32[n, 5], v: float32[5]",
        ulps=8,
        spread=8,
    )
    def matmul(self, x: Tensor, y: Tensor, m: Tensor, v: Tensor):
        w = self.plain.weight
        return (
            x @ y,
            torch.bmm(x, y),
            x @ v,
            torch.mv(m, v),
            torch.dot(v, v),
            m @ w.t(),
            torch.mm(m, w.t()),
            torch.matmul(v, y),
            x @ m.t(),
            torch.matmul(x.unsqueeze(1), y[:, None].expand(-1, 2, -1, -1)),
            torch.addmm(v[:1], m, w.t()),
            torch.addmm(self.plain.weight[:, 0], m, w.t()),
            torch.addmm(w[:1, :1], m, m.t(), beta=0.5, alpha=2.0),
            torch.baddbmm(x[:, :, :3], x, y),
            torch.addmv(m[:, 0], m, v),
            x.transpose(1, 2) @ y.transpose(1, 2)[:, :1].expand(-1, 4, -1),
            v @ v,
            x[:, :, ::2] @ y[:, ::2],
            functional.linear(m, m),
            functional.linear(m, m, m[:, 0]),
            y.transpose(1, 2) @ x.transpose(1, 2),
        )

    @case("x: float32[batch, 4, 9, 8]", ulps=8, spread=16)
    def convolutions(self, x: Tensor):
        outs: List[Tensor] = []  # noqa: UP006
        for conv in self.convs:
            outs.append(torch.relu(conv(x)))
        y = x.transpose(2, 3)
        a = self.convs[0]
        b = self.convs[3]
        return (
            outs[0],
            outs[1],
            outs[2],
            outs[3],
            outs[4],
            outs[5],
            outs[6],
            outs[7],
            outs[8],
            outs[9],
            outs[10],
            a(y),
            b(y) + b(y * 2),
            self.single(x[:, :1]),
            a(torch.cat([x[:, :1] + 1, x[:, 1:]], 1)),
            b(x).flatten(1),
            a(x[0:1]),
            torch._convolution(
                x,
                a.weight,
                a.bias,
                [2, 1],
                [0, 1],
                [1, 1],
                False,
                [0, 0],
                1,
                False,
                False,
                True,
                True,
            ),
            torch.convolution(x, a.weight, a.bias, [1, 1], [1, 1], [1, 1], False, [0, 0], 1),
            b(x[:, :, ::2, 1:]),
        )

    @case("x: float32[batch, 4, 11]", ulps=8, spread=16)
    def convolutions_1(self, x: Tensor):
        outs: List[Tensor] = []  # noqa: UP006
        for conv in self.convs_1:
            outs.append(conv(x))
        return (
            outs[0],
            outs[1],
            outs[2],
            outs[3],
            outs[4],
            self.convs_1[1](x.transpose(0, 0)[:, :, ::2]),
        )

    @case("i: int64[batch, 5, 4]", ulps=8, spread=8)
    def hot(self, i: Tensor):
        hot = functional.one_hot(i.clamp(0, 5), 6).float()
        image = hot.permute(0, 3, 1, 2)
        both = torch.cat([image, image[:, :2]], 1)
        return (
            self.of_hot(hot),
            torch.relu(self.of_hot(hot)),
            self.hot_conv(image),
            torch.relu(self.hot_conv(image)),
            self.hot_padded(both),
            self.plain(torch.cat([hot[..., :2], hot[..., 3:]], -1)),
        )

    @case(
        "q: float32[batch, 2, 5, 4], k: float32[batch, 2, 3, 4], m: bool[5, 3], a: float32[5, 3]",
        ulps=16,
        spread=8,
    )
    def attention(self, q: Tensor, k: Tensor, m: Tensor, a: Tensor):
        f = functional.scaled_dot_product_attention
        return (
            f(q, k, k),
            f(q, k, k, m | (a > 9) | torch.ones_like(m)),
            f(q, k, k, a),
            f(q, k, k, scale=0.3),
        )


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 5, 2, bidirectional=True)
        self.lstm_1 = nn.LSTM(3, 7, batch_first=True, bias=False)
        self.gru = nn.GRU(3, 5, batch_first=True)
        self.gru_2 = nn.GRU(3, 4, 2, bidirectional=True)
        self.rnn = nn.RNN(3, 4)
        self.rnn_relu = nn.RNN(3, 4, nonlinearity="relu")
        self.cells = nn.ModuleList([nn.LSTMCell(3, 5)])
        self.gru_cell, self.rnn_cell, self.relu_cell = (
            nn.GRUCell(3, 5),
            nn.RNNCell(3, 5),
            nn.RNNCell(3, 5, nonlinearity="relu"),
        )
        self.from_x, self.from_h, self.to_y = nn.Linear(3, 16), nn.Linear(8, 16), nn.Linear(8, 70)

    @case("x: float32[time, batch, 3], h: float32[4, batch, 5]", ulps=16, spread=8)
    def layers(self, x: Tensor, h: Tensor):
        a, (b, c) = self.lstm(x, (h, h * 0.5))
        d, e = self.gru_2(x)
        f, g = self.rnn(x)
        i, j = self.rnn_relu(x)
        return a, b, c, d, e, f, g, i, j

    @case("x: float32[batch, time, 3]", ulps=16, spread=8)
    def batch_first(self, x: Tensor):
        a, (b, c) = self.lstm_1(x)
        d, e = self.gru(x)
        return a, b, c, d, e

    @case("x: float32[batch, 3], h: float32[batch, 5], c: float32[batch, 5]", ulps=16, spread=8)
    def single(self, x: Tensor, h: Tensor, c: Tensor):
        a, b = self.cells[0](x, (h, c))
        return a, b, self.gru_cell(x, h), self.rnn_cell(x, h), self.relu_cell(x, h)

    @case("x: float32[time, 3]", ulps=16, spread=8)
    def own(self, x: Tensor):
        h = torch.zeros(8)
        outs: List[Tensor] = []  # noqa: UP006
        for t in range(x.shape[0]):
            a, b = (self.from_x(x[t]) + self.from_h(h)).chunk(2)
            h = torch.sigmoid(a) * torch.tanh(b)
            outs.append(torch.softmax(self.to_y(h), 0))
        return torch.stack(outs)


class InPlace(nn.Module):
    @case("x: float32[batch, 21]", ulps=6)
    def each(self, x: Tensor):
        f = functional
        return (
            (x + 0).add_(1),
            (x + 0).sub_(x),
            (x + 0).mul_(2),
            (x + 0).div_(3),
            (x + 0).relu_(),
            (x + 0).sigmoid_(),
            (x + 0).tanh_(),
            (x + 0).exp_(),
            (x + 0).neg_(),
            (x + 0).abs_(),
            f.silu(x + 0, True),
            f.hardswish(x + 0, True),
            f.hardsigmoid(x + 0, True),
            f.elu(x + 0, 0.5, True),
            f.relu6(x + 0, True),
            (x + 0).masked_fill_(x > 0, 2.0),
            (x + 0).clamp_(-1, 1),
            f.leaky_relu(x + 0, 0.1, True),
            f.hardtanh(x + 0, -1.0, 1.0, True),
            (x + 0).clamp_min_(0.5),
            (x + 0).clamp_max_(0.5),
            (x + 0).copy_(x * 2),
            (x + 0).fill_(3),
            (x + 0).zero_(),
            torch.relu6(x) if False else x,
        )

    @case("x: float32[batch, 21]", ulps=2, spread=2)
    def mixtures(self, x: Tensor):
        return (x + 0).addcmul_(x, x, value=0.5), (x + 0).lerp_(x * 2, 0.3)

    @case("x: float32[batch, 4, 5]")
    def views(self, x: Tensor):
        y = x + 1
        before = y.clone()
        y[:, 1] = 0
        y[:, :, ::2] += 1
        y[:, 2:4] *= x[:, 0:2]
        y.transpose(1, 2)[:, 0] = 7
        z = y[:, 3]
        y[:, 3, 1] = 5
        y[:, :2] = y[:, 2:]
        y[:, 0:3] = y[:, 1:4] + 1
        z.add_(1)
        flat = y.view(-1, 20)
        flat[:, 19] = 3
        return before, y, z, flat * 2

    @case("x: float32[batch, 3]")
    def copies(self, x: Tensor):
        y = x + 1
        z = y.clone()
        u = y.to(torch.float32, copy=True)
        y.add_(1)
        w = torch.zeros(2)
        v = w
        w += 1
        total = torch.tensor(1.0)
        same = total
        total += 2
        out = torch.zeros(x.shape[0], 6)
        out[:, :3] = x
        out[:, 3:] = y
        return y, z, u, w, v, total, same, out

    @case("x: float32[n, 4], k: int")
    def in_loops(self, x: Tensor, k: int):
        out = torch.zeros(x.shape[0], 4)
        for i in range(x.shape[0]):
            row = x[i] * 2
            row.add_(1)
            out[i] = row
            out[i, 1:3] += out[i, 0:2] * 2
        h = x + 0
        for _ in range(k):
            h = h.relu_() + 1
            h.mul_(0.5)
        return out, h


class Control(nn.Module):
    @case("x: float32[n, 4], k: int")
    def loops(self, x: Tensor, k: int):
        h = x[0] * 0
        count = 0
        outs: List[Tensor] = []  # noqa: UP006
        for i in range(x.shape[0]):
            h = h * 0.5 + x[i]
            if bool((h.sum() > 0).item()):
                h = h - 1
                count += 1
            else:
                h = h + 2
            outs.append(h)
        a, b = x[0], x[0] + 1
        for _ in range(k):
            a, b = b, a + b
        return (
            h,
            torch.stack(outs),
            torch.stack(outs, 1),
            torch.cat(outs),
            a,
            b,
            torch.tensor(count),
            outs[-1],
        )

    @case("x: float32[batch, 4], k: int")
    def ends(self, x: Tensor, k: int):
        i = 0
        y = x
        while i < k:
            y = y + 1
            i += 1
        z = x
        for j in range(100):
            if j >= k:
                break
            if j % 2 == 1:
                continue
            z = z * 2
        for _ in range(3):
            z = z + 1
        return y, z, self.early(x, k)

    def early(self, x: Tensor, k: int) -> Tensor:
        for i in range(k + 3):
            if i * i > k:
                return x * i
        return x - 1

    @case("x: float32[batch, 4], k: int, b: bool, f: float")
    def branches(self, x: Tensor, k: int, b: bool, f: float):
        if k > 1:
            y = x + 1 if b else x * 2
            m = k
        elif f > 0.5:
            y, m = x - 1, 2
        else:
            y, m = x.transpose(0, 1).transpose(0, 1), 3
        n: Optional[int] = None  # noqa: UP045
        t: Optional[Tensor] = None  # noqa: UP045
        if b and k >= 0:
            n, t = k + 2, x * 3
        z = y
        if n is not None:
            z = z * n
        if t is not None:
            z = z + t
        if k > 1000:
            raise ValueError("too large")
        return y * m, z, x if b or k == 2 else -x

    @case("x: float32[batch, 4]")
    def structures(self, x: Tensor):
        d: Dict[str, Tensor] = {"a": x, "b": x + 1}  # noqa: UP006
        d["c"] = d["a"] * 2
        total = x * 0
        for key, value in d.items():
            if key != "b":
                total = total + value
        for value in d.values():
            total = total + value
        for key in d.keys():  # noqa: SIM118
            total = total + d[key]
        pair: Tuple[Tensor, int] = (x, 3)  # noqa: UP006
        items = [x, x + 1]
        items.append(x + 2)
        items.extend([x + 3])
        copied = list(items)
        items.reverse()
        items[1] = x * 9
        name = f"{len(items)}" + str(x.dim())
        if "a" in d and name == "42":
            total = total + 1
        if x.dtype == torch.float32 and x.is_floating_point() and not x.is_cuda and x.size(1) == 4:
            total = total + x.dim()
        return total, pair[0] * pair[1], items[0], items[1], copied[-1], items[1:3][0]

    @case("x: float32[n, 4], i: int64[n]")
    def reads(self, x: Tensor, i: Tensor):
        first, total = int(i[0]), float(x.sum(dtype=torch.float64) > 0)
        y = x + first
        if i[0] > 2:
            y = y * 2
        s = 0
        numbers: List[int] = i.tolist()  # noqa: UP006
        for n in numbers:
            s += n
        return y, x + total, x * s, x[0], x * bool(i[0]), x * x.numel()

    @case("x: float32[n, 4], k: int")
    def stacks(self, x: Tensor, k: int):
        outs: List[Tensor] = []  # noqa: UP006
        h = x[0]
        for row in x.unbind(0):
            h = h + row
            outs.append(h)
        outs.reverse()
        nested = x * 0
        for i in range(k):
            t = x + i
            for _ in range(i):
                t = t * 0.5 + 1
            nested = nested + t
        return torch.stack(outs), len(outs) + x, outs[0], nested

    @case("x: float32[n, 4]")
    def alternating(self, x: Tensor):
        low, high = x[0] * 0, x[0] * 0
        last: Optional[Tensor] = None  # noqa: UP045
        for i in range(x.shape[0]):
            t = x[i] + 1
            u = t.cumsum(0)
            if i % 2 == 0:
                low = low + u
            else:
                high, low = low * 2, high
            last = u * 2 if last is None else last + u
        assert last is not None
        return low, high, last


MODULES = [Unary, Binary, Views, Reductions, Products, Recurrent, InPlace, Control]


class Refused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.bias = nn.Parameter(torch.ones(4))

    @case("x: float32[n, 4]")
    def input_in_place(self, x: Tensor) -> Tensor:
        x.add_(1)
        return x * 2

    @case("x: float32[n, 4]")
    def weight_in_place(self, x: Tensor) -> Tensor:
        self.bias.add_(1)
        return x * self.bias

    @case("x: float32[n, 4]")
    def branch_in_place(self, x: Tensor) -> Tensor:
        y = x * 2 if bool((x.sum() > 0).item()) else x + 1
        y.add_(1)
        return y

    @case("x: float32[n, 1, 5, 5]")
    def copy_in_place(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y.view(y.shape[0], -1).add_(1.0)
        return y

    @case("x: float32[n, 4], k: int")
    def carried_in_place(self, x: Tensor, k: int) -> Tensor:
        y = x + 0
        z = y
        for _ in range(k):
            y.add_(1)
            y = y * 2
        return z

    @case("x: float32[n, 4]")
    def appended_in_place(self, x: Tensor) -> Tensor:
        outs: List[Tensor] = []  # noqa: UP006
        for i in range(x.shape[0]):
            h = x[i] + 1
            outs.append(h)
            h.mul_(2)
        return torch.stack(outs)

    @case("x: float32[n, 4]")
    def dict_in_branch(self, x: Tensor) -> Tensor:
        d: Dict[str, Tensor] = {"a": x}  # noqa: UP006
        if bool((x.sum() > 0).item()):
            d["a"] = x * 2
        return d["a"]

    @case("x: float32[n, 4]")
    def reversed_in_branch(self, x: Tensor) -> Tensor:
        items = [x, x + 1]
        if bool((x.sum() > 0).item()):
            items.reverse()
        return items[0]

    @case("x: float32[n, 4]")
    def squeezed(self, x: Tensor) -> Tensor:
        return x.squeeze(0) + 1

    @case("x: float32[n, 4]")
    def decimals(self, x: Tensor) -> Tensor:
        return torch.round(x, decimals=1)

    @case("x: float32[n, 4], k: int")
    def raising_loop(self, x: Tensor, k: int) -> Tensor:
        y = x
        if k > 3:
            for _ in range(k - 3):
                raise ValueError("too many")
        else:
            y = x * 2
        return y

    @case("x: int64[n, 4]")
    def wide_shift(self, x: Tensor) -> Tensor:
        return x << 64

    @case("x: float64[n, 4]")
    def double_remainder(self, x: Tensor) -> Tensor:
        return x % 2.0

    @case("x: float32[n, 4], i: int64[n, 2]")
    def gathered(self, x: Tensor, i: Tensor) -> Tensor:
        return torch.gather(x, 1, i)


class Checked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)

    @case("x: float32[n, 4], k: int")
    def selected(self, x: Tensor, k: int) -> Tensor:
        return x[k] + 1

    @case("x: float32[n, 4], i: int64[m]")
    def taken(self, x: Tensor, i: Tensor) -> Tensor:
        return x[i]

    @case("x: float32[n, 4], i: int64[m]")
    def embedded(self, x: Tensor, i: Tensor) -> Tensor:
        return functional.embedding(i, x)

    @case("x: float32[n, 4], y: float32[1, 1, h, 5]")
    def convolved(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.relu(self.conv(y + 1))
