"""Real handwritten digits as PNG files: the binary sees what Python sees, and reads them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from PIL import Image

from torchship.cpp_runner.binary import runner_path
from torchship.models.bobnet import DIGITS, bobnet
from torchship.models.data import Digits
from torchship.script.exporting.export import export
from torchship.script.exporting.target import find_target
from torchship.script.runtime.archive import Archive

COUNT = 100


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return export(find_target("bobnet", None, {}), tmp_path_factory.mktemp("a") / "bobnet.pt")


@pytest.fixture(scope="module")
def pictures(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The first test digits of MNIST, 28x28, 8-bit gray, 0 is background."""
    folder = tmp_path_factory.mktemp("digits")
    paths = [folder / f"{number}.png" for number in range(COUNT)]
    for path, pixels in zip(paths, digits.images, strict=False):
        Image.fromarray(pixels.reshape(28, 28).numpy()).save(path)
    return paths


def run(archive: Archive, pictures: list[Path], *options: str) -> list[str]:
    """What the binary prints for each picture."""
    inputs = [part for path in pictures for part in ("--input", str(path))]
    command = [str(runner_path()), "run", str(archive.path), *inputs, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_picture_gives_what_python_gives_for_its_pixels(
    archive: Archive, pictures: list[Path], digits: Digits
) -> None:
    lines = run(archive, pictures)
    assert len(lines) == COUNT
    eager, program = bobnet(), archive.program()
    for line, pixels in zip(lines, digits.images, strict=False):
        answer = torch.tensor(json.loads(line)["log_probs"])
        with torch.no_grad():
            assert torch.equal(answer, eager(pixels[None]))  # [1, 10], to the last bit
        assert torch.equal(answer, program.call("forward", {"x": pixels[None]})["log_probs"])


def test_the_digits_are_read(archive: Archive, pictures: list[Path], digits: Digits) -> None:
    # Independent of Python's model: pixels turned, inverted or scaled would be read far worse.
    labels = run(archive, pictures, "--labels")
    true = [DIGITS[label] for label in digits.labels[:COUNT].tolist()]
    assert len(labels) == COUNT
    assert set(true) == set(DIGITS)
    assert sum(a == b for a, b in zip(labels, true, strict=True)) >= 95
