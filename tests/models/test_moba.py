from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from torchship.models.moba import LSTMCell, Moba, moba, observation
from torchship.models.seeding import normal, seeded

Script = Callable[[nn.Module], torch.jit.ScriptModule]
Array = NDArray[np.float64]


def numpy_planes(obs: NDArray[np.uint8]) -> Array:
    """Return [batch, 19, 11, 11], byte by byte from the layout in the file's first lines."""
    planes = np.zeros((len(obs), 19, 11, 11))
    for b, row in enumerate(obs):
        for y in range(11):
            for x in range(11):
                kind, *quantities = row[4 * (11 * y + x) : 4 * (11 * y + x) + 4]
                planes[b, kind, y, x] = 1
                planes[b, 16:, y, x] = np.array(quantities) / 255
    return planes


def numpy_conv(x: Array, weight: Array, bias: Array, stride: int) -> Array:
    """Cross-correlation without padding, window by window."""
    size, kernel = x.shape[2], weight.shape[2]
    steps = (size - kernel) // stride + 1
    out = np.empty((len(x), len(weight), steps, steps))
    for i in range(steps):
        for j in range(steps):
            top, left = i * stride, j * stride
            window = x[:, None, :, top : top + kernel, left : left + kernel]
            out[:, :, i, j] = (window * weight[None]).sum((2, 3, 4)) + bias
    return out


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def numpy_moba(
    module: Moba, obs: NDArray[np.uint8], h: Array, c: Array
) -> tuple[Array, Array, Array, Array]:
    """The policy in float64, from the description of the network alone."""
    w = {name: p.detach().double().numpy() for name, p in module.named_parameters()}

    def linear(x: Array, name: str) -> Array:
        product: Array = np.einsum("bi,oi->bo", x, w[f"{name}.weight"])
        product += w[f"{name}.bias"]
        return product

    x = numpy_conv(numpy_planes(obs), w["conv1.weight"], w["conv1.bias"], 3)
    x = numpy_conv(np.maximum(x, 0), w["conv2.weight"], w["conv2.bias"], 1)
    extras = linear(obs[:, 484:] / 255, "extra")
    x = np.maximum(np.concatenate([x[:, :, 0, 0], extras], 1), 0)
    x = np.maximum(linear(x, "proj"), 0)
    gates = linear(x, "lstm.ih") + linear(h, "lstm.hh")
    i, f, g, o = (gates[:, 128 * k : 128 * (k + 1)] for k in range(4))
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    return linear(h, "actor"), linear(h, "value"), h, c


@pytest.fixture(scope="module")
def policy() -> Moba:
    """Return a policy whose weights are larger than the card's, so that every layer matters."""
    module = seeded(Moba, 77)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2)
    return module


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("scripted", [False, True])
def test_three_steps_agree_with_numpy(
    policy: Moba, batch: int, scripted: bool, script: Script
) -> None:
    module = script(policy) if scripted else policy
    h, c = normal(30, batch, 128), normal(31, batch, 128)
    h_e, c_e = h.double().numpy(), c.double().numpy()
    for step in range(3):
        obs = observation(40 + 2 * step, batch)
        with torch.no_grad():
            logits, value, h, c = module(obs, h, c)
        logits_e, value_e, h_e, c_e = numpy_moba(policy, obs.numpy(), h_e, c_e)
        for came, expected in ((logits, logits_e), (value, value_e), (h, h_e), (c, c_e)):
            np.testing.assert_allclose(came.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert logits.shape == (batch, 23)
    assert value.shape == (batch, 1)


def test_the_relu_waits_until_map_and_extras_are_joined(policy: Moba) -> None:
    with torch.no_grad():
        features = policy.encode(observation(50, 7))
    assert features.shape == (7, 64)
    assert bool((features[:, :32] < 0).any())
    assert bool((features[:, 32:] < 0).any())


def test_each_byte_reaches_its_plane(policy: Moba) -> None:
    """The first convolution sees what NumPy lays out, and the extras what is left."""
    seen: list[Tensor] = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        for layer in (policy.conv1, policy.extra)
    ]
    obs = observation(60, 3)
    with torch.no_grad():
        policy(obs, torch.zeros(3, 128), torch.zeros(3, 128))
    for hook in hooks:
        hook.remove()
    np.testing.assert_allclose(seen[0].numpy(), numpy_planes(obs.numpy()), rtol=1e-6)
    np.testing.assert_allclose(seen[1].numpy(), obs[:, 484:].numpy() / 255.0, rtol=1e-6)


def test_the_cell_agrees_with_torchs() -> None:
    ours = seeded(lambda: LSTMCell(5, 9), 3)
    theirs = nn.LSTMCell(5, 9)
    names = {"ih.weight": "weight_ih", "ih.bias": "bias_ih"}
    names |= {"hh.weight": "weight_hh", "hh.bias": "bias_hh"}
    theirs.load_state_dict({names[name]: t for name, t in ours.state_dict().items()})
    x, h, c = normal(70, 4, 5), normal(71, 4, 9), normal(72, 4, 9)
    came, expected = ours(x, h, c), theirs(x, (h, c))
    torch.testing.assert_close(came[0], expected[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(came[1], expected[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scripted", [False, True])
def test_act_takes_the_largest_logit_of_each_head(
    policy: Moba, scripted: bool, script: Script
) -> None:
    module = script(policy) if scripted else policy
    obs, h, c = observation(80, 7), normal(82, 7, 128), normal(83, 7, 128)
    with torch.no_grad():
        actions, h_a, c_a = module.act(obs, h, c)
        logits, _, h_f, c_f = module(obs, h, c)
    assert actions.dtype == torch.int64
    assert actions.shape == (7, 6)
    ends = [0, 7, 14, 17, 19, 21, 23]
    for row in range(7):
        for head in range(6):
            scores = logits[row, ends[head] : ends[head + 1]].tolist()
            assert int(actions[row, head]) == scores.index(max(scores))
    assert len({tuple(row) for row in actions.tolist()}) > 1, "all rows chose alike"
    assert torch.equal(h_a, h_f)
    assert torch.equal(c_a, c_f)


@pytest.mark.parametrize("scripted", [False, True])
@pytest.mark.parametrize("method", ["forward", "act"])
@pytest.mark.parametrize(("cell", "value"), [(0, 16), (120, 17), (60, 255)])
def test_a_class_byte_of_16_or_more_is_an_error(
    cell: int, value: int, method: str, scripted: bool, script: Script
) -> None:
    module = script(moba()) if scripted else moba()
    obs = observation(90, 2)
    obs[1, 4 * cell] = value
    error = torch.jit.Error if scripted else ValueError
    with pytest.raises(error) as raised:
        getattr(module, method)(obs, torch.zeros(2, 128), torch.zeros(2, 128))
    assert f"obs: class byte must be below 16, got {value}" in str(raised.value)


@pytest.mark.parametrize("scripted", [False, True])
def test_a_wrong_observation_is_named(scripted: bool, script: Script) -> None:
    module = script(moba()) if scripted else moba()
    error = torch.jit.Error if scripted else ValueError
    state = torch.zeros(1, 128)
    with pytest.raises(error, match=r"obs: expected \[batch, 510\], got \[1, 512\]"):
        module(torch.zeros(1, 512, dtype=torch.uint8), state, state)
    with pytest.raises(error, match=r"obs: expected \[batch, 510\], got \[510\]"):
        module(torch.zeros(510, dtype=torch.uint8), state, state)
    with pytest.raises(error, match="obs: expected dtype uint8"):
        module(torch.zeros(1, 510), state, state)


def test_quantities_and_extras_may_be_any_byte() -> None:
    obs = torch.full((1, 510), 255, dtype=torch.uint8)
    obs[:, 0:484:4] = 15
    logits, value, _, _ = moba()(obs, torch.zeros(1, 128), torch.zeros(1, 128))
    assert bool(torch.isfinite(logits).all())
    assert bool(torch.isfinite(value).all())


@pytest.mark.parametrize("scripted", [False, True])
def test_no_rows_give_no_rows(scripted: bool, script: Script) -> None:
    module = script(moba()) if scripted else moba()
    none = torch.zeros(0, 128)
    actions, h, _ = module.act(torch.zeros(0, 510, dtype=torch.uint8), none, none)
    assert actions.shape == (0, 6)
    assert h.shape == (0, 128)
