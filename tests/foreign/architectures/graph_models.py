"""Graph networks of torch-geometric."""

from __future__ import annotations

import torch
import torch_geometric.nn
from calls import Calls
from torch import nn


def graph_network(architecture: str, **config: bool) -> nn.Module:
    """Return two layers with random weights: 5 features of a node, 16 hidden, 3 out."""
    torch.manual_seed(0)
    kind = getattr(torch_geometric.nn, architecture)
    network: nn.Module = kind(5, 16, 2, 3, **config)
    return network.eval()


def attention_layer() -> nn.Module:
    """Return one layer of attention along the edges, with two heads."""
    torch.manual_seed(0)
    layer: nn.Module = torch_geometric.nn.TransformerConv(5, 3, heads=2)
    return layer.eval()


def graphs() -> Calls:
    """Nodes float32[nodes, 5] and edges int64[2, edges] of three graphs."""
    g = torch.Generator().manual_seed(0)
    return [
        {
            "x": torch.randn(nodes, 5, generator=g),
            "edge_index": torch.randint(0, nodes, (2, edges), generator=g),
        }
        for nodes, edges in ((6, 14), (9, 17), (11, 25))
    ]
