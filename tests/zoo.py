"""Small modules for the tests: one that uses every kind of argument, and one for each refusal."""

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torchship.script.exporting.target import Examples, Target, normalise, source_of

# How torch says that `torch.jit` is deprecated: 2.13 to developers, its successors to everybody.
TORCHSCRIPT_NOTICE = (DeprecationWarning, FutureWarning)


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seeded(module: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module.eval()


def target(
    factory: Callable[[], object], examples: object, name: str = "zoo", **said: Any
) -> Target:
    """A target as the command line makes it from `zoo:factory`."""
    text = f"zoo:{factory.__name__}"
    given: Examples = normalise(examples() if callable(examples) else examples, text)
    return Target(name, source_of(text, factory, {}), factory, given, **said)


def rows() -> list[dict[str, object]]:
    """Two batches for a module that takes x: float32[batch,3]."""
    return [{"x": noise(1, 2, 3)}, {"x": noise(2, 4, 3)}]


class Linear(nn.Module):
    """float32[batch,3] -> float32[batch,4]."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def linear() -> nn.Module:
    return seeded(Linear())


class Memory(NamedTuple):
    h: Tensor
    c: Tensor


class Everything(nn.Module):
    """Tensors, numbers, a string, tuples, lists, dicts, optionals, defaults, nested."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(
        self,
        x: Tensor,
        memory: Memory,
        options: dict[str, tuple[Tensor, float]],
        parts: list[Tensor],
        sizes: list[int],
        pair: tuple[Tensor, Tensor] | None = None,
        times: int = 2,
        flip: bool = False,
        tag: str = "plain",
    ) -> tuple[Tensor, dict[str, Tensor], list[Memory]]:
        y = self.layer(x) * times + memory.h - memory.c
        for name, (shift, factor) in options.items():
            y = y + shift * factor if name != "minus" else y - shift * factor
        for index, part in enumerate(parts):
            y = y + part * (index + 1)
        for size in sizes:
            y = y + size
        if pair is not None:
            y = y + pair[0] - 2 * pair[1]
        if flip:
            y = -y
        if tag == "double":
            y = y * 2
        return y, {"sum": y.sum(1), "long": y.long()}, [Memory(y + 1, memory.c), Memory(y, y * 3)]


def everything() -> nn.Module:
    return seeded(Everything())


def everything_examples() -> list[dict[str, object]]:
    def example(seed: int, batch: int, parts: int) -> dict[str, object]:
        return {
            "x": noise(seed, batch, 3),
            "memory": Memory(noise(seed + 1, batch, 4), noise(seed + 2, batch, 4)),
            "options": {
                "plus": (noise(seed + 3, batch, 4), 0.5),
                "minus": (noise(seed + 4, batch, 4), 1.5),
            },
            "parts": [noise(seed + 5 + n, batch, 4) for n in range(parts)],
            "sizes": [3, -1],
        }

    full = example(30, 5, 3) | {
        "pair": (noise(50, 5, 4), noise(51, 5, 4)),
        "times": 3,
        "flip": True,
        "tag": "double",
    }
    return [example(10, 2, 1), example(20, 3, 2), full]


class Accumulator(nn.Module):
    """A recurrent sum with a required state: (x, total) -> (y, total)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, x: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        total = torch.tanh(total * 0.5 + self.layer(x))
        return total * 2, total


def accumulator() -> nn.Module:
    return seeded(Accumulator())


def accumulator_target(start: str = "zeros") -> Target:
    examples = [
        {"x": noise(1, 2, 3), "total": noise(2, 2, 4)},
        {"x": noise(3, 3, 3), "total": noise(4, 3, 4)},
        {"x": noise(5, 3, 3)},
    ]
    return target(
        accumulator,
        examples,
        outputs={"forward": ["y", "total"]},
        state={"forward": [("total", "total", start)]},
    )


class Raising(nn.Module):
    """Fails as `how` says."""

    def forward(self, x: Tensor, how: int) -> Tensor:
        if how == 1:
            raise ValueError("first line\nsecond line")
        if how == 2:
            return x.view(7)
        assert how == 0, "an assertion"
        return x * 2


def raising() -> nn.Module:
    return Raising().eval()


# --- modules that must be refused ---


class Dropping(Linear):
    """In training mode its outputs are another model's."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.layer(x))


def training() -> nn.Module:
    return seeded(Dropping()).train()


def not_finite() -> nn.Module:
    module = Linear()
    with torch.no_grad():
        module.layer.bias[1] = float("nan")
    return module.eval()


def diverged() -> nn.Module:
    module = Linear()
    with torch.no_grad():
        module.layer.bias[1:3] = torch.tensor([float("inf"), -float("inf")])
    return module.eval()


class Remembering(Linear):
    """Adds what it saw before, kept in a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.seen + float(x.sum())
        return self.layer(x) + self.seen


def remembering() -> nn.Module:
    return seeded(Remembering())


class Counting(Linear):
    """Counts its calls in a buffer, without using the count."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return self.layer(x)


def counting() -> nn.Module:
    return seeded(Counting())


class RunningMaximum(Linear):
    """Remembers the largest input in a buffer that is not saved: two equal calls in a row agree."""

    largest: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("largest", torch.zeros(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.largest = torch.maximum(self.largest, x.abs().max())
        return self.layer(x) / self.largest


def running_maximum() -> nn.Module:
    return seeded(RunningMaximum())


class Aliasing(Linear):
    """Hands out its own accumulator."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.total += self.layer(x).sum(0)
        return self.total


def aliasing() -> nn.Module:
    return seeded(Aliasing())


def not_finite_attribute() -> nn.Module:
    module = linear()
    module.scale = torch.tensor([1.0, float("nan")])
    return module


def not_finite_list() -> nn.Module:
    module = linear()
    module.__dict__["scales"] = [torch.ones(1), torch.tensor([float("nan")])]
    return module


class Leaning(Linear):
    """Its rows lean on each other, a little."""

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x + 5e-4 * x.mean(0))


def leaning() -> nn.Module:
    return seeded(Leaning())


class Acting(Accumulator):
    """Two methods with one state."""

    @torch.jit.export
    def act(self, x: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        y, total = self.forward(x, total)
        return y.argmax(1), total


def acting() -> nn.Module:
    return seeded(Acting())


def acting_examples() -> dict[str, object]:
    given = [{"x": noise(n, n, 3), "total": noise(n + 9, n, 4)} for n in (2, 3)]
    return {"forward": given, "act": given}


def in_place() -> nn.Module:
    return seeded(nn.Sequential(nn.Linear(3, 5), nn.ReLU(inplace=True), nn.Linear(5, 4)))


def in_place_examples() -> list[dict[str, object]]:
    return [{"input": row["x"]} for row in rows()]


def failing_examples() -> list[dict[str, object]]:
    raise RuntimeError("no examples today")


class Guessing(Linear):
    """Draws random numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + torch.rand(1)


def guessing() -> nn.Module:
    return seeded(Guessing())


class Overwriting(Linear):
    """Changes the caller's tensor."""

    def forward(self, x: Tensor) -> Tensor:
        x += 1
        return self.layer(x)


def overwriting() -> nn.Module:
    return seeded(Overwriting())


class Appending(Linear):
    """Changes the caller's list."""

    def forward(self, x: list[Tensor]) -> Tensor:
        x.append(x[0])
        return self.layer(x[0] + x[1])


def appending() -> nn.Module:
    return seeded(Appending())


class Lambda(Linear):
    """Uses what TorchScript has no word for."""

    def forward(self, x: Tensor) -> Tensor:
        double = lambda t: t * 2  # noqa: E731
        return double(self.layer(x))


def with_lambda() -> nn.Module:
    return seeded(Lambda())


class Unannotated(Linear):
    """Its second argument is a number, and is not annotated."""

    def forward(self, x, times):  # type: ignore[no-untyped-def]
        y = self.layer(x)
        for _ in range(times):
            y = y + 1
        return y


def unannotated() -> nn.Module:
    return seeded(Unannotated())


class Outside(Linear):
    """Calls Python's library."""

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * random.choice([1.0])


def outside() -> nn.Module:
    return seeded(Outside())


class Mixing(Linear):
    """Returns a number beside its tensor."""

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return self.layer(x), 3


def mixing() -> nn.Module:
    return seeded(Mixing())


class Coupling(Linear):
    """Normalises over the batch, so its rows depend on each other."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.layer(x), 0)


def coupling() -> nn.Module:
    return seeded(Coupling())


class Dividing(Linear):
    """0 / 0 where a row is all zeros."""

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * (x.sum(1, keepdim=True) / x.sum(1, keepdim=True))


def dividing() -> nn.Module:
    return seeded(Dividing())


class Branching(Linear):
    """Control flow that depends on the data, which a trace loses."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        if float(x.sum()) > 0:
            y = -y
        return y


def branching() -> nn.Module:
    return seeded(Branching())


class Looping(Linear):
    """As many rounds as there are rows: the tracer does not even warn."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        for row in x.unbind(0):
            y = y + row.sum()
        return y


def looping() -> nn.Module:
    return seeded(Looping())


def not_a_module() -> object:
    return 3


def failing() -> nn.Module:
    raise RuntimeError("no weights today")


# --- a recurrent network and its mutants ---

SIZE = 8  # input and state have one size, so that mistaking one for the other still runs


class Gates(nn.Module):
    """The pointwise part of an LSTM step."""

    def forward(self, gates: Tensor, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = gates.chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class Network(nn.Module):
    """x, h, c: float32[batch,8] -> y [batch,8], h, c."""

    def __init__(self, gates: nn.Module) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(SIZE)
        self.ih = nn.Linear(SIZE, 4 * SIZE)
        self.hh = nn.Linear(SIZE, 4 * SIZE)
        self.gates = gates
        self.head = nn.Linear(SIZE, SIZE)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.norm(x)
        h, c = self.gates(self.ih(x) + self.hh(h), x, c)
        y = self.head(h)
        if float(x.sum()) > 0:
            y = y + 1
        return y, h, c

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.step(x, h, c)


def network(gates: nn.Module | None = None) -> Network:
    module = Network(gates or Gates())
    seeded(module, 7)
    module.norm.running_mean = noise(8, SIZE) * 0.1
    module.norm.running_var = noise(9, SIZE).abs() + 0.5
    return module


def network_target() -> Target:
    def example(seed: int, batch: int, shift: float) -> dict[str, object]:
        """Return x with a sum of the shift's sign, so that both branches are taken."""
        x, h, c = (noise(seed + n, batch, SIZE) for n in range(3))
        return {"x": x + shift, "h": h, "c": c}

    return target(
        network,
        [example(60, 2, 1.0), example(70, 3, -1.0)],
        name="network",
        outputs={"forward": ["y", "h", "c"]},
        state={"forward": [("h", "h", "zeros"), ("c", "c", "zeros")]},
    )


class ForgetsX(nn.Module):
    """`f * x` for `f * c`."""

    def forward(self, gates: Tensor, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = gates.chunk(4, 1)
        c = torch.sigmoid(f) * x + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class SwapsGates(nn.Module):
    """The order f, i, g, o."""

    def forward(self, gates: Tensor, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        f, i, g, o = gates.chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class Stale(Network):
    """Returns the output buffer before it is filled anew."""

    last: Tensor

    def __init__(self) -> None:
        super().__init__(Gates())
        self.register_buffer("last", torch.zeros(0))

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, h, c = self.step(x, h, c)
        stale = self.last
        self.last = y
        return y if stale.shape != y.shape else stale, h, c


class Untouched(Network):
    """Forgets to hand the state on."""

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, new_h, _ = self.step(x, h, c)
        return y, new_h, c
