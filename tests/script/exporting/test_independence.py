"""A dimension is named `batch` only if its rows are independent, also beyond the examples.

Each module here keeps to its promise on its own examples, and breaks it on others.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import zoo
from torchship.script.errors import ExportError
from torchship.script.exporting.export import Options, export
from torchship.script.exporting.target import Target
from torchship.script.format.nodes import TensorNode, leaves
from torchship.script.runtime.archive import Archive

Examples = list[dict[str, object]]


class Shipped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.eval()


def full(*sizes: tuple[int, int]) -> Examples:
    """Rows every one of which is as long as there is room: float32[batch,time,2], int64[batch]."""
    return [
        {"x": zoo.noise(seed, batch, time, 2), "lengths": torch.full((batch,), time)}
        for seed, (batch, time) in enumerate(sizes)
    ]


class Longest(Shipped):
    """Cuts all rows to the longest."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return x[:, : int(lengths.max())]


class PadPacked(Shipped):
    """The usual way around a recurrent layer: its output is as wide as the longest row."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = zoo.seeded(nn.GRU(2, 3, batch_first=True))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, True, False)
        y, _ = nn.utils.rnn.pad_packed_sequence(self.layer(packed)[0], True)
        return y


class PadPackedWhole(PadPacked):
    """The same, padded to the input's own width."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, True, False)
        y, _ = nn.utils.rnn.pad_packed_sequence(self.layer(packed)[0], True, 0.0, x.shape[1])
        return y


class MaskedLongest(Shipped):
    """The same, told by a mask."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return x[:, : int(mask.sum(1).max())]


def masked() -> Examples:
    return [
        {"x": zoo.noise(batch, batch, time), "mask": torch.ones(batch, time, dtype=torch.bool)}
        for batch, time in ((2, 4), (3, 5))
    ]


class UntilAllEnd(Shipped):
    """Rounds until no row has a token above 0: its own width follows from the batch's rows."""

    def forward(self, tokens: Tensor) -> Tensor:
        width = tokens.shape[1]
        while width > 1 and not bool((tokens[:, width - 1] > 0).any()):
            width -= 1
        return tokens[:, :width] * 2


def tokens() -> Examples:
    return [{"tokens": torch.full((batch, time), 7)} for batch, time in ((2, 4), (3, 6))]


class ByTheLargest(Shipped):
    """Divides by the largest of all rows, if that is large."""

    def forward(self, x: Tensor) -> Tensor:
        top = x.abs().max()
        return x / torch.where(top > 1.5, top, torch.ones_like(top))


def small_then_large() -> Examples:
    """Rows among which only the smaller example has a large value."""
    return [
        {"x": torch.tensor([[2.0, 1.0], [1.5, 0.25]])},
        {"x": torch.linspace(0.1, 1.0, 10).view(5, 2)},
    ]


class Crowded(Shipped):
    """Another model for many rows than for few."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0) if x.shape[0] > 16 else x * 2


class Sorted(Shipped):
    """Wants the longest row first, as a packed sequence does that nobody sorted."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = zoo.seeded(nn.GRU(2, 3, batch_first=True))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, True, True)
        y, _ = nn.utils.rnn.pad_packed_sequence(self.layer(packed)[0], True, 0.0, x.shape[1])
        return y


class Flagged(Shipped):
    """Mixes its rows only where it is told to, which the smaller example does."""

    def forward(self, x: Tensor, mix: bool) -> Tensor:
        return x - x.mean(0) if mix else x * 2


def unflagged() -> Examples:
    return [{"x": row["x"], "mix": False} for row in zoo.rows()]


def flagged() -> Examples:
    return [{"x": zoo.noise(1, 2, 3), "mix": True}, {"x": zoo.noise(2, 4, 3), "mix": False}]


class Positions(Shipped):
    """Adds a row's place, after the first few."""

    def forward(self, x: Tensor) -> Tensor:
        return x + (torch.arange(x.shape[0]) - 8).clamp(min=0).unsqueeze(1)


DEPENDENT: dict[str, tuple[Callable[[], nn.Module], Examples]] = {
    "longest": (Longest, full((2, 4), (3, 5))),
    "longest, one length": (Longest, full((2, 5), (3, 5))),
    "pad_packed": (PadPacked, full((2, 4), (3, 5))),
    "mask": (MaskedLongest, masked()),
    "until all end": (UntilAllEnd, tokens()),
    "by the largest": (ByTheLargest, small_then_large()),
    "crowded": (Crowded, zoo.rows()),
    "sorted": (Sorted, full((2, 4), (3, 5))),
    "flagged": (Flagged, flagged()),
    "a flag that no example sets": (Flagged, unflagged()),
    "positions": (Positions, zoo.rows()),
}


def shapes(archive: Archive) -> dict[str, tuple[object, ...]]:
    method = archive.require_manifest().methods["forward"]
    nodes = [leaf for argument in method.inputs for leaf in leaves(argument.value)]
    return {
        leaf.name: leaf.shape
        for leaf in (*nodes, *leaves(method.outputs))
        if isinstance(leaf, TensorNode)
    }


def named(name: str) -> Target:
    return zoo.target(*DEPENDENT[name], dims={f"{next(iter(DEPENDENT[name][1][0]))}.0": "batch"})


@pytest.mark.parametrize("name", DEPENDENT)
def test_rows_that_depend_on_others_only_where_no_example_looks_are_no_batch(
    name: str, tmp_path: Path
) -> None:
    archive = export(zoo.target(*DEPENDENT[name]), tmp_path / "a.pt")
    assert not [shape for shape in shapes(archive).values() if "batch" in shape]
    with pytest.raises(ExportError, match=r"dimension 'batch' are not independent: .*--dim"):
        export(named(name), tmp_path / "b.pt")
    assert not (tmp_path / "b.pt").exists()


@pytest.mark.parametrize("name", ["longest", "pad_packed", "mask", "until all end"])
def test_a_width_that_follows_from_values_is_any_size(name: str, tmp_path: Path) -> None:
    archive = export(zoo.target(*DEPENDENT[name]), tmp_path / "a.pt")
    assert shapes(archive)["output"][1] is None


class Masked(Shipped):
    """Takes lengths, and keeps its rows apart."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        inside = torch.arange(x.shape[1]) < lengths.unsqueeze(1)
        return (x * inside.unsqueeze(2)).cumsum(1)


class Choosing(Shipped):
    """A choice, which rounding may turn where it is close."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = zoo.seeded(nn.Linear(3, 64))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.layer(x)
        return y.argmax(1), y.softmax(1)


def halves() -> nn.Module:
    return zoo.seeded(zoo.Linear()).bfloat16()


def vast() -> Examples:
    return [{"x": zoo.noise(batch, batch, 3) * 1e6} for batch in (2, 4)]


INDEPENDENT: dict[str, tuple[Callable[[], nn.Module], Examples]] = {
    "masked": (Masked, full((2, 4), (3, 5))),
    "padded to the input's width": (PadPackedWhole, full((2, 4), (3, 5))),
    "choosing": (Choosing, zoo.rows()),
    "vast": (Choosing, vast()),
    "halves": (halves, [{"x": zoo.noise(n, n, 3).bfloat16()} for n in (2, 4)]),
    "accumulator": (
        zoo.accumulator,
        [{"x": zoo.noise(n, n, 3), "total": zoo.noise(n, n, 4)} for n in (2, 3)],
    ),
}


@pytest.mark.parametrize("name", INDEPENDENT)
def test_rows_that_are_independent_stay_a_batch(name: str, tmp_path: Path) -> None:
    archive = export(zoo.target(*INDEPENDENT[name]), tmp_path / "a.pt")
    assert all("batch" in shape for shape in shapes(archive).values())


def test_the_refusal_says_how_it_was_seen(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        export(named("longest"), tmp_path / "a.pt", Options())
    assert "the size of an output follows from the values of row" in str(caught.value)
    with pytest.raises(ExportError) as caught:
        export(named("crowded"), tmp_path / "a.pt")
    assert "of output 'output' is another among 17 rows than alone" in str(caught.value)
