"""The stream's own check: forward and backward by hand in NumPy, beside torch's.

Nothing of torch is used in the forward or in the backward pass below: the chain rule is written
out, from the mean of the labels' negative log-probabilities back to the pixels.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from torchship.models import bobnet as bn
from torchship.models import data
from torchship.models.seeding import integers, normal, with_weights
from torchship.models.training.journal import Journal

Array = NDArray[Any]  # float64 or float32
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Pass:
    """What a forward and a backward pass give."""

    log_probs: Array  # [batch, 10]
    loss: float
    d_l1: Array  # [128, 784], the loss's derivative by each weight
    d_l2: Array  # [10, 128]
    d_x: Array  # [batch, 784]


def by_hand(x: Array, l1: Array, l2: Array, labels: NDArray[np.int64]) -> Pass:
    """Both passes in the dtype of the arguments."""
    rows = np.arange(len(x))
    before = x @ l1.T  # [batch, 128]
    hidden = np.maximum(before, 0)  # [batch, 128]
    scores = hidden @ l2.T  # [batch, 10]
    shifted = scores - scores.max(1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))  # [batch, 10]
    loss = -log_probs[rows, labels].mean()

    d_log_probs = np.zeros_like(log_probs)
    d_log_probs[rows, labels] = -1 / len(x)  # the mean's
    # log-softmax: each score moves its own log-probability, and all of them by its share
    d_scores = d_log_probs - np.exp(log_probs) * d_log_probs.sum(1, keepdims=True)
    d_l2 = d_scores.T @ hidden  # [10, 128]
    d_hidden = d_scores @ l2  # [batch, 128]
    d_before = d_hidden * (before > 0)  # [batch, 128]; at 0 ReLU has the slope 0, as torch's has
    return Pass(log_probs, float(loss), d_before.T @ x, d_l2, d_before @ l1)


def by_torch(x: Tensor, weights: Weights, labels: Tensor) -> Pass:
    """The same with the shipped module, torch's loss, and autograd."""
    module = with_weights(bn.BobNet, weights)
    x = x.float().requires_grad_()
    log_probs = module(x)
    loss = nn.functional.nll_loss(log_probs, labels)
    d_l1, d_l2, d_x = torch.autograd.grad(loss, [module.l1.weight, module.l2.weight, x])
    grads = (tensor.numpy() for tensor in (d_l1, d_l2, d_x))
    return Pass(log_probs.detach().numpy(), float(loss.detach()), *grads)


def in_numpy(x: Tensor, weights: Weights, labels: Tensor, dtype: type = np.float64) -> Pass:
    l1, l2 = weights["l1.weight"].numpy(), weights["l2.weight"].numpy()
    return by_hand(x.numpy().astype(dtype), l1.astype(dtype), l2.astype(dtype), labels.numpy())


def assert_agree(came: Pass, expected: Pass, tolerance: float) -> None:
    """Every entry is within `tolerance` of the largest: near zero, only that scale has a meaning.

    The scale itself is compared too, so that a tensor of zeros agrees with zeros alone.
    """
    assert came.loss == pytest.approx(expected.loss, rel=tolerance)
    for name in ("log_probs", "d_l1", "d_l2", "d_x"):
        ours, theirs = getattr(came, name), getattr(expected, name)
        assert ours.shape == theirs.shape, name
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * scale, err_msg=name)
        assert np.linalg.norm(ours) == pytest.approx(np.linalg.norm(theirs), rel=tolerance), name


def stream(seed: int) -> Weights:
    return bn.stream_weights(torch.Generator().manual_seed(seed))


def default(seed: int) -> Weights:
    return bn.default_weights(torch.Generator().manual_seed(seed))


def kept() -> Weights:
    return {name: p.detach() for name, p in bn.bobnet().named_parameters()}


def random_rows(batch: int) -> tuple[Tensor, Tensor]:
    """Pixels and labels; the first row is all background, where every ReLU stands at 0."""
    x = integers(600 + batch, 256, batch, 784)
    if batch > 1:
        x[0] = 0
    return x, integers(700 + batch, 10, batch).long()


WEIGHTS = pytest.mark.parametrize(
    "weights", [stream(21), default(22), kept()], ids=["stream's", "torch's", "trained"]
)


@pytest.mark.parametrize("batch", [1, 2, 7, 128])
@WEIGHTS
def test_random_rows_agree_with_the_passes_by_hand(weights: Weights, batch: int) -> None:
    x, labels = random_rows(batch)
    came = by_torch(x, weights, labels)
    assert_agree(came, in_numpy(x, weights, labels), 3e-4)
    assert_agree(came, in_numpy(x, weights, labels, np.float32), 3e-4)


@pytest.mark.parametrize("batch", [1, 32, 500])
@WEIGHTS
def test_real_digits_agree_with_the_passes_by_hand(
    digits: data.Digits, weights: Weights, batch: int
) -> None:
    x, labels = digits.images[:batch], digits.labels[:batch]
    came = by_torch(x, weights, labels)
    assert_agree(came, in_numpy(x, weights, labels), 3e-4)
    assert_agree(came, in_numpy(x, weights, labels, np.float32), 3e-4)
    untouched = (x == 0).all(0).numpy()
    assert untouched.any(), "some pixels are background in every digit"
    assert not came.d_l1[:, untouched].any(), "and have no say in the weights"


def test_the_backward_pass_by_hand_is_the_slope_of_the_forward_pass() -> None:
    """The reference against itself: central differences of its loss, on a small network."""
    x, l1, l2 = (
        normal(30 + n, *s).double().numpy() for n, s in enumerate([(3, 6), (5, 6), (4, 5)])
    )
    labels = np.array([2, 0, 3])
    slopes = by_hand(x, l1, l2, labels)
    for array, slope in ((x, slopes.d_x), (l1, slopes.d_l1), (l2, slopes.d_l2)):
        assert array.shape == slope.shape
        for place in np.ndindex(array.shape):
            value = array[place]
            around = []
            for moved in (value + 1e-5, value - 1e-5):
                array[place] = moved
                around.append(by_hand(x, l1, l2, labels).loss)
            array[place] = value
            assert (around[0] - around[1]) / 2e-5 == pytest.approx(slope[place], abs=1e-8)


def test_the_loss_is_a_mean_so_that_gradients_do_not_grow_with_the_batch() -> None:
    x, labels = random_rows(7)
    once = by_torch(x, stream(23), labels)
    thrice = by_torch(x.repeat(3, 1), stream(23), labels.repeat(3))
    assert thrice.loss == pytest.approx(once.loss, rel=1e-6)
    for name in ("d_l1", "d_l2"):
        largest = np.abs(getattr(once, name)).max()
        np.testing.assert_allclose(
            getattr(thrice, name), getattr(once, name), rtol=0, atol=1e-5 * largest
        )
    np.testing.assert_allclose(thrice.d_x[:7] * 3, once.d_x, rtol=1e-3, atol=1e-8)


def test_the_initial_weights_set_the_scale(digits: data.Digits) -> None:
    """The stream's start almost undecided, at a loss near log 10; torch's start at ten times that.

    For pixels of 0..255 torch's weights are too large: sqrt(128) times the stream's in the first
    layer, and sqrt(10) times in the second.
    """
    x, labels = digits.images[:500], digits.labels[:500]
    ours, theirs = (in_numpy(x, weights, labels) for weights in (stream(24), default(24)))
    assert ours.loss == pytest.approx(np.log(10), abs=0.4)
    assert theirs.loss > 10
    spread = [float(np.ptp(p.log_probs, axis=1).mean()) for p in (ours, theirs)]
    assert spread[1] / spread[0] == pytest.approx((128 * 10) ** 0.5, rel=1e-6)


@pytest.mark.parametrize("steps", [1, 3])
def test_training_takes_the_steps_of_the_backward_pass_by_hand(
    steps: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pool = data.Digits(integers(8, 256, 100, 784), integers(9, 10, 100).long())
    monkeypatch.setattr(data, "mnist", lambda split: pool)
    recipe = replace(bn.RECIPE, steps=steps)
    trained = bn.fit(recipe, Journal(recipe.identity, tmp_path)).model.state_dict()

    generator = torch.Generator().manual_seed(recipe.seed)
    initial = bn.stream_weights(generator)
    l1, l2 = (initial[name].double().numpy() for name in ("l1.weight", "l2.weight"))
    drawn = bn.batches(pool, 128, generator)
    for _ in range(steps):
        inputs, labels = next(drawn)
        slopes = by_hand(inputs.double().numpy(), l1, l2, labels.numpy())
        l1, l2 = l1 - 0.001 * slopes.d_l1, l2 - 0.001 * slopes.d_l2
    for name, before, after in (("l1.weight", initial, l1), ("l2.weight", initial, l2)):
        moved = trained[name].double().numpy() - before[name].double().numpy()
        expected = after - before[name].double().numpy()
        largest = np.abs(expected).max()
        assert largest > 0
        np.testing.assert_allclose(moved, expected, rtol=0, atol=1e-3 * largest, err_msg=name)
