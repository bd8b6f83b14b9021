"""Segmentation models of segmentation-models-pytorch."""

from __future__ import annotations

import torch
import torchvision_schemas  # noqa: F401  (before timm imports torchvision)
from calls import Calls, images
from torch import nn

# isort: split
import segmentation_models_pytorch as smp

NARROW = {"unet": (32, 16, 16, 8, 8), "unetplusplus": (32, 16, 16, 8, 8)}


def segmenter(architecture: str) -> nn.Module:
    """Return a segmenter of three classes on a small encoder, with random weights."""
    torch.manual_seed(0)
    narrow = {"decoder_channels": NARROW[architecture]} if architecture in NARROW else {}
    model: nn.Module = smp.create_model(
        architecture,
        "timm-mobilenetv3_small_minimal_100",
        encoder_weights=None,
        classes=3,
        **narrow,
    )
    return model.eval()


def icons() -> Calls:
    """float32[batch, 3, 64, 64]."""
    return images("x", 64)
