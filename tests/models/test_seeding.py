import math

import pytest
import torch
from torch import nn

from torchship.models.seeding import integers, normal, seeded, with_weights


def make() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 3, 5), nn.Dropout(), nn.Linear(4, 6))


def test_tensors_come_from_their_seed_alone() -> None:
    torch.manual_seed(1)
    first = normal(7, 3, 4), integers(7, 9, 1000)
    torch.manual_seed(2)
    assert torch.equal(normal(7, 3, 4), first[0])
    assert torch.equal(integers(7, 9, 1000), first[1])
    assert not torch.equal(normal(8, 3, 4), first[0])
    assert first[1].dtype == torch.uint8
    assert set(first[1].tolist()) == set(range(9))
    assert 0.45 < float(normal(9, 10_000).std()) < 0.55


def test_seeded_weights_lie_as_documented() -> None:
    generator = torch.Generator().manual_seed(5)

    def uniform(fan_in: int, *shape: int) -> torch.Tensor:
        return (torch.rand(shape, generator=generator) * 2 - 1) / math.sqrt(fan_in)

    expected = {
        "0.weight": uniform(50, 3, 2, 5, 5),
        "0.bias": uniform(50, 3),
        "2.weight": uniform(4, 6, 4),
        "2.bias": uniform(4, 6),
    }
    module = seeded(make, 5)
    assert module.state_dict().keys() == expected.keys()
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=0)
    assert not any(part.training for part in module.modules())
    assert all(p.requires_grad and p.device.type == "cpu" for p in module.parameters())


def test_the_global_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    seeded(make, 5)
    normal(1, 4)
    integers(1, 4, 4)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_weights_must_fit_exactly() -> None:
    weights = seeded(make, 5).state_dict()
    with pytest.raises(RuntimeError, match="Missing key"):
        with_weights(make, {name: t for name, t in weights.items() if name != "2.bias"})
    with pytest.raises(RuntimeError, match="Unexpected key"):
        with_weights(make, weights | {"3.bias": torch.zeros(1)})
    with pytest.raises(RuntimeError, match="size mismatch"):
        with_weights(make, weights | {"2.weight": torch.zeros(4, 6)})
