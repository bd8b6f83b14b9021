"""Small modules as other people write them: what the compiler takes beside our own models."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

Example = dict[str, object]


def _seeded(module: nn.Module, seed: int = 7) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator) - 0.5)
        for name, buffer in module.named_buffers():
            if name.endswith("running_var"):
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
            elif name.endswith("running_mean"):
                buffer.copy_(torch.rand(buffer.shape, generator=generator) - 0.5)
    return module.eval()


def _normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- a transformer's encoder layer ---


class Attention(nn.Module):
    """Multi-head attention, as it is written by hand."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(size, 3 * size)
        self.out = nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, size = x.shape
        parts = self.qkv(x).view(batch, time, 3, self.heads, size // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-2, -1) / (size // self.heads) ** 0.5
        mixed = torch.softmax(scores, -1) @ v
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, time, size))
        return out


class EncoderLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(24), nn.LayerNorm(24)
        self.attention = Attention(24, 3)
        self.up, self.down = nn.Linear(24, 50), nn.Linear(50, 24)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        y: Tensor = x + self.down(functional.gelu(self.up(self.norm2(x))))
        return y


def encoder() -> nn.Module:
    return _seeded(EncoderLayer())


def encoder_examples() -> list[Example]:
    return [{"x": _normal(n, n, 2 * n + 1, 24)} for n in (1, 2, 5)]


def torch_encoder() -> nn.Module:
    """The layer that torch has."""
    return _seeded(nn.TransformerEncoderLayer(24, 3, 50, batch_first=True, norm_first=True))


def torch_encoder_examples() -> list[Example]:
    return [{"src": _normal(n, n, 2 * n + 1, 24)} for n in (1, 2, 5)]


# --- a convolutional net ---


class ConvNet(nn.Module):
    """Groups, depthwise, strides, padding, BatchNorm, SiLU and pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.norm2 = nn.BatchNorm2d(16)
        self.grouped = nn.Conv2d(16, 24, 3, padding=2, dilation=2, groups=4)
        self.head = nn.Linear(24, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = functional.silu(self.norm1(self.stem(image)))
        x = functional.max_pool2d(x, 3, 2, 1)
        x = functional.silu(self.norm2(self.depthwise(x))) + x
        x = functional.avg_pool2d(functional.hardswish(self.grouped(x)), 2)
        y: Tensor = self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return y


def convnet() -> nn.Module:
    return _seeded(ConvNet())


def convnet_examples() -> list[Example]:
    return [{"image": _normal(n, n, 3, 33, 29)} for n in (1, 2, 5)]


class Signal(nn.Module):
    """One axis: convolutions over time."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(2, 12, 5, padding=2)
        self.second = nn.Conv1d(12, 6, 3, stride=2, groups=2)
        self.norm = nn.GroupNorm(2, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.elu(self.first(x))
        return torch.tanh(self.norm(self.second(x))).amax(2)


def signal() -> nn.Module:
    return _seeded(Signal())


def signal_examples() -> list[Example]:
    return [{"x": _normal(n, n, 2, 31)} for n in (1, 2, 5)]


# --- dicts in and out ---


class Fusion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(8, 6), nn.Linear(5, 6)

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        mixed = self.image(inputs["image"]) * torch.sigmoid(self.text(inputs["text"]))
        return {"mixed": mixed, "norm": mixed.pow(2).sum(1, keepdim=True).sqrt()}


def fusion() -> nn.Module:
    return _seeded(Fusion())


def fusion_examples() -> list[Example]:
    return [
        {"inputs": {"image": _normal(n, n, 8), "text": _normal(n + 9, n, 5)}} for n in (1, 2, 5)
    ]


# --- a decoder with a loop that ends when the values say so ---


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.cell = nn.GRUCell(8, 16)
        self.head = nn.Linear(16, 11)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        batch = h.size(0)
        symbol = torch.zeros([batch], dtype=torch.int64)
        found = torch.zeros([batch, 12], dtype=torch.int64)
        open_rows = torch.ones([batch], dtype=torch.bool)
        step = 0
        while step < 12 and bool(open_rows.any()):
            h = torch.where(open_rows.unsqueeze(1), self.cell(self.embedding(symbol), h), h)
            symbol = self.head(h).argmax(1) * open_rows
            found[:, step] = symbol
            open_rows = open_rows & (symbol != 3)
            step += 1
        return found, h


def decoder() -> nn.Module:
    return _seeded(Decoder())


def decoder_examples() -> list[Example]:
    return [{"h": _normal(n, n, 16)} for n in (1, 2, 5)]


# --- torch's recurrent layers ---


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 10, num_layers=2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(20, 7, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, _ = self.lstm(x)
        z, last = self.gru(y)
        return z, last[0]


def recurrent() -> nn.Module:
    return _seeded(Recurrent())


def recurrent_examples() -> list[Example]:
    return [{"x": _normal(n, n, time, 6)} for n, time in ((1, 3), (2, 40), (5, 7))]


class OwnCell(nn.Module):
    """A cell that nobody has seen, with a loop over a list of steps."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.h = nn.Linear(5, 18), nn.Linear(9, 18, bias=False)
        self.mean, self.last = nn.Linear(5, 18), nn.Linear(9, 6)

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        state = torch.zeros([x.size(0), 9]) if h is None else h
        mean = x.mean(1)
        outputs: list[Tensor] = []
        for t in range(x.size(1)):
            a, b = (self.x(x[:, t]) * self.h(state) + self.mean(mean)).chunk(2, 1)
            state = state + torch.sigmoid(a) * (torch.tanh(b) - state)
            outputs.append(torch.softmax(self.last(state), 1))
        return torch.stack(outputs, 1), state


def own_cell() -> nn.Module:
    return _seeded(OwnCell())


def own_cell_examples() -> list[Example]:
    return [
        {"x": _normal(1, 1, 4, 5)},
        {"x": _normal(2, 2, 67, 5), "h": _normal(3, 2, 9)},
        {"x": _normal(4, 5, 1, 5), "h": _normal(5, 5, 9)},
    ]


class Repeated(nn.Module):
    """As many rounds as the caller wants, each reading what was computed before the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor, times: int) -> Tensor:
        y, total = torch.tanh(x), x
        for _ in range(times):
            total = total + self.down(functional.relu(self.up(y * total)))
        return total


def repeated() -> nn.Module:
    return _seeded(Repeated())


def repeated_examples() -> list[Example]:
    return [{"x": _normal(n, n, 8), "times": n} for n in (1, 2, 5)]


# --- a module that counts its rows ---


class Crowded(nn.Module):
    """Does something else with more rows than any exporter tries, and names their number."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        if bool((x > 100).any()):
            raise ValueError(f"x: expected at most 100, got {list(x.shape)}")
        y = torch.tanh(self.linear(x))
        if x.size(0) > 100:
            y = y - 1
        return y


class Refusing(Crowded):
    """Names the number of its rows, and does the same with any of them."""

    def forward(self, x: Tensor) -> Tensor:
        if bool((x > 100).any()):
            raise ValueError(f"x: expected at most 100, got {list(x.shape)}")
        y: Tensor = torch.tanh(self.linear(x))
        return y


def crowded() -> nn.Module:
    return _seeded(Crowded())


def refusing() -> nn.Module:
    return _seeded(Refusing())


def crowded_examples() -> list[Example]:
    return [{"x": _normal(n, n, 4)} for n in (1, 2, 5)]


# --- rows that end one element before a vector does ---


class Tails(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(31)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shorter = x[:, :15].contiguous()
        return self.norm(x), torch.softmax(shorter, 1), torch.log_softmax(x[:, :7] * 2, 1)


def tails() -> nn.Module:
    return _seeded(Tails())


def tails_examples() -> list[Example]:
    return [{"x": _normal(n, n, 31)} for n in (1, 2, 5)]


# --- other dtypes ---


class Counts(nn.Module):
    """int64, bool and uint8 in and out."""

    def forward(self, pixels: Tensor, limit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        bright = pixels > 100
        total = (pixels.long() * limit.unsqueeze(1)).sum(1)
        return total, bright.any(1), torch.where(bright, pixels // 2, pixels)


def counts() -> nn.Module:
    return Counts().eval()


def counts_examples() -> list[Example]:
    return [
        {"pixels": (_normal(n, n, 13) * 60 + 110).byte(), "limit": torch.arange(n) * 7 - 5}
        for n in (1, 2, 5)
    ]


class Half(nn.Module):
    """Weights in bfloat16, which the compiler refuses by name."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4).to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x.to(torch.bfloat16))
        return y.float()


def half() -> nn.Module:
    return _seeded(Half())


def half_examples() -> list[Example]:
    return [{"x": _normal(n, n, 4)} for n in (1, 2, 5)]


class Narrow(nn.Module):
    """Inputs and outputs of a dtype that C lacks, of which nothing is computed."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 1:]


class Narrowing(nn.Module):
    """Outputs of float16, which C lacks."""

    def forward(self, x: Tensor) -> Tensor:
        return x.abs().half()


def narrow() -> nn.Module:
    return Narrow().eval()


def narrowing() -> nn.Module:
    return Narrowing().eval()


def float16_examples() -> list[Example]:
    return [{"x": _normal(n, n, 4).half()} for n in (1, 2, 5)]


def bfloat16_examples() -> list[Example]:
    return [{"x": _normal(n, n, 4).bfloat16()} for n in (1, 2, 5)]


def uint16_examples() -> list[Example]:
    return [{"x": torch.ones(n, 4).to(torch.uint16)} for n in (1, 2, 5)]


ACCEPTED = (
    "encoder",
    "torch_encoder",
    "convnet",
    "signal",
    "fusion",
    "decoder",
    "recurrent",
    "own_cell",
    "repeated",
    "counts",
    "tails",
)


# --- numbers beside tensors ---


class Scaled(nn.Module):
    """Numbers of every kind, a dimension without a name, and no rows at all."""

    def forward(self, x: Tensor, factor: float, times: int, negate: bool) -> tuple[Tensor, Tensor]:
        y = x * factor
        for _ in range(times):
            y = y + x
        return -y if negate else y, x.sum(1)


def scaled() -> nn.Module:
    return Scaled().eval()


def scaled_examples() -> list[Example]:
    shapes = ((1, 2), (2, 7), (5, 3), (0, 4))
    return [
        {"x": torch.ones(shape), "factor": 0.5 * n, "times": n, "negate": n % 2 == 0}
        for n, shape in enumerate(shapes)
    ]


class Sizes(nn.Module):
    """Numbers made of sizes: a trace has them as tensors."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        n = x.shape[1]
        return x * n + torch.full([n], n), x.reshape(x.shape[0], n, 1)


def sizes() -> nn.Module:
    return Sizes().eval()


def sizes_examples() -> list[Example]:
    return [{"x": _normal(n, n, 2 * n + 1)} for n in (1, 2, 5)]


# --- what is refused, and what refuses ---


class Sorted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sort(x, 1)[0]


def sorted_() -> nn.Module:
    return Sorted().eval()


def sorted_examples() -> list[Example]:
    return [{"x": _normal(n, n, 4)} for n in (1, 2, 5)]


class Strict(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        largest = int(x.max())
        if largest > 5:
            raise ValueError(f"x: expected at most 5..., got {largest} of {list(x.shape)}")
        return x * 2


def strict() -> nn.Module:
    return Strict().eval()


def strict_examples() -> list[Example]:
    return [{"x": torch.arange(n)} for n in (1, 2, 5)]
