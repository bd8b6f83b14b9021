"""Lets torchvision be imported beside a torch of another build.

The wheel of torchvision that a registry has is compiled against torch for CUDA. Beside torch for
the CPU its library of operators does not load, and importing torchvision fails at the operators
for which its Python code adds shapes. With their schemas declared here all of torchvision that is
plain Python works; calling one of these operators still fails.
"""

from __future__ import annotations

import torch

_library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
for _name in ("nms", "qnms"):
    _schema = f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    _library.define(_schema)  # type: ignore[no-untyped-call]
