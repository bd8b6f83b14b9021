"""Enters recurrent models: the zoo's, scripted, and cells at the talk's sizes beside `nn.LSTM`."""

from __future__ import annotations

from functools import partial

import torch

from side_by_side import peers, talk
from side_by_side.lineup import Lineup
from torchship.models.recurrent import INPUT
from torchship.models.seeding import normal
from torchship.script.format.tree import flatten

ZOO_STEPS = 16
RECURRENT = ("lstm", "gru", "milstm", "lnlstm")
VENDOR = ("nn.LSTM", "nn.LSTM (batch first)")


def enter_recurrent(lineup: Lineup) -> None:
    """Enter the zoo's recurrent models at batch 1, native and scripted."""
    for name in RECURRENT:
        x = normal(1, 1, ZOO_STEPS, INPUT)
        _enter_native(lineup, name, x)
        scripted = lineup.subjects[name].archive.load()
        lineup.add_call(f"{name}/1", "script", partial(scripted, x))


def enter_talk(lineup: Lineup) -> None:
    """Enter the cells at the talk's sizes, and `nn.LSTM` in both layouts."""
    for cell in talk.CELLS:
        for batch in (1, 32):
            x = normal(1, batch, talk.STEPS, talk.INPUT)
            _enter_native(lineup, f"talk-{cell}", x)
            if cell == "lstm":
                lineup.add_calls(f"talk-lstm/{batch}", VENDOR, partial(_vendor_calls, x))
                lineup.add_call(f"talk-lstm/{batch}", "eager", partial(talk.lstm(), x))


def _enter_native(lineup: Lineup, name: str, x: torch.Tensor) -> None:
    subject = lineup.subjects[name]
    outputs = subject.archive.require_manifest().methods["forward"].outputs
    with torch.inference_mode():
        expected = list(flatten(outputs, subject.eager(x)).values())
        in_float64 = flatten(outputs, subject.eager.double()(x.double())).values()
    # A normalised state doubles an error many times in 64 steps: LibTorch's own, too.
    own_error = max(
        float((found - exact).abs().max())
        for found, exact in zip(expected, in_float64, strict=True)
    )
    lineup.add_native(f"{name}/{len(x)}", subject, {"x": x}, expected, own_error=own_error)


def _vendor_calls(x: torch.Tensor) -> peers.Calls:
    ours = talk.lstm()
    calls: peers.Calls = {}
    with torch.inference_mode():
        expected = ours(x)[0]
        for name, batch_first in zip(VENDOR, (False, True), strict=True):
            vendor = talk.vendor_lstm(ours, batch_first)
            given = x if batch_first else x.transpose(0, 1).contiguous()
            output = vendor(given)[0]
            peers.check((expected,), (output if batch_first else output.transpose(0, 1),))
            calls[name] = partial(vendor, given)
    return calls
