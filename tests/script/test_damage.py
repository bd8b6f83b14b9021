"""Every flipped bit and every length of a small archive, as damage_test.cpp in C++ has it.

Refused with a message, or read with nothing changed that anybody uses.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import zoo
from torchship.script.errors import ArchiveError
from torchship.script.exporting.export import export
from torchship.script.runtime.archive import Archive, parse_archive

PATH = Path("a.pt")


class Doubled(nn.Module):
    """float32[batch,1] -> float32[batch,1]: about as small as an archive can be."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def doubled() -> nn.Module:
    return Doubled().eval()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("damage") / "a.pt"
    return export(zoo.target(doubled, [{"x": zoo.noise(n, n, 1)} for n in (1, 2)]), path).data


def read(data: bytes) -> Archive | None:
    """The archive, or None if it is refused in the documented way; any other error is a bug."""
    try:
        archive = parse_archive(PATH, data)
        _ = archive.golden
    except ArchiveError as error:
        assert str(error).startswith("'a.pt': ")
        return None
    return archive


def test_every_flip_of_every_byte(data: bytes) -> None:
    whole = read(data)
    assert whole is not None
    x = torch.tensor([[0.5], [-3.0]])
    damaged = bytearray(data)
    harmless = 0
    for place in range(len(data)):
        loaded = False
        for flip in (*(1 << bit for bit in range(8)), 0xFF):
            damaged[place] ^= flip
            archive = read(bytes(damaged))
            if archive is not None:
                # A byte that no reader uses, such as a time or the padding.
                assert archive.records == whole.records, place
                assert archive.manifest == whole.manifest, place
                if not loaded:
                    assert torch.equal(archive.program().call("forward", {"x": x})["output"], 2 * x)
                loaded = True
                harmless += 1
            damaged[place] ^= flip
    assert 0 < harmless < 9 * len(data) / 2


def test_every_length(data: bytes) -> None:
    for length in range(len(data)):
        assert read(data[:length]) is None, length
