"""Classification, segmentation and detection of torchvision."""

from __future__ import annotations

import torch
import torchvision_schemas  # noqa: F401  (before torchvision)
from calls import Calls, images
from torch import Tensor, nn

# isort: split
from torchvision.models import get_model


def classifier(architecture: str) -> nn.Module:
    """Return a classifier with random weights and ten classes."""
    torch.manual_seed(0)
    model: nn.Module = get_model(architecture, weights=None, num_classes=10)
    return model.eval()


def without_pretrained_backbone(architecture: str) -> nn.Module:
    """Return a segmenter or a detector with random weights and four classes."""
    torch.manual_seed(0)
    model: nn.Module = get_model(architecture, weights=None, weights_backbone=None, num_classes=4)
    return model.eval()


def icons() -> Calls:
    """float32[batch, 3, 64, 64]."""
    return images("x", 64)


def pictures_of_lraspp() -> Calls:
    """float32[batch, 3, 64, 64], by the name that this model gives it."""
    return images("input", 64)


def lists_of_pictures() -> list[dict[str, list[Tensor]]]:
    """Lists of one and of two pictures, as detectors take them."""
    g = torch.Generator().manual_seed(0)
    return [{"images": [torch.rand(3, 64, 64, generator=g) for _ in range(n)]} for n in (1, 2)]
