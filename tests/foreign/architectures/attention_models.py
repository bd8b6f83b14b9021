"""Transformers of vit-pytorch and x-transformers."""

from __future__ import annotations

import torch
import torchvision_schemas  # noqa: F401  (before vit_pytorch imports torchvision)
from calls import Calls, images, tokens
from torch import nn


def vit() -> nn.Module:
    from vit_pytorch import ViT

    torch.manual_seed(0)
    model: nn.Module = ViT(
        image_size=32, patch_size=8, num_classes=5, dim=32, depth=1, heads=2, mlp_dim=48
    )
    return model.eval()


def decoder() -> nn.Module:
    from x_transformers import Decoder, TransformerWrapper

    torch.manual_seed(0)
    model: nn.Module = TransformerWrapper(
        num_tokens=32, max_seq_len=16, attn_layers=Decoder(dim=32, depth=1, heads=2)
    )
    return model.eval()


def patches() -> Calls:
    """float32[batch, 3, 32, 32]."""
    return images("img", 32)


def text() -> Calls:
    """int64[batch, time]."""
    return tokens("x", 32)
