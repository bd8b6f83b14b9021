"""The pitfalls of the talks, streams and ports that our models come from.

For each: a small module that falls into it, and what we do about it. Either no archive is made of
the module, with a message that names the mistake, or every runtime computes the same.
"""

import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import zoo
from torchship.cpp_runner.binary import runner_path
from torchship.script.errors import ExportError, InputError, TorchShipError
from torchship.script.exporting.export import Options, export
from torchship.script.format.nodes import TensorNode, leaves
from torchship.script.format.tree import Flat
from torchship.script.runtime.agreement import check_case
from torchship.script.runtime.archive import Archive
from torchship.script.runtime.program import Program
from torchship.serve.client.client import Client
from torchship.serve.client.local_server import running_server
from torchship.serve.errors import ServerError

Factory = Callable[[], nn.Module]
NO_DIMS: Mapping[str, str] = {}


def examples(*tensors: Tensor) -> list[dict[str, object]]:
    return [{"x": tensor} for tensor in tensors]


def noise(*shapes: tuple[int, ...]) -> list[dict[str, object]]:
    return examples(*(zoo.noise(seed, *shape) for seed, shape in enumerate(shapes)))


def refusal(
    factory: Factory,
    given: object,
    folder: Path,
    options: Options | None = None,
    dims: Mapping[str, str] = NO_DIMS,
) -> str:
    with pytest.raises(ExportError) as caught:
        export(zoo.target(factory, given, dims=dims), folder / "refused.pt", options)
    assert list(folder.iterdir()) == []
    return str(caught.value)


def shapes(archive: Archive) -> tuple[object, object]:
    """The shapes of the one input and the one output."""
    method = archive.require_manifest().methods["forward"]
    (x,), (y,) = leaves(method.inputs[0].value), leaves(method.outputs)
    assert isinstance(x, TensorNode)
    assert isinstance(y, TensorNode)
    return x.shape, y.shape


class Shipped(nn.Module):
    """A module that is in eval mode from the start."""

    def __init__(self) -> None:
        super().__init__()
        self.eval()


# --- batch normalisation in training mode ---


class Normalising(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.layer = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(self.norm(x))
        return y


def normalising() -> nn.Module:
    module = zoo.seeded(Normalising())
    module.norm.running_mean = zoo.noise(1, 3)  # type: ignore[union-attr]
    return module


def in_training() -> nn.Module:
    return normalising().train()


def with_a_norm_in_training() -> nn.Module:
    module = normalising()
    module.get_submodule("norm").train()
    return module


@pytest.mark.parametrize(
    ("factory", "named"), [(in_training, "the module itself"), (with_a_norm_in_training, "norm")]
)
def test_batch_statistics_never_come_into_an_archive(
    factory: Factory, named: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        factory()(zoo.noise(1, 1, 3))
    for rows in (1, 5):
        message = refusal(factory, noise((rows, 3), (2, 3)), tmp_path)
        assert f"the module is in training mode ({named})" in message
        assert "--eval" in message


@pytest.mark.parametrize("factory", [in_training, with_a_norm_in_training])
def test_with_eval_one_row_is_normalised_by_the_running_statistics(
    factory: Factory, tmp_path: Path
) -> None:
    target = zoo.target(factory, noise((1, 3), (4, 3)))
    archive = export(target, tmp_path / "a.pt", Options(eval_mode=True))
    x = zoo.noise(9, 1, 3)
    with torch.no_grad():
        expected = normalising()(x)
    assert torch.equal(archive.program().call("forward", {"x": x})["output"], expected)


# --- channels last, where the length happens to be the number of channels ---


CHANNELS = 4


class ChannelsLast(nn.Module):
    """float32[batch, length, 4]: each channel is normalised over the batch and the length."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", zoo.noise(1, CHANNELS))
        self.register_buffer("deviation", zoo.noise(2, CHANNELS).abs() + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.deviation


class ChannelsSecond(ChannelsLast):
    """The same with torch's layer, which takes [batch, 4, length]."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(CHANNELS, eps=1e-12, affine=False)
        self.norm.running_mean = self.mean
        self.norm.running_var = self.deviation**2

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x)
        return y


def channels_last() -> nn.Module:
    return ChannelsLast().eval()


def channels_second() -> nn.Module:
    return ChannelsSecond().eval()


def test_torchs_batch_norm_reduces_over_other_axes_than_a_channels_last_one() -> None:
    """Without any error when length and channels are equal."""
    x = zoo.noise(3, 5, CHANNELS, CHANNELS)
    torchs = nn.BatchNorm1d(CHANNELS, eps=1e-12, affine=False).train()(x)
    of_second = (x - x.mean((0, 2), keepdim=True)) / x.std((0, 2), correction=0, keepdim=True)
    of_last = (x - x.mean((0, 1))) / x.std((0, 1), correction=0)
    torch.testing.assert_close(torchs, of_second)
    assert float((torchs - of_last).abs().max()) > 0.1
    torch.testing.assert_close(channels_second()(x.mT).mT, channels_last()(x))


def test_another_length_shows_the_wrong_layout(tmp_path: Path) -> None:
    message = refusal(channels_second, noise((2, CHANNELS, CHANNELS), (3, 6, CHANNELS)), tmp_path)
    assert "rejects example 1: RuntimeError: running_mean should contain 6 elements" in message


def test_the_signature_pins_the_channels_to_their_axis(tmp_path: Path) -> None:
    target = zoo.target(channels_last, noise((2, 3, CHANNELS), (3, 6, CHANNELS)))
    archive = export(target, tmp_path / "a.pt")
    assert shapes(archive)[0] == ("batch", "x_1", CHANNELS)
    swapped = zoo.noise(4, 2, CHANNELS, 6)
    expected = r"'x': expected float32\[batch,x_1,4\], got float32\[2,4,6\]"
    with pytest.raises(InputError, match=expected):
        archive.program().call("forward", {"x": swapped})


def test_golden_cases_see_the_wrong_layout_where_no_shape_can(tmp_path: Path) -> None:
    """With length and channels equal, swapped data are welcome, and only numbers tell."""
    target = zoo.target(channels_last, noise((2, CHANNELS, CHANNELS), (3, CHANNELS, CHANNELS)))
    archive = export(target, tmp_path / "a.pt")
    assert shapes(archive)[0] == ("batch", CHANNELS, CHANNELS)
    for module, agree in ((channels_last(), True), (channels_second(), False)):
        program = Program(archive.require_manifest(), module)
        for number, case in enumerate(archive.golden):
            (difference,) = check_case(archive.require_manifest(), number, case, program.call)
            assert difference.agreed is agree, case.name


# --- squeeze() ---


class Squeezing(Shipped):
    def forward(self, x: Tensor) -> Tensor:
        return x.squeeze()


class SqueezingTheAxis(Shipped):
    def forward(self, x: Tensor) -> Tensor:
        return x.squeeze(1)


class Scoring(nn.Module):
    """One score for each row: at one row a number without dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y.squeeze()


def scoring() -> nn.Module:
    return zoo.seeded(Scoring())


@pytest.mark.parametrize("dims", [{}, {"x.0": "batch"}], ids=["unnamed", "batch"])
@pytest.mark.parametrize(
    ("factory", "shape", "alone", "among"),
    [(Squeezing, (1, 3), "[3]", ",3]"), (scoring, (3,), "[]", "]")],
)
def test_a_squeeze_that_takes_the_batch_is_refused_though_no_example_has_one_row(
    factory: Factory,
    shape: tuple[int, ...],
    alone: str,
    among: str,
    dims: dict[str, str],
    tmp_path: Path,
) -> None:
    message = refusal(factory, noise((2, *shape), (4, *shape)), tmp_path, dims=dims)
    symbol = "batch" if dims else "x_0"
    assert f"with {symbol}=1 the output 'output' of forward has the shape {alone}" in message
    assert f"expected [{symbol}{among}, as in the examples; a squeeze() without an axis" in message


class SqueezingTheLength(Shipped):
    """x: float32[batch,time,3] -> float32[batch,time], except when time is 1."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(2).squeeze(1)


def test_a_squeeze_that_takes_another_axis_is_refused_too(tmp_path: Path) -> None:
    examples = noise((2, 4, 3), (4, 5, 3))
    dims = {"x.0": "batch", "x.1": "time"}
    message = refusal(SqueezingTheLength, examples, tmp_path, dims=dims)
    assert "with time=1 the output 'output' of forward has the shape [4]" in message


class SqueezingASquare(Shipped):
    """x: float32[n,n] -> its square, except when n is 1."""

    def forward(self, x: Tensor) -> Tensor:
        return (x @ x).squeeze()


def test_a_squeeze_of_two_axes_of_one_size_is_refused_too(tmp_path: Path) -> None:
    dims = {"x.0": "n", "x.1": "n"}
    message = refusal(SqueezingASquare, noise((2, 2), (4, 4)), tmp_path, dims=dims)
    assert "with n=1 the output 'output' of forward has the shape []" in message


def test_a_squeeze_that_takes_the_batch_contradicts_an_example_of_one_row(tmp_path: Path) -> None:
    message = refusal(Squeezing, noise((1, 1, 3), (4, 1, 3)), tmp_path)
    assert "'output' has other dtypes or ranks from example to example" in message
    assert "float32[3], float32[4, 3]" in message


def test_a_squeeze_that_takes_another_axis_of_any_size_is_refused(tmp_path: Path) -> None:
    message = refusal(Squeezing, noise((2, 5, 3), (4, 6, 3)), tmp_path)
    assert "with x_0=1 the output" in message
    target = zoo.target(Squeezing, noise((2, 5, 3), (2, 6, 3)))
    with pytest.raises(ExportError, match=r"with x_1=1 .* has the shape \[2,3\]: expected \[2,x_1"):
        export(target, tmp_path / "a.pt")


def test_a_squeeze_of_its_axis_keeps_the_batch(tmp_path: Path) -> None:
    archive = export(zoo.target(SqueezingTheAxis, noise((2, 1, 3), (4, 1, 3))), tmp_path / "a.pt")
    assert shapes(archive) == (("batch", 1, 3), ("batch", 3))
    assert "batch 1" in [case.name for case in archive.golden]


# --- what a trace bakes in ---


class BranchingOnRows(Shipped):
    def forward(self, x: Tensor) -> Tensor:
        if x.size(0) > 2:
            return x * 2
        return x + 1


class BakingANumber(Shipped):
    def forward(self, x: Tensor) -> Tensor:
        return x * float(x.abs().max())


class LoopingOverTime(Shipped):
    """A recurrence: the tracer unrolls it without a word, as often as the example is long."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros_like(x[:, 0])
        for t in range(x.size(1)):
            h = torch.tanh(h * 0.5 + x[:, t])
        return h


@pytest.mark.parametrize(
    ("factory", "line"),
    [(BranchingOnRows, "if x.size(0) > 2:"), (BakingANumber, "x * float(x.abs().max())")],
)
def test_a_trace_that_bakes_a_branch_or_a_number_names_the_line(
    factory: Factory, line: str, tmp_path: Path
) -> None:
    given = noise((2, 3), (4, 3))
    message = refusal(factory, given, tmp_path, Options(mode="trace"))
    assert "a trace of the module would not compute the same for other inputs" in message
    number = int(message.split("test_pitfalls.py:")[1].split(",")[0])
    assert line in Path(__file__).read_text().splitlines()[number - 1]
    archive = export(zoo.target(factory, given), tmp_path / "scripted.pt")
    for rows in (1, 2, 3, 5):
        x = zoo.noise(9, rows, 3)
        (came,) = archive.program().call("forward", {"x": x}).values()
        assert torch.equal(came, factory()(x))


def test_a_trace_that_bakes_the_length_is_refused_or_holds_for_that_length(tmp_path: Path) -> None:
    trace = Options(mode="trace")
    message = refusal(LoopingOverTime, noise((2, 4, 3), (2, 6, 3)), tmp_path, trace)
    assert (
        "the compiled module does not agree with eager: golden case 'forward example 1'" in message
    )
    target = zoo.target(LoopingOverTime, noise((2, 4, 3), (3, 4, 3)))
    archive = export(target, tmp_path / "of_one_length.pt", trace)
    with pytest.raises(InputError, match=r"expected float32\[batch,4,3\], got float32\[2,6,3\]"):
        archive.program().call("forward", {"x": zoo.noise(1, 2, 6, 3)})


def test_a_script_loops_as_often_as_the_input_is_long(tmp_path: Path) -> None:
    target = zoo.target(LoopingOverTime, noise((2, 4, 3), (3, 6, 3)))
    archive = export(target, tmp_path / "a.pt")
    for length in (1, 5, 9):
        x = zoo.noise(length, 2, length, 3)
        (came,) = archive.program().call("forward", {"x": x}).values()
        assert torch.equal(came, LoopingOverTime()(x))


# --- exponentials of large numbers ---


class NaiveSoftmax(Shipped):
    """inf / inf above 88, 0 / 0 below -103."""

    def forward(self, x: Tensor) -> Tensor:
        return x.exp() / x.exp().sum(1, keepdim=True)


class NaiveLogSumExp(Shipped):
    def forward(self, x: Tensor) -> Tensor:
        return x.exp().sum(1).log()


class StableLogSumExp(Shipped):
    def forward(self, x: Tensor) -> Tensor:
        largest = x.amax(1, keepdim=True)
        return (x - largest).exp().sum(1).log() + largest.squeeze(1)


def extremes(*values: float) -> list[dict[str, object]]:
    rows = torch.tensor(values)[:, None].expand(-1, 3)
    return [*noise((2, 3), (4, 3)), *examples(rows.contiguous())]


@pytest.mark.parametrize("value", [1000.0, -1000.0])
def test_a_naive_softmax_is_refused_for_its_nan(value: float, tmp_path: Path) -> None:
    message = refusal(NaiveSoftmax, extremes(value), tmp_path)
    assert "golden case 'forward example 2', step 0: output 'output' holds NaN" in message


def test_a_naive_log_sum_exp_is_infinite_and_a_stable_one_is_not(tmp_path: Path) -> None:
    """An infinity is a value like any other, which runtimes agree on: only a look at it helps."""
    given = extremes(1000.0, -1000.0, 0.0)
    naive = export(zoo.target(NaiveLogSumExp, given), tmp_path / "naive.pt")
    assert naive.golden[2].steps[0].outputs["output"][:2].tolist() == [float("inf"), -float("inf")]
    stable = export(zoo.target(StableLogSumExp, given), tmp_path / "stable.pt")
    came = stable.golden[2].steps[0].outputs["output"].double().numpy()
    np.testing.assert_allclose(came, np.array([1000, -1000, 0]) + np.log(3), rtol=1e-6)


# --- in all four runtimes: indices, odd lengths, bytes, halves ---


class Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.table(x)
        return y


class Indexing(Embedding):
    """The same with brackets, where -1 is the last row, as in Python."""

    def forward(self, x: Tensor) -> Tensor:
        return self.table.weight[x]


class FlattenConsecutive(Shipped):
    """float32[batch, length, 3] -> float32[batch, length / 2, 6]."""

    def forward(self, x: Tensor) -> Tensor:
        batch, length, channels = x.shape
        return x.view(batch, length // 2, channels * 2)


class Bytes(Shipped):
    """Arithmetic of bytes that nobody made wider: it wraps. Only a sum is widened by torch."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return x + 1, -x, x[:, :1] - x[:, 1:], x * 2, x.sum(1)


class MeanOfBytes(Shipped):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class Doubling(Shipped):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def embedding() -> nn.Module:
    return zoo.seeded(Embedding())


def indexing() -> nn.Module:
    return zoo.seeded(Indexing())


IDS = examples(torch.tensor([0, 4, 2]), torch.tensor([3, 1]))
BYTES = examples(
    torch.tensor([[255, 1], [0, 7]], dtype=torch.uint8), torch.tensor([[3, 5]], dtype=torch.uint8)
)
HALVES = examples(zoo.noise(1, 2, 3).half(), zoo.noise(2, 4, 3).half())

SERVED: dict[str, tuple[Factory, list[dict[str, object]]]] = {
    "embedding": (embedding, IDS),
    "indexing": (indexing, IDS),
    "pairs": (FlattenConsecutive, noise((2, 4, 3), (3, 8, 3))),
    "bytes": (Bytes, BYTES),
    "halves": (Doubling, HALVES),
    "floats": (Doubling, noise((2, 3), (4, 3))),
}


@dataclass(frozen=True)
class Everywhere:
    """The modules above in eager, script, the C++ binary, and a server."""

    archives: Mapping[str, Archive]
    url: str

    def outputs(self, name: str, inputs: Flat, folder: Path) -> dict[str, Flat]:
        """What each runtime answers; raises what the first one raises."""
        return {runtime: call() for runtime, call in self._calls(name, inputs, folder).items()}

    def refusals(self, name: str, inputs: Flat, folder: Path) -> dict[str, str]:
        """The message with which each runtime refuses; they must all do."""
        messages = {}
        for runtime, call in self._calls(name, inputs, folder).items():
            with pytest.raises(TorchShipError) as caught:
                call()
            if isinstance(caught.value, ServerError):
                assert caught.value.status == 400
            else:
                assert caught.value.exit_code == 4
            messages[runtime] = str(caught.value)
        return messages

    def _calls(self, name: str, inputs: Flat, folder: Path) -> dict[str, Callable[[], Flat]]:
        archive = self.archives[name]
        eager = Program(archive.require_manifest(), SERVED[name][0]())
        signature = archive.require_manifest().methods["forward"]

        def http(binary: bool) -> Flat:
            with Client(self.url) as client:
                return client.infer(name, signature, inputs, binary=binary)

        return {
            "eager": lambda: eager.call("forward", inputs),
            "script": lambda: archive.program().call("forward", inputs),
            "C++": lambda: cpp(archive, inputs, folder),
            "HTTP": lambda: http(True),
            "HTTP, JSON": lambda: http(False),
        }


class CppRefusal(TorchShipError):
    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def cpp(archive: Archive, inputs: Flat, folder: Path, suffix: str = "safetensors") -> Flat:
    """Run the binary on files of one kind."""
    source, result = folder / f"in.{suffix}", folder / f"out.{suffix}"
    if suffix == "safetensors":
        safetensors.torch.save_file(inputs, source)
    elif suffix == "npz":
        np.savez(source, **{name: tensor.numpy() for name, tensor in inputs.items()})  # type: ignore[arg-type]
    else:
        (only,) = inputs.values()
        np.save(source, only.numpy())
    run_cpp(archive, "--input", str(source), "--output", str(result))
    if suffix == "safetensors":
        return dict(safetensors.torch.load_file(result))
    if suffix == "npy":
        return {"output": torch.from_numpy(np.load(result))}
    with np.load(result) as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored.files}


def run_cpp(archive: Archive, *arguments: str, stdin: str = "") -> str:
    done = subprocess.run(
        [str(runner_path()), "run", str(archive.path), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CppRefusal(done.returncode, done.stderr)
    return done.stdout


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Everywhere]:
    folder = tmp_path_factory.mktemp("served")
    archives = {
        name: export(zoo.target(factory, given, name=name), folder / f"{name}.pt")
        for name, (factory, given) in SERVED.items()
    }
    with running_server([archive.path for archive in archives.values()]) as url:
        yield Everywhere(archives, url)


@pytest.mark.parametrize("index", [-1, 5, -6, 2**62])
def test_an_index_outside_of_an_embedding_is_an_error_everywhere(
    index: int, everywhere: Everywhere, tmp_path: Path
) -> None:
    x = torch.tensor([0, index])
    for runtime, message in everywhere.refusals("embedding", {"x": x}, tmp_path).items():
        expected = "model 'embedding' method 'forward' raised: index out of range in self"
        assert expected in message, runtime


def test_an_index_outside_of_an_embedding_is_no_example(tmp_path: Path) -> None:
    given = [*IDS, *examples(torch.tensor([1, -1]))]
    message = refusal(embedding, given, tmp_path)
    assert "rejects example 2: IndexError: index out of range in self" in message


def test_an_index_in_brackets_counts_from_the_end_as_in_python(
    everywhere: Everywhere, tmp_path: Path
) -> None:
    """The module says so, and no runtime may think otherwise; beyond the end is an error."""
    rows = indexing().get_submodule("table").weight
    assert isinstance(rows, Tensor)
    outputs = everywhere.outputs("indexing", {"x": torch.tensor([-1, 0])}, tmp_path)
    for runtime, flat in outputs.items():
        assert torch.equal(flat["output"], rows[[4, 0]]), runtime
    refusals = everywhere.refusals("indexing", {"x": torch.tensor([-6])}, tmp_path)
    for runtime, message in refusals.items():
        assert "index -6 is out of bounds for dimension 0 with size 5" in message, runtime


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_indices_of_another_dtype_are_refused_everywhere(
    dtype: str, everywhere: Everywhere, tmp_path: Path
) -> None:
    x = torch.tensor([0, 1], dtype=getattr(torch, dtype))
    for runtime, message in everywhere.refusals("embedding", {"x": x}, tmp_path).items():
        assert f"input 'x': expected int64[batch], got {dtype}[2]" in message, runtime


@pytest.mark.parametrize("number", ["0.5", "1.0"])
def test_indices_that_json_spells_as_floats_are_refused(
    number: str, everywhere: Everywhere
) -> None:
    with pytest.raises(CppRefusal, match=f"input 'x': expected int64, got {number}") as caught:
        archive = everywhere.archives["embedding"]
        run_cpp(archive, "--input", "-", stdin=f'{{"x": [0, {number}]}}')
    assert caught.value.exit_code == 4
    body = f'{{"inputs": [{{"name": "x", "datatype": "INT64", "shape": [1], "data": [{number}]}}]}}'
    with httpx.Client(trust_env=False) as client:
        answer = client.post(f"{everywhere.url}/v2/models/embedding/infer", content=body)
    assert answer.status_code == 400
    assert answer.json() == {"error": f"input 'x': expected INT64 values, got {number}"}


def test_an_odd_length_that_cannot_be_paired_is_named_with_its_sizes(
    everywhere: Everywhere, tmp_path: Path
) -> None:
    refusals = everywhere.refusals("pairs", {"x": zoo.noise(1, 2, 5, 3)}, tmp_path)
    for runtime, message in refusals.items():
        assert "raised: shape '[2, 2, 6]' is invalid for input of size 30" in message, runtime
    with pytest.raises(ExportError, match=r"rejects example 1: .*shape '\[2, 2, 6\]' is"):
        export(zoo.target(FlattenConsecutive, noise((2, 4, 3), (2, 5, 3))), tmp_path / "refused.pt")


def test_bytes_wrap_alike_everywhere(everywhere: Everywhere, tmp_path: Path) -> None:
    x = torch.tensor([[255, 1], [3, 5], [128, 0]], dtype=torch.uint8)
    expected = [
        [[0, 2], [4, 6], [129, 1]],
        [[1, 255], [253, 251], [128, 0]],
        [[254], [254], [128]],
        [[254, 2], [6, 10], [0, 0]],
        [256, 8, 128],
    ]
    for runtime, flat in everywhere.outputs("bytes", {"x": x}, tmp_path).items():
        assert [flat[f"output.{n}"].tolist() for n in range(5)] == expected, runtime
        dtypes = [str(flat[f"output.{n}"].dtype) for n in range(5)]
        assert dtypes == ["torch.uint8"] * 4 + ["torch.int64"], runtime


def test_a_mean_of_bytes_that_nobody_made_wider_is_refused(tmp_path: Path) -> None:
    message = refusal(MeanOfBytes, BYTES, tmp_path)
    assert "rejects example 0: RuntimeError: mean(): could not infer output dtype" in message
    assert "Byte" in message


@pytest.mark.parametrize("value", [-1, 256, 1.5])
def test_a_number_that_is_no_byte_is_refused_and_not_wrapped(
    value: float, everywhere: Everywhere
) -> None:
    with pytest.raises(CppRefusal, match=r"input 'x': expected uint8") as caught:
        archive = everywhere.archives["bytes"]
        run_cpp(archive, "--input", "-", stdin=f'{{"x": [[0, {value}]]}}')
    assert caught.value.exit_code == 4
    inputs = {"name": "x", "datatype": "UINT8", "shape": [1, 2], "data": [0, value]}
    with httpx.Client(trust_env=False) as client:
        answer = client.post(f"{everywhere.url}/v2/models/bytes/infer", json={"inputs": [inputs]})
    assert answer.status_code == 400
    assert re.fullmatch(
        rf"input 'x': expected UINT8 values( from 0 to 255)?, got {value}", answer.json()["error"]
    )


def test_halves_stay_halves_everywhere(everywhere: Everywhere, tmp_path: Path) -> None:
    """65504 is the largest; twice that is infinite, and not 131008 as in a wider dtype."""
    x = torch.tensor([[65504.0, 1e-7, -3.14]]).half()
    expected = torch.tensor([[float("inf"), 2.3841858e-07, -6.28125]]).half()
    for runtime, flat in everywhere.outputs("halves", {"x": x}, tmp_path).items():
        assert flat["output"].dtype == torch.float16, runtime
        assert torch.equal(flat["output"], expected), runtime


@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors"])
def test_halves_stay_halves_in_every_file(
    suffix: str, everywhere: Everywhere, tmp_path: Path
) -> None:
    x = zoo.noise(5, 2, 3).half()
    came = cpp(everywhere.archives["halves"], {"x": x}, tmp_path, suffix)["output"]
    assert came.dtype == torch.float16
    assert torch.equal(came, x * 2)
    with pytest.raises(CppRefusal, match=r"expected float32\[batch,3\], got float16\[2,3\]"):
        cpp(everywhere.archives["floats"], {"x": x}, tmp_path, suffix)


def test_halves_for_floats_and_floats_for_halves_are_refused_everywhere(
    everywhere: Everywhere, tmp_path: Path
) -> None:
    x = zoo.noise(5, 2, 3)
    for name, given, expected in (("floats", x.half(), "float32"), ("halves", x, "float16")):
        came = "float16" if expected == "float32" else "float32"
        for runtime, message in everywhere.refusals(name, {"x": given}, tmp_path).items():
            text = f"input 'x': expected {expected}[batch,3], got {came}[2,3]"
            assert text in message, runtime
