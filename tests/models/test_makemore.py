from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchship.models import charlstm as cl
from torchship.models import data, layers, names
from torchship.models import makemore as mm
from torchship.models.sampling import advance, categorical, keys, uniform
from torchship.models.seeding import normal, with_weights
from torchship.models.training import descent as training
from torchship.models.training import store
from torchship.models.training.descent import Recipe
from torchship.models.training.journal import Journal

Script = Callable[[nn.Module], torch.jit.ScriptModule]
OpenJournal = Callable[[Recipe], Journal]


def untrained(make: Callable[[], mm.Makemore], seed: int = 1) -> mm.Makemore:
    with torch.device("meta"):
        network = make()
    generator = torch.Generator().manual_seed(seed)
    return with_weights(make, mm.initial_weights(network, generator))


def batch_norm(channels: int) -> layers.BatchNorm:
    """Return a layer in training mode whose weights and statistics are all different."""
    layer = layers.BatchNorm(channels)
    layer.load_state_dict(
        {
            "gamma": normal(1, channels) + 1,
            "beta": normal(2, channels),
            "running_mean": normal(3, channels),
            "running_var": normal(4, channels).abs() + 0.5,
        }
    )
    return layer.train()


# --- the layers ---


@pytest.mark.parametrize("scripted", [False, True])
@pytest.mark.parametrize("shape", [(32, 68), (32, 4, 68)])
def test_batch_norm_takes_statistics_of_the_last_axis(
    shape: tuple[int, ...], scripted: bool, script: Script
) -> None:
    """The lecture's bug: reduced over axis 0 alone, the statistics were of shape [1, 4, 68]."""
    layer = batch_norm(68)
    before = {name: tensor.numpy().copy() for name, tensor in layer.named_buffers()}
    module = script(layer) if scripted else layer
    x = normal(5, *shape)
    came = module(x).detach().numpy()
    rows = x.double().numpy().reshape(-1, 68)
    mean, var = rows.mean(0), rows.var(0, ddof=1)
    gamma, beta = layer.gamma.detach().numpy(), layer.beta.detach().numpy()
    expected = (gamma * (rows - mean) / np.sqrt(var + 1e-5) + beta).reshape(shape)
    np.testing.assert_allclose(came, expected, rtol=1e-4, atol=1e-5)
    after = dict(module.named_buffers())
    assert {name: tuple(tensor.shape) for name, tensor in after.items()} == {
        "running_mean": (68,),
        "running_var": (68,),
    }
    for name, new in (("running_mean", mean), ("running_var", var)):
        np.testing.assert_allclose(after[name].numpy(), 0.9 * before[name] + 0.1 * new, rtol=1e-5)


@pytest.mark.parametrize("shape", [(32, 6), (32, 4, 6)])
def test_batch_norm_in_eval_mode_uses_and_keeps_the_running_statistics(
    shape: tuple[int, ...],
) -> None:
    layer = batch_norm(6).eval()
    reference = nn.BatchNorm1d(6).eval()
    reference.load_state_dict(
        {
            "weight": layer.gamma,
            "bias": layer.beta,
            "running_mean": layer.running_mean,
            "running_var": layer.running_var,
            "num_batches_tracked": torch.tensor(0),
        }
    )
    before = {name: tensor.clone() for name, tensor in layer.named_buffers()}
    x = normal(5, *shape)
    expected = reference(x.reshape(-1, 6)).reshape(shape)
    torch.testing.assert_close(layer(x), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.named_buffers())


def test_torchs_batch_norm_differs_silently_if_length_equals_channels() -> None:
    """Channels-last data: an error for [8, 4, 6], other numbers and no error for [8, 6, 6]."""
    theirs = nn.BatchNorm1d(6)
    with pytest.raises(RuntimeError):
        theirs(normal(1, 8, 4, 6))
    x = normal(1, 8, 6, 6)
    assert theirs(x).shape == x.shape
    ours = layers.BatchNorm(6)
    ours.load_state_dict(
        {"gamma": torch.ones(6), "beta": torch.zeros(6)}
        | {"running_mean": torch.zeros(6), "running_var": torch.ones(6)}
    )
    assert not torch.allclose(ours.train()(x), theirs(x), atol=0.01)
    right = theirs(x.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(ours(x), right, rtol=0.02, atol=0.01)  # unbiased, or not


@pytest.mark.parametrize("shape", [(6,), (2, 3, 4, 6)])
def test_batch_norm_refuses_other_ranks(shape: tuple[int, ...], script: Script) -> None:
    layer = batch_norm(6).eval()
    message = r"expected \[batch, channel\] or \[batch, length, channel\], got \["
    with pytest.raises(ValueError, match=message):
        layer(torch.zeros(shape))
    with pytest.raises(torch.jit.Error, match=message):
        script(layer)(torch.zeros(shape))


def test_batch_norm_refuses_one_row_in_training_mode() -> None:
    layer = batch_norm(6)
    for shape in ((1, 6), (1, 1, 6)):
        with pytest.raises(ValueError, match="one value per channel"):
            layer(torch.zeros(shape))
    assert bool(torch.isfinite(layer(normal(1, 1, 2, 6))).all())
    assert bool(torch.isfinite(layer.eval()(torch.zeros(1, 6))).all())


def test_gradients_of_batch_norm_are_exact() -> None:
    layer = batch_norm(3).double()
    x = normal(1, 4, 2, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: layer(x), (x,))


@pytest.mark.parametrize("scripted", [False, True])
def test_neighbours_lie_side_by_side(scripted: bool, script: Script) -> None:
    layer = layers.FlattenConsecutive(2)
    module = script(layer) if scripted else layer
    x = torch.arange(2 * 4 * 3).reshape(2, 4, 3)
    assert module(x).tolist() == [
        [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]],
        [[12, 13, 14, 15, 16, 17], [18, 19, 20, 21, 22, 23]],
    ]
    assert module(x[:, :2]).tolist() == [[0, 1, 2, 3, 4, 5], [12, 13, 14, 15, 16, 17]]
    assert module(x[:1, :2]).shape == (1, 6), "a batch of 1 keeps its axis"
    error = torch.jit.Error if scripted else ValueError
    with pytest.raises(error, match=r"FlattenConsecutive\(2\): length 3 is no multiple of 2"):
        module(x[:, :3])


def test_the_linear_layer_has_a_bias_only_if_asked() -> None:
    plain, biased = layers.Linear(5, 3), layers.Linear(5, 3, bias=True)
    weight, bias = normal(1, 5, 3), normal(2, 3)
    plain.load_state_dict({"weight": weight})
    biased.load_state_dict({"weight": weight, "bias": bias})
    for x in (normal(3, 4, 5), normal(4, 4, 2, 5)):
        expected = np.einsum("...i,io->...o", x.numpy(), weight.numpy())
        np.testing.assert_allclose(plain(x).detach(), expected, atol=1e-6)
        np.testing.assert_allclose(biased(x).detach(), expected + bias.numpy(), atol=1e-6)


@pytest.mark.parametrize("index", [-1, 27])
def test_an_index_beside_the_table_is_an_error(index: int) -> None:
    layer = layers.Embedding(27, 4)
    with pytest.raises(IndexError):
        layer(torch.tensor([[index]]))


# --- the networks ---


@pytest.mark.parametrize(
    ("make", "parameters", "shapes"),
    [
        (mm.flat_network, 22_097, [(8, 10), (80,), (200,), (200,), (200,), (27,)]),
        (
            mm.wavenet_network,
            76_579,
            [(8, 24), (4, 48), *[(4, 128)] * 3, (2, 256), *[(2, 128)] * 3, (256,)]
            + [(128,)] * 3
            + [(27,)],
        ),
    ],
)
def test_networks_are_the_lectures(
    make: Callable[[], mm.Makemore], parameters: int, shapes: list[tuple[int, ...]]
) -> None:
    network = untrained(make)
    assert sum(p.numel() for p in network.parameters()) == parameters
    x = torch.zeros(4, 8, dtype=torch.int64)
    seen = []
    for layer in network.net.layers:
        x = layer(x)
        seen.append(tuple(x.shape[1:]))
    assert seen == shapes


def test_initial_weights_are_the_lectures() -> None:
    weights = untrained(mm.wavenet_network).state_dict()
    matrices = [name for name in weights if name.endswith("weight")]
    for name, deviation in zip(
        matrices, (1, 48**-0.5, 256**-0.5, 256**-0.5, 0.1 * 128**-0.5), strict=True
    ):
        assert float(weights[name].std()) == pytest.approx(deviation, rel=0.1), name
        assert abs(float(weights[name].mean())) < 0.2 * deviation
    for name, tensor in weights.items():
        if name not in matrices:
            expected = 1.0 if name.endswith(("gamma", "running_var")) else 0.0
            assert bool((tensor == expected).all()), name


def test_the_learning_rate_falls_for_the_last_quarter_and_the_last_twentieth() -> None:
    steps = (1, 150_000, 150_001, 190_000, 190_001, 200_000)
    rates = [mm.falling_rate(mm.WAVENET_RECIPE, step) for step in steps]
    assert rates == [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]


@pytest.mark.parametrize("make", [mm.makemore_flat, mm.wavenet, cl.charlstm])
@pytest.mark.parametrize("scripted", [False, True])
def test_wrong_input_is_reported(
    make: Callable[[], nn.Module], scripted: bool, script: Script
) -> None:
    module = script(make()) if scripted else make()
    error = torch.jit.Error if scripted else ValueError
    good = torch.zeros(2, 8, dtype=torch.int64)
    for wrong, message in (
        (good.float(), "x: expected dtype int64, got another dtype"),
        (good - 1, "x: expected indices 0 to 26, got -1"),
        (good + 27, "x: expected indices 0 to 26, got 27"),
        (good[0], r"x: expected \[batch, .*, got \[8\]"),
        (good[:, :0], r"x: expected \[batch, .*, got \[2, 0\]"),
    ):
        with pytest.raises(error, match=message):
            module(wrong)
    for count, length, message in (
        (0, 5, "count: expected 1 to 10000, got 0"),
        (10_001, 5, "count: expected 1 to 10000, got 10001"),
        (5, 0, "max_length: expected 1 to 1000, got 0"),
        (5, 1001, "max_length: expected 1 to 1000, got 1001"),
    ):
        with pytest.raises(error, match=message):
            module.generate(count, 1, length)  # type: ignore[operator]


# --- the kept weights ---


@pytest.mark.parametrize(
    ("name", "bound"), [("makemore-flat", 2.04), ("wavenet", 1.993), ("charlstm", 1.96)]
)
def test_the_kept_weights_reach_what_the_json_says(
    name: str, bound: float, parts: names.Split
) -> None:
    report = store.read_report(name)
    for part, metric in ((parts.validation, "validation loss"), (parts.test, "test loss")):
        if name == "charlstm":
            reached = cl.loss(cl.charlstm(), *names.sequences(part))
        else:
            make = mm.wavenet if name == "wavenet" else mm.makemore_flat
            reached = mm.loss(make(), *names.contexts(part, 8))
        assert reached == pytest.approx(report.metrics[metric], abs=1e-4)
    assert report.metrics["validation loss"] <= bound
    assert report.metrics["train loss"] < report.metrics["validation loss"]


@pytest.mark.parametrize("recipe", [mm.FLAT_RECIPE, mm.WAVENET_RECIPE, cl.RECIPE])
def test_a_short_training_is_repeatable_and_learns(
    recipe: Recipe,
    parts: names.Split,
    journal_of: OpenJournal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(data, "names", lambda: parts.train[:1000])
    short = replace(recipe, steps=60 if recipe.name == "charlstm" else 200)
    journal = journal_of(short)
    first = training.run(short, journal)[0]
    second = training.run(short, journal_of(short))[0].model.state_dict()
    weights = first.model.state_dict()
    assert all(torch.equal(tensor, second[name]) for name, tensor in weights.items())
    assert not first.model.training
    assert 1.9 < first.metrics["validation loss"] < 2.9
    assert journal.history["validation loss"][-1] == (
        short.steps,
        first.metrics["validation loss"],
    )
    assert journal.history["train loss"][0][1] > journal.history["train loss"][-1][1]


def test_batches_are_drawn_with_their_targets() -> None:
    inputs = torch.arange(50)[:, None].expand(50, 8)
    generator = torch.Generator().manual_seed(1)
    drawn = list(islice(mm.batches(inputs, torch.arange(50), 20, generator), 3))
    for x, y in drawn:
        assert x.shape == (20, 8)
        assert torch.equal(x[:, 0], y)
    assert not torch.equal(drawn[0][1], drawn[1][1])


def test_batches_of_sequences_are_as_long_as_their_longest_name() -> None:
    inputs, targets = names.sequences(["a", "abc", "abcdefgh"])
    generator = torch.Generator().manual_seed(1)
    lengths = set()
    for x, y in islice(cl.batches(inputs, targets, 2, generator), 30):
        assert x.shape == y.shape
        assert bool((y[:, -1] != names.IGNORED).any())
        lengths.add(x.shape[1])
    assert lengths == {2, 4, 9}


def test_the_loss_of_sequences_leaves_out_what_is_after_the_end() -> None:
    logits = normal(1, 2, 3, 27)
    targets = torch.tensor([[5, 0, -1], [7, 8, 0]])
    log_probs = torch.log_softmax(logits, 2)
    chosen = [log_probs[0, 0, 5], log_probs[0, 1, 0]]
    chosen += [log_probs[1, 0, 7], log_probs[1, 1, 8], log_probs[1, 2, 0]]
    expected = -torch.stack(chosen).mean()
    torch.testing.assert_close(cl.cross_entropy((logits, []), targets), expected)


def test_the_rate_of_the_lstm_rises_and_falls() -> None:
    rates = [cl.cosine_rate(cl.RECIPE, step) for step in range(1, 4001)]
    peak = rates.index(max(rates))
    assert peak == 99
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] == pytest.approx(0.01 * 0.003)


def part_of(model: nn.Module, words: list[str]) -> tuple[Tensor, Tensor]:
    """Return the words as the model takes them, with the targets."""
    return names.sequences(words) if isinstance(model, cl.CharLSTM) else names.contexts(words, 8)


def loss_of(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    if isinstance(model, cl.CharLSTM):
        return cl.loss(model, inputs, targets)
    return mm.loss(model, inputs, targets)


def cross_entropy(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Return the loss in the mode that the model is in."""
    with torch.no_grad():
        output = model(inputs)
    logits = output[0].flatten(0, 1) if isinstance(output, tuple) else output
    counts = targets.flatten() != names.IGNORED
    return nn.functional.cross_entropy(logits[counts], targets.flatten()[counts]).item()


@pytest.mark.parametrize("make", [mm.makemore_flat, mm.wavenet, cl.charlstm])
def test_the_loss_is_that_of_eval_mode_and_leaves_training_mode(
    make: Callable[[], nn.Module],
) -> None:
    """A training's validation loss: neither dropout nor the batch's statistics, and no trace."""
    module = make().train()
    inputs, targets = part_of(module, ["emma", "zzyzx", "maximilian"])
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    reached = loss_of(module, inputs, targets)
    assert module.training
    assert all(layer.training for layer in module.modules())
    after = module.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    in_eval = cross_entropy(module.eval(), inputs, targets)
    assert reached == pytest.approx(in_eval, abs=1e-6)
    torch.manual_seed(1)
    assert abs(cross_entropy(module.train(), inputs, targets) - in_eval) > 1e-3


def test_the_lstm_drops_out_after_the_embedding_and_after_the_lstm() -> None:
    module = cl.charlstm()
    x, _ = names.sequences(["emma", "zzyzx", "maximilian"])
    layers = (module.embedding_dropout, module.dropout)
    assert [layer.p for layer in layers] == [0.2, 0.4]
    shapes = []
    for layer in layers:
        layer.register_forward_hook(lambda _, args, out: shapes.append(tuple(out.shape)))
    assert torch.equal(module(x)[0], module(x)[0]), "in eval mode"
    assert shapes == [(3, 11, 64), (3, 11, 256)] * 2
    module.train()
    for off, on in (layers, layers[::-1]):
        off.p, p = 0.0, off.p
        assert not torch.equal(module(x)[0], module(x)[0]), on
        off.p = p
    module.embedding_dropout.p = module.dropout.p = 0.0
    assert torch.equal(module(x)[0], module(x)[0])


WORDS = [
    first + vowel + last for first in "bdfgklmn" for vowel in "aei" for last in ("", "n", "ra")
]


@pytest.mark.parametrize("recipe", [mm.FLAT_RECIPE, mm.WAVENET_RECIPE, cl.RECIPE])
def test_a_training_sees_the_train_part_and_is_measured_on_each_part(
    recipe: Recipe, journal_of: OpenJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is trained: what `fit` hands to `descend` is looked at."""
    parts = names.split(WORDS)
    room = cl if recipe is cl.RECIPE else mm
    seen: list[Tensor] = []
    called: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def batches(inputs: Tensor, targets: Tensor, size: int, generator: torch.Generator) -> str:
        assert size == recipe.batch
        assert generator.initial_seed() == recipe.seed
        seen.extend((inputs, targets))
        return "the batches"

    def descend(model: nn.Module, *arguments: Any, **options: Any) -> None:
        assert model.training
        called.append(((model, *arguments), options))
        with torch.no_grad():
            list(model.parameters())[-1][3] = 5.0  # a bias: other weights than at the start
        assert options["validate"]() == loss_of(model, *part_of(model, parts.validation))
        assert model.training

    monkeypatch.setattr(data, "names", lambda: WORDS)
    monkeypatch.setattr(room, "batches", batches)
    monkeypatch.setattr(room, "descend", descend)
    journal = journal_of(recipe)
    trained = recipe.fit(recipe, journal)
    (((model, *arguments), options),) = called
    expected = part_of(model, parts.train)
    assert all(torch.equal(a, b) for a, b in zip(seen, expected, strict=True))
    assert trained.model is model
    assert arguments[0] == "the batches"
    assert arguments[2:] == [recipe, journal]
    assert not model.training
    assert trained.metrics == {
        "validation loss": loss_of(model, *part_of(model, parts.validation)),
        "train loss": loss_of(model, *part_of(model, parts.train)),
        "test loss": loss_of(model, *part_of(model, parts.test)),
    }
    assert len(set(trained.metrics.values())) == 3
    options.pop("validate")
    if room is mm:
        assert arguments[1] is nn.functional.cross_entropy
        assert options == {"rate": mm.falling_rate}
        return
    assert arguments[1] is cl.cross_entropy
    optimizer = options.pop("optimizer")
    assert options == {"rate": cl.cosine_rate, "clip": 1.0}
    assert type(optimizer) is torch.optim.AdamW
    (group,) = optimizer.param_groups
    assert (group["betas"], group["weight_decay"]) == ((0.9, 0.99), 0.05)
    assert all(a is b for a, b in zip(group["params"], model.parameters(), strict=True))


# --- names drawn from them ---


def drawn_by_hand(step: Callable[[Tensor], Tensor], count: int, seed: int, length: int) -> Tensor:
    """Draw every row to its end on its own; `step` returns the logits after a symbol [1]."""
    rows = []
    for row in range(count):
        key = keys(seed, count)[row : row + 1]
        symbol = torch.zeros(1, dtype=torch.int64)
        name: list[int] = []
        restart = True
        while len(name) < length:
            logits = step(torch.full((1,), -1)) if restart else step(symbol)
            restart = False
            symbol = categorical(logits, uniform(key))
            name.append(int(symbol))
            if not name[-1]:
                break
            key = advance(key)
        rows.append(name + [0] * (length - len(name)))
    return torch.tensor(rows)


@pytest.mark.parametrize("scripted", [False, True])
@pytest.mark.parametrize("make", [mm.makemore_flat, mm.wavenet])
def test_names_are_those_drawn_by_hand(
    make: Callable[[], mm.Makemore], scripted: bool, script: Script
) -> None:
    module = make()
    context = torch.zeros(1, 8, dtype=torch.int64)

    def step(symbol: Tensor) -> Tensor:
        nonlocal context
        if symbol.item() < 0:
            context = torch.zeros(1, 8, dtype=torch.int64)
        else:
            context = torch.cat([context[:, 1:], symbol[:, None]], 1)
        with torch.no_grad():
            logits: Tensor = module(context)
        return logits

    expected = drawn_by_hand(step, 12, 7, 9)
    generated = (script(module) if scripted else module).generate(12, 7, 9)
    assert generated.dtype == torch.int64
    assert torch.equal(generated, expected)


def test_a_session_that_carries_the_state_draws_the_same_names() -> None:
    """What a server's sequence does: one symbol in, the state kept, one draw."""
    module = cl.charlstm()
    hidden: list[Tensor] | None = None

    def step(symbol: Tensor) -> Tensor:
        nonlocal hidden
        if symbol.item() < 0:
            hidden, symbol = None, torch.zeros(1, dtype=torch.int64)
        with torch.no_grad():
            logits, hidden = module(symbol[:, None], hidden)
        last: Tensor = logits[:, 0]
        return last

    expected = drawn_by_hand(step, 12, 7, 9)
    assert torch.equal(module.generate(12, 7, 9), expected)


@pytest.mark.parametrize("make", [mm.wavenet, cl.charlstm])
def test_names_are_names(make: Callable[[], nn.Module], parts: names.Split) -> None:
    """Of trained models; how many are of the training set says that they have learned, too."""
    module = make()
    drawn = names.decode(module.generate(500, 1, 20))  # type: ignore[operator]
    assert 4 < sum(map(len, drawn)) / 500 < 8
    assert len(set(drawn)) > 350
    known = set(parts.train) | set(parts.validation) | set(parts.test)
    assert 0.1 < sum(name in known for name in drawn) / 500 < 0.9
    other = names.decode(module.generate(500, 2, 20))  # type: ignore[operator]
    assert sum(a == b for a, b in zip(drawn, other, strict=True)) < 25


@pytest.mark.parametrize("make", [mm.wavenet, cl.charlstm])
def test_seed_0_draws_names_like_any_other(make: Callable[[], nn.Module]) -> None:
    """Not the empty name, to which 0 leads when it is mixed without anything added."""
    drawn = names.decode(make().generate(5, 0, 12))  # type: ignore[operator]
    assert all(drawn), drawn
    assert len(set(drawn)) == 5


def test_the_loop_ends_when_every_name_has(monkeypatch: pytest.MonkeyPatch) -> None:
    module = mm.wavenet()
    calls = []

    def watched(context: Tensor) -> Tensor:
        calls.append(context)
        return real(context)

    real = module.forward
    monkeypatch.setattr(module, "forward", watched)
    generated = module.generate(3, 1, 1000)
    assert generated.shape == (3, 1000)
    longest = max(map(len, names.decode(generated)))
    assert len(calls) == longest + 1 < 40
