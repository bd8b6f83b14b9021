"""A size that the examples share is fixed only if trial calls share it too."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import zoo
from torchship.script.errors import ExportError
from torchship.script.exporting.export import export
from torchship.script.format.nodes import TensorNode, leaves
from torchship.script.runtime.archive import Archive

Examples = list[dict[str, object]]


class Shipped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.eval()


def outputs(archive: Archive) -> dict[str, tuple[object, ...]]:
    nodes = leaves(archive.require_manifest().methods["forward"].outputs)
    return {node.name: node.shape for node in nodes if isinstance(node, TensorNode)}


def images(*heights: int) -> Examples:
    return [{"x": zoo.noise(n, n + 1, 1, height, 6)} for n, height in enumerate(heights)]


class Halved(Shipped):
    """Heights 8 and 9 both give 4."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(x, scale_factor=0.5)


class Pooled(Shipped):
    """Any height gives 4."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(x, (4, 3))


class Patched(Shipped):
    """Takes heights that are multiples of 8, and gives one value for each 16 of them."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[2] % 8 == 0, "a multiple of 8"
        return x.mean((1, 3))[:, ::16]


class FirstFive(Shipped):
    """At most five values of each row."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0, :5]


@pytest.mark.parametrize(
    ("factory", "given", "expected"),
    [
        (Halved, images(8, 9), ("batch", 1, None, 3)),
        (Pooled, images(8, 9), ("batch", 1, 4, 3)),
        (Patched, images(8, 16), ("batch", None)),
        (FirstFive, images(8, 9), ("batch", None, 6)),
    ],
)
def test_another_height_is_tried(
    factory: Callable[[], nn.Module], given: Examples, expected: object, tmp_path: Path
) -> None:
    archive = export(zoo.target(factory, given), tmp_path / "a.pt")
    assert outputs(archive)["output"] == expected


class Repeated(Shipped):
    """As many columns as a number says, and one more if it is told so."""

    def forward(self, x: Tensor, times: int, more: bool = False) -> Tensor:
        y = x.repeat(1, times)
        return torch.cat([y, y], 1) if more else y


def test_other_numbers_are_tried(tmp_path: Path) -> None:
    given: Examples = [{"x": row["x"], "times": 2} for row in zoo.rows()]
    archive = export(zoo.target(Repeated, given), tmp_path / "a.pt")
    assert outputs(archive)["output"] == ("batch", None)
    given = [{"x": row["x"], "times": 0, "more": False} for row in zoo.rows()]
    archive = export(zoo.target(Repeated, given), tmp_path / "b.pt")
    assert outputs(archive)["output"] == ("batch", None)


class Found(Shipped):
    """The values above 0 in the first row: as many as there are."""

    def forward(self, x: Tensor) -> Tensor:
        return x[0, x[0] > 0]


def test_other_values_are_tried(tmp_path: Path) -> None:
    given: Examples = [{"x": torch.ones(3, 2)}, {"x": torch.ones(3, 4)}]
    archive = export(zoo.target(Found, given), tmp_path / "a.pt")
    assert outputs(archive)["output"] == (None,)


class Listed(Shipped):
    """One tensor for each image: its mean over the height."""

    def forward(self, images: list[Tensor]) -> list[Tensor]:
        return [image.mean(0) for image in images]


def ragged() -> Examples:
    """Lists of images, two sizes in one list."""
    return [
        {"images": [zoo.noise(1, 4, 6), zoo.noise(2, 5, 7)]},
        {"images": [zoo.noise(3, 8, 3)]},
        {"images": [zoo.noise(4, 2, 2), zoo.noise(5, 3, 9), zoo.noise(6, 3, 9)]},
    ]


def test_images_of_two_sizes_in_one_list_may_have_any(tmp_path: Path) -> None:
    archive = export(zoo.target(Listed, ragged()), tmp_path / "a.pt")
    (argument,) = archive.require_manifest().methods["forward"].inputs
    (node,) = leaves(argument.value)
    assert isinstance(node, TensorNode)
    assert node.shape == (None, None)
    assert outputs(archive)["output.*"] == (None,)
    sizes = {"images.0": torch.ones(1, 9), "images.1": torch.ones(7, 2)}
    answered = archive.program().call("forward", sizes)
    assert {name: tuple(value.shape) for name, value in answered.items()} == {
        "output.0": (9,),
        "output.1": (2,),
    }


def test_a_size_that_may_be_any_has_no_name(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"dimension 1 of 'images.\*' was to be called 'width'"):
        export(zoo.target(Listed, ragged(), dims={"images.*.1": "width"}), tmp_path / "a.pt")


class Split(Shipped):
    """A list of as many parts as the rows say: two in both examples."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return list(torch.split(x, 3))


def test_a_list_that_happens_to_have_one_length_may_have_any(tmp_path: Path) -> None:
    given: Examples = [{"x": zoo.noise(n, n, 2)} for n in (4, 5)]
    archive = export(zoo.target(Split, given), tmp_path / "a.pt")
    assert outputs(archive) == {"output.*": (None, 2)}
    assert len(archive.program().call("forward", {"x": torch.ones(9, 2)})) == 3
