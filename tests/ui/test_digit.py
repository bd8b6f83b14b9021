"""How the page makes a drawing or a photo look like an image of MNIST."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from torchship.models import data
from torchship.models.bobnet import bobnet
from torchship.ui import PAGE

Picture = NDArray[np.uint8]

SIDE, BOX = 28, 20


def page_digits(requests: Sequence[Mapping[str, object]]) -> list[Picture | None]:
    """The digits that the page makes of inks or photos, uint8[28, 28] each."""
    script = PAGE / "ui" / "parts" / "digit.mjs"
    done = subprocess.run(
        ["node", Path(__file__).with_name("digits.mjs"), script],
        input="".join(f"{json.dumps(request)}\n" for request in requests),
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return [
        None if line is None else np.frombuffer(bytes.fromhex(line), np.uint8).reshape(SIDE, SIDE)
        for line in lines
    ]


def ink(picture: Picture) -> dict[str, object]:
    return {"width": picture.shape[1], "height": picture.shape[0], "ink": picture.tobytes().hex()}


def photo(picture: Image.Image) -> dict[str, object]:
    rgba = picture.convert("RGBA")
    return {"width": rgba.width, "height": rgba.height, "rgba": rgba.tobytes().hex()}


def coverage(size: int, target: int) -> NDArray[np.float64]:
    """[target, size]: how much of each of `target` pixels each of `size` pixels covers."""
    edges = np.linspace(0, size, target + 1)
    cells = np.arange(size)
    inside = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    shares: NDArray[np.float64] = np.clip(inside, 0, None) * target / size
    return shares


def reference(picture: Picture) -> NDArray[np.float64]:
    """MNIST's transformation, from its description: float64[28, 28]."""
    rows, columns = np.nonzero(picture.any(1))[0], np.nonzero(picture.any(0))[0]
    cut = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float64)
    height, width = (max(1, math.floor(size * BOX / max(cut.shape) + 0.5)) for size in cut.shape)
    small = coverage(cut.shape[0], height) @ cut @ coverage(cut.shape[1], width).T
    centre = [
        float((small.sum(1 - axis) * np.arange(small.shape[axis])).sum() / small.sum())
        for axis in (0, 1)
    ]
    top, left = (
        int(np.clip(math.floor(SIDE / 2 - at + 0.5), 0, SIDE - size))
        for at, size in zip(centre, (height, width), strict=True)
    )
    result = np.zeros((SIDE, SIDE))
    result[top : top + height, left : left + width] = small
    return result


def drawing(number: int, size: tuple[int, int] = (280, 280), pen: int = 20) -> Picture:
    """A digit of a few strokes somewhere in a picture, with soft edges."""
    lines = {
        1: [[(42, 28), (54, 18), (52, 82)]],
        4: [[(42, 18), (30, 54), (72, 54)], [(62, 20), (60, 84)]],
        7: [[(28, 22), (70, 22), (46, 84)]],
    }[number]
    large = Image.new("L", (size[0] * 4, size[1] * 4))
    draw = ImageDraw.Draw(large)
    for line in lines:
        points = [(x * 4 * size[0] / 100, y * 4 * size[1] / 100) for x, y in line]
        draw.line(points, fill=255, width=4 * pen, joint="curve")
    return np.asarray(large.resize(size, Image.Resampling.BOX))


def test_drawings_become_what_the_reference_says() -> None:
    generator = np.random.RandomState(0)
    pictures = [drawing(number, size, pen) for number in (1, 4, 7) for size, pen in (
        ((280, 280), 20), ((97, 130), 9), ((31, 33), 3), ((400, 60), 6),
    )]  # fmt: skip
    for _ in range(20):  # blots, of which some are smaller than the box
        height, width = generator.randint(2, 60, 2)
        picture = np.zeros((height + 9, width + 5), np.uint8)
        picture[4 : 4 + height, 3 : 3 + width] = generator.randint(0, 256, (height, width))
        pictures.append(picture)
    for made, picture in zip(page_digits(list(map(ink, pictures))), pictures, strict=True):
        assert made is not None
        assert np.abs(made - reference(picture)).max() <= 0.5 + 1e-6


def test_nothing_drawn_is_no_digit() -> None:
    blank = Image.new("L", (60, 60), 250)
    empty = {"width": 9, "height": 9, "ink": "00" * 81}
    assert page_digits([empty, photo(blank)]) == [None, None]


def test_images_of_mnist_stay_what_they_are() -> None:
    images = data.mnist("test").images[:400].reshape(-1, SIDE, SIDE).numpy()
    made = page_digits([ink(image) for image in images])
    for new, old in zip(made, images, strict=True):
        assert new is not None
        assert np.array_equal(new, old)


def test_photos_of_mnist_are_recognised_as_the_images_are() -> None:
    """Dark on grey paper that is lit unevenly, with grain and dust, large and off the middle."""
    test = data.mnist("test")
    generator = np.random.RandomState(0)
    images = test.images[:60].reshape(-1, SIDE, SIDE).numpy()
    requests = []
    for image in images:
        side = int(generator.randint(120, 260))
        large = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
        paper = np.full((380, 420), 200.0) + np.linspace(-6, 6, 420)
        left, top = generator.randint(20, 420 - side - 20), generator.randint(20, 380 - side - 20)
        paper[top : top + side, left : left + side] -= np.asarray(large) * 0.6
        paper += generator.normal(0, 3, paper.shape)
        paper[30:33, 40:43] = 90  # dust
        shot = Image.fromarray(paper.clip(0, 255).astype(np.uint8))
        requests.append(photo(shot.filter(ImageFilter.GaussianBlur(1))))
    made = page_digits(requests)
    assert all(digit is not None for digit in made)
    seen = torch.from_numpy(np.stack([digit for digit in made if digit is not None])).flatten(1)
    with torch.inference_mode():
        model = bobnet()
        of_photos, of_images = model(seen).argmax(1), model(test.images[:60]).argmax(1)
    assert float((of_photos == of_images).float().mean()) > 0.9


def test_ground_is_found_whether_it_is_dark_light_or_transparent() -> None:
    picture = drawing(4)
    light = Image.fromarray(255 - picture)
    dark = Image.fromarray(picture)
    clear = Image.new("RGBA", dark.size)
    clear.putalpha(dark)  # black ink on nothing
    expected = reference(picture)
    for made in page_digits([photo(light), photo(dark), photo(clear)]):
        assert made is not None
        assert np.abs(made - expected).max() <= 1
