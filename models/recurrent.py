"""Recurrent networks written out: one loop over time, into which every cell fits.

`Layer` is the loop, in either direction; TorchScript compiles it anew for each cell that it is
given. `Recurrent` stacks layers, with the arguments, shapes and order of states of `nn.LSTM`.

Source: the design of PyTorch's talk and post "Optimizing CUDA Recurrent Neural Networks with
TorchScript" (2019), https://pytorch.org/blog/optimizing-cuda-rnn-with-torchscript/; each cell's own
source is in `cells`.
"""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

from torchship.models.card import Card, Example, Step
from torchship.models.cells import (
    Cell,
    FusedLSTMCell,
    GRUCell,
    LNLSTMCell,
    LSTMCell,
    MILSTMCell,
    PeepholeCell,
)
from torchship.models.seeding import normal, seeded

INPUT = 24
HIDDEN = 40


class Layer(nn.Module):
    """One cell over all steps of a sequence: from the first to the last, or the other way."""

    reverse: Final[bool]

    def __init__(self, cell: Cell, reverse: bool = False) -> None:
        super().__init__()
        self.cell = cell
        self.reverse = reverse

    def forward(
        self, x: Tensor, state: list[Tensor], present: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return h at every step, float[time, batch, hidden], and the state after the last.

        Args:
            x: float[time, batch, input], at least one step.
            state: what to start from, each float[batch, hidden].
            present: bool[time, batch, 1], False at the steps that a row does not have: the row's
                state stays as it is, and the output is 0. None: every row has every step.
        """
        steps = self.cell.project(x).unbind(0)  # time x [batch, any]
        outputs: list[Tensor] = []
        for count in range(len(steps)):
            t = len(steps) - 1 - count if self.reverse else count
            after: list[Tensor] = self.cell(steps[t], state)
            if present is not None:
                here = present[t]  # [batch, 1]
                after = [torch.where(here, after[i], state[i]) for i in range(len(after))]
            state = after
            outputs.append(state[0])
        if self.reverse:
            outputs.reverse()
        output = torch.stack(outputs)  # [time, batch, hidden]
        if present is not None:
            output = output.masked_fill(~present, 0)
        return output, state


class Recurrent(nn.Module):
    """Layers of a cell upon each other; agrees with `nn.LSTM` and `nn.GRU` given their weights.

    The layers lie in the order of `nn.LSTM`'s states: those of one depth side by side, first the
    one that runs forward, then the one that runs backward.
    """

    input_size: Final[int]
    hidden_size: Final[int]
    directions: Final[int]
    states: Final[int]
    batch_first: Final[bool]

    def __init__(
        self,
        make_cell: Callable[[int, int], Cell],
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bidirectional: bool = False,
        batch_first: bool = True,
    ) -> None:
        """Make `num_layers` layers (twice as many if bidirectional) of `make_cell(input, hidden)`.

        Raises:
            ValueError: a size or the number of layers is below 1.
        """
        super().__init__()
        if min(input_size, hidden_size, num_layers) < 1:
            raise ValueError(
                "expected input_size, hidden_size and num_layers of 1 or more, "
                f"got {input_size}, {hidden_size} and {num_layers}"
            )
        directions = 2 if bidirectional else 1
        layers = [
            Layer(make_cell(input_size if depth == 0 else directions * hidden_size, hidden_size), r)
            for depth in range(num_layers)
            for r in (False, True)[:directions]
        ]
        self.layers = nn.ModuleList(layers)
        self.input_size, self.hidden_size = input_size, hidden_size
        self.directions = directions
        self.states = layers[0].cell.states
        self.batch_first = batch_first

    def forward(
        self, x: Tensor, hidden: list[Tensor] | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return h of the last layer at every step, and the state of all layers after the last.

        Args:
            x: float[batch, time, input], at least one step; time first if not batch_first.
            hidden: what to start from: [h] or [h, c] as the cell has it, each
                float[layers * directions, batch, hidden]; zeros when left out.
            lengths: int64[batch], how many of the steps each row has, in any order; all when left
                out. What `x` holds beyond them has no effect, the output there is 0, the backward
                layers begin at the row's own last step, and its state is that after its own last.

        Returns:
            float[batch, time, directions * hidden], time first as `x`; and a list like `hidden`.

        Raises:
            ValueError: a shape, a dtype or a length is another. (In script: torch.jit.Error, same
                message.)
        """
        self.check_input(x)
        if self.batch_first:
            x = x.transpose(0, 1)  # [time, batch, input]
        x = x.contiguous()  # in another layout the large product would round in another way
        time, batch = x.size(0), x.size(1)
        if hidden is None:
            shape = [len(self.layers), batch, self.hidden_size]
            zeros = torch.zeros(shape, dtype=x.dtype, device=x.device)
            hidden = [zeros for _ in range(self.states)]
        else:
            self.check_hidden(hidden, x.dtype, batch)
        present: Tensor | None = None
        if lengths is not None:
            self.check_lengths(lengths, time, batch)
            present = (torch.arange(time, device=x.device)[:, None] < lengths)[:, :, None]
            x = x.masked_fill(~present, 0)  # or a NaN there would reach the gradients
        side_by_side: list[Tensor] = []
        last: list[list[Tensor]] = [[] for _ in range(self.states)]
        for i, layer in enumerate(self.layers):
            output, state = layer(x, [item[i] for item in hidden], present)
            side_by_side.append(output)  # [time, batch, hidden]
            if len(side_by_side) == self.directions:
                x = output if self.directions == 1 else torch.cat(side_by_side, 2)
                side_by_side = []
            for k in range(self.states):
                last[k].append(state[k])
        if self.batch_first:
            x = x.transpose(0, 1)  # [batch, time, directions * hidden]
        return x, [
            torch.stack(items) for items in last
        ]  # each [layers * directions, batch, hidden]

    def check_input(self, x: Tensor) -> None:
        """Raise ValueError unless `x` is what forward takes."""
        order = "batch, time" if self.batch_first else "time, batch"
        shape = list(x.shape)
        if x.dim() != 3 or shape[1 if self.batch_first else 0] == 0 or shape[2] != self.input_size:
            raise ValueError(
                f"x: expected [{order}, {self.input_size}] with at least one step, got {shape}"
            )
        if x.dtype != self.layers[0].cell.weight_hh.dtype:  # type: ignore[union-attr]
            raise ValueError("x: expected the dtype of the weights, got another dtype")

    def check_hidden(self, hidden: list[Tensor], dtype: torch.dtype, batch: int) -> None:
        """Raise ValueError unless `hidden` is a state of that many rows."""
        if len(hidden) != self.states:
            raise ValueError(f"hidden: expected a list of {self.states}, got {len(hidden)}")
        shape = [len(self.layers), batch, self.hidden_size]
        for i, item in enumerate(hidden):
            if list(item.shape) != shape:
                raise ValueError(f"hidden[{i}]: expected {shape}, got {list(item.shape)}")
            if item.dtype != dtype:
                raise ValueError(f"hidden[{i}]: expected the dtype of x, got another dtype")

    def check_lengths(self, lengths: Tensor, time: int, batch: int) -> None:
        """Raise ValueError unless `lengths` has a number from 1 to `time` for every row."""
        if lengths.dtype != torch.int64:
            raise ValueError("lengths: expected dtype int64, got another dtype")
        if list(lengths.shape) != [batch]:
            raise ValueError(f"lengths: expected [{batch}], got {list(lengths.shape)}")
        numbers: list[int] = lengths.tolist()
        for length in numbers:
            if length < 1 or length > time:
                raise ValueError(f"lengths: expected 1 to {time}, got {length}")


def around_one(model: Recurrent, *names: str) -> Recurrent:
    """Add 1 to the parameters whose names end so: seeded factors then scale, and do not silence."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(names):
                parameter.add_(1)
    return model


def make_lstm() -> Recurrent:
    """Return one LSTM(24, 40) in eval mode: 10,560 parameters, seeded (see `seeding.seeded`)."""
    return seeded(lambda: Recurrent(LSTMCell, INPUT, HIDDEN), 300)


def make_lstm_fused() -> Recurrent:
    """Return what `make_lstm` does, weights included, with the fused operator in its cell.

    Raises:
        OperatorsMissingError: the operator's library is not there.
    """
    return seeded(lambda: Recurrent(FusedLSTMCell, INPUT, HIDDEN), 300)


def make_gru() -> Recurrent:
    """Return two bidirectional layers of GRU(24, 40) in eval mode: 45,120 parameters, seeded."""
    return seeded(lambda: Recurrent(GRUCell, INPUT, HIDDEN, 2, bidirectional=True), 500)


def make_milstm() -> Recurrent:
    """Return one multiplicative LSTM(24, 40) in eval mode: 10,880 parameters, seeded."""
    model = seeded(lambda: Recurrent(MILSTMCell, INPUT, HIDDEN), 600)
    return around_one(model, "alpha", "beta1", "beta2")


def make_lnlstm() -> Recurrent:
    """Return two layers of normalised LSTM(24, 40) in eval mode: 24,480 parameters, seeded."""
    model = seeded(lambda: Recurrent(LNLSTMCell, INPUT, HIDDEN, 2), 700)
    return around_one(model, "norm_ih.weight", "norm_hh.weight", "norm_c.weight")


def make_peephole() -> Recurrent:
    """Return one bidirectional peephole LSTM(24, 40) in eval mode: 21,360 parameters, seeded."""
    return seeded(lambda: Recurrent(PeepholeCell, INPUT, HIDDEN, bidirectional=True), 800)


# --- the cards ---


def examples(seed: int, layers: int, states: int) -> dict[str, list[Example]]:
    """Return sequences at batch 1, 2, 5, in one piece or three, some with lengths, some extreme.

    `layers` counts the layers of both directions, `states` the tensors of a cell's state.
    """

    def step(at: int, batch: int, time: int, *lengths: int) -> Step:
        x: Step = {"x": normal(seed + at, batch, time, INPUT)}
        return x | {"lengths": torch.tensor(lengths)} if lengths else x

    def hidden(at: int, batch: int, scale: float = 0.5) -> Step:
        shape = (layers, batch, HIDDEN)
        return {"hidden": [normal(seed + at + k, *shape, scale=scale) for k in range(states)]}

    return {
        "forward": [
            [step(11, 1, 3), step(12, 1, 5), step(13, 1, 1)],
            [step(21, 2, 4) | hidden(22, 2), step(24, 2, 4), step(25, 2, 7, 3, 7)],
            [
                step(31, 5, 6, 4, 6, 1, 2, 6) | hidden(32, 5),
                step(34, 5, 2),
                step(35, 5, 3, 2, 1, 3, 3, 1),
            ],
            [step(41, 2, 1)],
            [step(51, 2, 5, 5, 2)],
            [
                {"x": normal(seed + 61, 2, 3, INPUT, scale=2e2)} | hidden(62, 2, 2e2),
                {"x": torch.zeros(2, 2, INPUT)},
            ],
        ]
    }


def card(
    name: str,
    description: str,
    source: str,
    factory: Callable[[], Recurrent],
    seed: int,
    layers: int,
    states: int,
) -> Card:
    """Return the card of a network, whose seed, layers and states are those of `examples`."""
    parts = [f"hidden.{k}" for k in range(states)]
    return Card(
        name=name,
        description=description,
        source=source,
        factory=factory,
        examples=lambda: examples(seed, layers, states),
        dims={"x.0": "batch", "x.1": "time", "lengths.0": "batch"}
        | {f"{part}.1": "batch" for part in parts},
        outputs={"forward": ["output", "hidden"]},
        state={"forward": [(part, part, "absent") for part in parts]},
    )


LSTM = card(
    "lstm",
    "A scripted LSTM(24, 40) over sequences: every step's output and the last state",
    "PyTorch, Optimizing CUDA Recurrent Neural Networks with TorchScript (2019)",
    make_lstm,
    seed=300,
    layers=1,
    states=2,
)
LSTM_FUSED = card(
    "lstm-fused",
    "The scripted LSTM(24, 40) with its gates fused in the operator torchship::lstm_pointwise",
    "PyTorch, Optimizing CUDA Recurrent Neural Networks with TorchScript (2019)",
    make_lstm_fused,
    seed=300,
    layers=1,
    states=2,
)
GRU = card(
    "gru",
    "Two bidirectional layers of GRU(24, 40) over sequences: every step's output, the last state",
    "Cho et al., Learning Phrase Representations using RNN Encoder-Decoder (2014)",
    make_gru,
    seed=500,
    layers=4,
    states=1,
)
MILSTM = card(
    "milstm",
    "A multiplicative-integration LSTM(24, 40), which no vendor's kernel has, over sequences",
    "Wu et al., On Multiplicative Integration with Recurrent Neural Networks (2016)",
    make_milstm,
    seed=600,
    layers=1,
    states=2,
)
LNLSTM = card(
    "lnlstm",
    "Two layers of layer-normalised LSTM(24, 40) over sequences",
    "Ba, Kiros & Hinton, Layer Normalization (2016)",
    make_lnlstm,
    seed=700,
    layers=2,
    states=2,
)
PEEPHOLE = card(
    "peephole",
    "A bidirectional LSTM(24, 40) whose gates see the cell state, over sequences",
    "Gers & Schmidhuber, Recurrent Nets that Time and Count (2000)",
    make_peephole,
    seed=800,
    layers=2,
    states=2,
)
