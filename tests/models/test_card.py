"""The properties of cards, checked for every model."""

import math
from collections.abc import Callable, Iterator
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from torchship.models import registry
from torchship.models.card import Card, Example, Step

Script = Callable[[nn.Module], torch.jit.ScriptModule]
Reload = Callable[[torch.jit.ScriptModule], torch.jit.ScriptModule]
Flat = Callable[[dict[str, object]], dict[str, Tensor]]
Run = Callable[[nn.Module, Card, str, Example], list[dict[str, Tensor]]]

PARAMETERS = {
    "xor": 12,
    "fizzbuzz": 754,
    "bobnet": 101_632,
    "makemore-flat": 22_097,
    "wavenet": 76_579,
    "charlstm": 338_395,
    "lstm": 10_560,
    "lstm-fused": 10_560,
    "gru": 45_120,
    "milstm": 10_880,
    "lnlstm": 24_480,
    "peephole": 21_360,
    "moba": 168_856,
    "snake": 20_549,
    "snake-lstm": 152_645,
}


@pytest.fixture(params=registry.names())
def card(request: pytest.FixtureRequest) -> Card:
    return registry.get(request.param)


def every_example(card: Card) -> Iterator[tuple[str, Example]]:
    for method, examples in card.examples().items():
        for example in examples:
            yield method, example


def test_the_parameters_are_counted(card: Card) -> None:
    assert sum(p.numel() for p in card.factory().parameters()) == PARAMETERS[card.name]


def test_the_factory_gives_equal_finite_modules_in_eval_mode(card: Card) -> None:
    first, second = card.factory(), card.factory()
    assert first is not second
    assert not any(module.training for module in first.modules())
    assert first.state_dict().keys() == second.state_dict().keys()
    for name, tensor in first.state_dict().items():
        assert tensor.dtype == torch.float32
        assert bool(torch.isfinite(tensor).all()), name
        assert torch.equal(tensor, second.state_dict()[name]), name
        assert bool((tensor != 0).all()), f"{name} looks unfilled"


def test_nothing_is_drawn_from_the_global_generator(card: Card) -> None:
    before = torch.random.get_rng_state()
    card.factory()
    card.examples()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_examples_are_the_same_each_time(card: Card, flat: Flat) -> None:
    torch.manual_seed(1)
    first = list(every_example(card))
    torch.manual_seed(2)
    second = list(every_example(card))
    for (method, steps), (other_method, other_steps) in zip(first, second, strict=True):
        assert method == other_method
        for step, other in zip(steps, other_steps, strict=True):
            tensors, others = flat(step), flat(other)
            assert tensors.keys() == others.keys()
            assert all(torch.equal(tensors[name], others[name]) for name in tensors)


def test_no_two_tensors_come_from_one_seed(card: Card, flat: Flat) -> None:
    """Tensors of one seed begin alike, even when their shapes differ."""
    starts = []
    for method, example in every_example(card):
        for number, step in enumerate(example):
            for name, tensor in flat(step).items():
                few = not tensor.is_floating_point() and tensor.numel() < 8
                if few or extreme(tensor) or (card.name == "fizzbuzz" and len(tensor) > 7):
                    continue
                starts.append((f"{method} {name} {number}", tensor.flatten()[:8] / tensor.max()))
    assert len(starts) >= 3
    for (one, a), (other, b) in combinations(starts, 2):
        assert not torch.equal(a, b), f"{one} and {other}"


def extreme(tensor: Tensor) -> bool:
    """Say whether the tensor is one of the hand-made ones: constant rows, or large."""
    if tensor.dtype == torch.uint8:
        return len(set(tensor[0].flatten().tolist())) <= 2
    tensor = tensor.double()
    return float(tensor.abs().max()) > 100 or (tensor.numel() > 1 and float(tensor.std()) == 0)


def batched(card: Card, method: str) -> bool:
    """Say whether a method has rows; `generate` has numbers only."""
    arguments = {name for example in card.examples()[method] for step in example for name in step}
    return any(key.partition(".")[0] in arguments for key in card.dims)


def test_the_batches_are_one_two_and_ragged(card: Card) -> None:
    axis = {symbol: key.rsplit(".", 1) for key, symbol in reversed(list(card.dims.items()))}
    name, number = axis["batch"]
    for method, examples in card.examples().items():
        if not batched(card, method):
            continue
        sizes = {tensor_of(example[0], name).size(int(number)) for example in examples}
        assert {1, 2} < sizes, method
        assert sizes & {5, 7}, method
        if "time" in axis:
            times = {
                tensor_of(step, axis["time"][0]).size(int(axis["time"][1]))
                for example in examples
                for step in example
            }
            assert len(times) >= 2


def tensor_of(step: Step, name: str) -> Tensor:
    value = step[name]
    assert isinstance(value, Tensor)
    return value


def test_dims_name_all_axes_that_vary_and_no_others(card: Card, flat: Flat) -> None:
    sizes: dict[str, set[int]] = {}
    for _, example in every_example(card):
        for step in example:
            bound: dict[str, int] = {}
            for name, tensor in flat(step).items():
                for axis, size in enumerate(tensor.shape):
                    key = f"{name}.{axis}"
                    sizes.setdefault(key, set()).add(size)
                    symbol = card.dims.get(key)
                    assert symbol is None or bound.setdefault(symbol, size) == size
    assert {key for key, seen in sizes.items() if len(seen) > 1} == set(card.dims)


def test_recurrent_models_run_and_start_as_golden_cases_ask(card: Card, flat: Flat) -> None:
    for method, state in card.state.items():
        examples = card.examples()[method]
        inputs = {entry[0] for entry in state}
        assert sum(len(example) >= 3 for example in examples) >= 2
        default = []
        for example in examples:
            assert not any(inputs & flat(step).keys() for step in example[1:])
            given = [value for name, value in flat(example[0]).items() if name in inputs]
            default.append(not given)
            assert all(bool(value.all()) for value in given)
            assert len(given) in (0, len(inputs))
        assert True in default
        assert False in default


def test_values_are_signed_and_mostly_not_saturated(card: Card, flat: Flat, run: Run) -> None:
    module = card.factory()
    for method, example in every_example(card):
        if any(extreme(tensor) for tensor in flat(example[0]).values() if tensor.any()):
            continue
        for tensor in flat(example[0]).values():
            if tensor.is_floating_point() and tensor.any() and tensor.numel() > 300:
                assert 0.4 < float((tensor < 0).float().mean()) < 0.6
        for outputs in run(module, card, method, example):
            for name, tensor in outputs.items():
                if name in ("h", "output", "hidden.0"):
                    assert float((tensor.abs() < 0.95).float().mean()) > 0.9, name
                if name == "log_probs":
                    assert float(tensor.exp().max()) < 1.0


def test_one_example_is_extreme(card: Card, flat: Flat) -> None:
    for method, examples in card.examples().items():
        if not batched(card, method):
            continue
        largest = max(float(t.max()) for t in flat(examples[-1][0]).values())
        indices = all(t.dtype == torch.int64 for t in flat(examples[-1][0]).values())
        tiles = card.name.startswith("snake") and largest >= 7
        assert indices or tiles or largest >= 255, method
        assert any(not bool(row.any()) for e in examples for t in rows(e, flat) for row in t)


def rows(example: Example, flat: Flat) -> list[Tensor]:
    return [tensor for step in example for tensor in flat(step).values()]


def test_outputs_are_named_finite_and_labelled(card: Card, run: Run) -> None:
    module = card.factory()
    methods = set()
    for method, example in every_example(card):
        methods.add(method)
        for outputs in run(module, card, method, example):
            for name, tensor in outputs.items():
                assert bool(torch.isfinite(tensor).all()), name
            for name in card.labels.keys() & outputs.keys():
                assert outputs[name].size(-1) == len(card.labels[name])
            for entry in card.state.get(method, []):
                assert entry[1] in outputs
    assert methods == set(card.outputs)


def test_the_callers_inputs_stay_as_they_are(card: Card, flat: Flat, run: Run) -> None:
    module = card.factory()
    for (method, example), (_, fresh) in zip(every_example(card), every_example(card), strict=True):
        run(module, card, method, example)
        for step, other in zip(example, fresh, strict=True):
            same = flat(other)
            assert all(torch.equal(t, same[name]) for name, t in flat(step).items())


def test_script_gives_the_bits_of_eager(
    card: Card, script: Script, reload: Reload, run: Run
) -> None:
    """Three rounds, because the executor rewrites the graph after it has seen it run."""
    module = card.factory()
    scripted = script(card.factory())
    loaded = reload(scripted)
    for _ in range(3):
        for method, example in every_example(card):
            expected = run(module, card, method, example)
            for candidate in (scripted, loaded):
                came = run(candidate, card, method, example)
                for step, other in zip(came, expected, strict=True):
                    assert step.keys() == other.keys()
                    for name in step:
                        assert step[name].dtype == other[name].dtype
                        assert torch.equal(step[name], other[name]), (method, name)


def test_a_row_does_not_depend_on_the_other_rows(card: Card, flat: Flat, run: Run) -> None:
    """A batch of one gives what the batch gave, up to the rounding of another kernel."""
    module = card.factory()
    for method, example in every_example(card):
        if not batched(card, method):
            continue
        whole = run(module, card, method, example[:1])[0]
        first = run(module, card, method, [first_row(card, example[0])])[0]
        for name, tensor in first.items():
            row = whole[name].narrow(batch_axis(card, name), 0, 1)
            torch.testing.assert_close(tensor, row, rtol=1e-4, atol=1e-5)


def batch_axis(card: Card, name: str) -> int:
    """Return the axis of the batch in an input, or in an output that is named as it; else 0."""
    places = (key.rsplit(".", 1) for key, symbol in card.dims.items() if symbol == "batch")
    return next((int(axis) for leaf, axis in places if leaf == name), 0)


def first_row(card: Card, step: Step) -> Step:
    def row_of(name: str, value: object) -> object:
        if isinstance(value, tuple | list):
            return type(value)(row_of(f"{name}.{i}", item) for i, item in enumerate(value))
        assert isinstance(value, Tensor)
        return value.narrow(batch_axis(card, name), 0, 1)

    return {name: row_of(name, value) for name, value in step.items()}


def test_metrics_are_finite_and_accuracies_shares(card: Card) -> None:
    metrics = card.metrics()
    assert all(math.isfinite(value) for value in metrics.values())
    assert all(0 <= value <= 1 for name, value in metrics.items() if "accuracy" in name)
    assert bool(metrics) == (card.name in registry.trainable())
