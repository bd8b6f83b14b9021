"""Image classifiers of timm."""

from __future__ import annotations

import torch
import torchvision_schemas  # noqa: F401  (before timm imports torchvision)
from calls import Calls, images
from torch import nn

# isort: split
import timm


def classifier(architecture: str, **config: int) -> nn.Module:
    """Return a classifier with random weights and ten classes."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(architecture, num_classes=10, **config)
    return model.eval()


def called_classifier(architecture: str, **config: int) -> nn.Module:
    """Return a classifier that has filled its caches, as it does at its first call."""
    model = classifier(architecture, **config)
    with torch.no_grad():
        model(icons()[0]["x"])
    return model


def thumbnails() -> Calls:
    """float32[batch, 3, 32, 32]."""
    return images("x", 32)


def icons() -> Calls:
    """float32[batch, 3, 64, 64]."""
    return images("x", 64)
