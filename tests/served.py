"""Hand-made archives, each of which can be wrong in its own way, and a real server."""

import fcntl
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ports import held_port
from torchship.script.format.golden import Case, Step, run_case
from torchship.script.format.manifest import (
    Argument,
    GoldenEntry,
    Manifest,
    Method,
    Source,
    State,
    Tolerance,
)
from torchship.script.format.nodes import (
    DictNode,
    ListNode,
    Node,
    OptionalNode,
    ScalarNode,
    TensorNode,
    TupleNode,
    leaves,
)
from torchship.script.format.tree import Flat, string_to_tensor
from torchship.script.runtime import torchscript, torchscript_file
from torchship.script.runtime.archive import open_archive, pack
from torchship.script.runtime.program import Program
from torchship.serve.client.local_server import stop

psutil: Any = import_module("psutil")  # it has no types


class Tiny(nn.Module):
    """obs: uint8[batch,510] -> logits: float32[batch,3]; act gives the largest one's index."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(510, 3)
        with torch.no_grad():
            for parameter in self.parameters():
                generator = torch.Generator().manual_seed(parameter.numel())
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 30)

    def forward(self, obs: Tensor) -> Tensor:
        logits: Tensor = self.layer(obs.float() / 255)
        return logits

    @torch.jit.export
    def act(self, obs: Tensor) -> Tensor:
        return self.forward(obs).argmax(1)


class Nested(nn.Module):
    """Takes every kind of argument there is; gives a dict of what it made of them."""

    def forward(
        self,
        pair: tuple[Tensor, Tensor],
        named: dict[str, Tensor],
        many: list[Tensor],
        text: str,
        scale: float,
        times: int,
        flag: bool = False,
        bias: Tensor | None = None,
    ) -> dict[str, Tensor]:
        total = pair[0] + pair[1] * scale + named["left"] * times
        for item in many:
            total = total + item
        if bias is not None:
            total = total + bias
        if flag:
            total = -total
        return {"total": total, "greets": torch.tensor([text == "grüße"])}


class Exact(nn.Module):
    """Gives back what it was given, of five dtypes, and a sum without dimensions."""

    def forward(
        self, f: Tensor, d: Tensor, i: Tensor, u: Tensor, b: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        return f.clone(), d.clone(), i.clone(), u.clone(), b.clone(), f.sum()


class Every(nn.Module):
    """A tensor of each dtype that `Exact` has not, unchanged."""

    def forward(
        self, h: Tensor, a: Tensor, s: Tensor, i: Tensor, us: Tensor, ui: Tensor, ul: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        return h.clone(), a.clone(), s.clone(), i.clone(), us.clone(), ui.clone(), ul.clone()


class Half(nn.Module):
    """x: bfloat16[n] -> twice that, and as float32."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x + x, x.float()


class Logarithm(nn.Module):
    """x: float32[n] -> log(x), NaN below zero; refuses a sum over 100."""

    def forward(self, x: Tensor) -> Tensor:
        if bool(x.sum() > 100):
            raise ValueError("the sum is over 100")
        return x.log()


class Memory(nn.Module):
    """A recurrent sum: x, h: float32[batch,2] -> y, h."""

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = h * 0.5 + x
        return h.tanh(), h


class Slow(nn.Module):
    """Takes a number of rounds."""

    def forward(self, rounds: int) -> Tensor:
        x = torch.ones(8, 8)
        for _ in range(rounds):
            x = torch.tanh(x @ x)
        return x.sum()


class Lasting(nn.Module):
    """Takes a number of rounds, and counts them: h: float32[1] -> h."""

    def forward(self, rounds: int, h: Tensor) -> Tensor:
        x = torch.ones(8, 8)
        for _ in range(rounds):
            x = torch.tanh(x @ x)
        return h + rounds


class Held(nn.Module):
    """x: float32[batch,1] -> twice that; takes as many rounds as the largest says."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.ones(8, 8)
        for _ in range(int(x.max())):
            y = torch.tanh(y @ y)
        return x * 2


class Positive(nn.Module):
    """x: float32[batch,1] -> twice the rows above 0, against its signature."""

    def forward(self, x: Tensor) -> Tensor:
        return x[x[:, 0] > 0] * 2


class Loud(nn.Module):
    """x: float32[batch,1] -> twice that; complains in 2 MiB of three rows."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] > 2:
            said = "x"
            for _ in range(21):
                said = said + said
            raise ValueError(said)
        return x * 2


class Wide(nn.Module):
    """x: float32[batch,2] -> float32[batch,4]; has 8 MB of weights."""

    weights: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", torch.arange(1 << 21).float() / (1 << 21))

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat(1, 2) * self.weights.sum()


TEMPORARY = 4 << 20  # bytes; of `Roomy`


class Roomy(nn.Module):
    """x: float32[batch,1] -> float32[batch,1], x + 7; has temporaries of 4 MiB, several at once."""

    def forward(self, x: Tensor) -> Tensor:
        ones = x.new_ones(1 << 20)
        twos = ones + 1
        fours = twos * 2
        return x + (ones + twos + fours).mean()


class Layered(nn.Module):
    """A recurrent sum of two layers: x: float32[batch,3], h: float32[2,batch,3] -> y, h."""

    def forward(self, x: Tensor, h: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        first = h[0] * 0.5 + x * scale
        second = h[1] * 0.25 + first
        return second.sum(1), torch.stack([first, second])


class Endless(nn.Module):
    """x: float32[batch,1] -> twice that; never ends for a value below 0."""

    def forward(self, x: Tensor) -> Tensor:
        y = x
        while bool((y < 0).any()):
            y = y * 1.0
        return x * 2


class Announced(nn.Module):
    """x: float32[batch,1] -> twice that; for a value below 0 it prints so and never ends."""

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if bool((y < 0).any()):
            print("a call that never ends")
        while bool((y < 0).any()):
            y = y * 1.0
        return x * 2


class Stalled(nn.Module):
    """x: float32[batch,1] -> twice that; as a script it never ends."""

    def forward(self, x: Tensor) -> Tensor:
        y = x
        while torch.jit.is_scripting() and bool((y > 0).any()):  # type: ignore[attr-defined]
            y = y * 1.0
        return x * 2


class Picky(nn.Module):
    """x: float32[batch,1] -> twice that; refuses values over 100, and has spoilt x by then."""

    def forward(self, x: Tensor) -> Tensor:
        if bool((x > 100).any()):
            x.mul_(-1).unsqueeze_(0)
            raise ValueError("a value is over 100")
        return x * 2


class Rationed(nn.Module):
    """x: float32[batch,1] -> twice that; refuses a sum over 100."""

    def forward(self, x: Tensor) -> Tensor:
        if bool(x.sum() > 100):
            raise ValueError("the sum is over 100")
        return x * 2


class Reshaped(nn.Module):
    """x: float32[batch,1] -> twice that; against its signature, flat above 100, int above 200."""

    def forward(self, x: Tensor) -> Tensor:
        if bool((x > 200).any()):
            return (x * 2).long()
        if bool((x > 100).any()):
            return (x * 2).flatten()
        return x * 2


class Talkative(nn.Module):
    """Prints its text, and then its text without its first byte; takes its time for "slowly"."""

    def forward(self, text: str) -> Tensor:
        print(text)
        print(text[1:])
        y = torch.ones(8, 8)
        if text == "slowly":
            for _ in range(400_000):
                y = torch.tanh(y @ y)
        return torch.ones(1)


class Spread(nn.Module):
    """x: float32[n] -> log(x), 64 times over."""

    def forward(self, x: Tensor) -> Tensor:
        return x.log().repeat(64)


@dataclass(frozen=True)
class Model:
    """What an archive is made of."""

    module: nn.Module
    methods: dict[str, Method]
    cases: Sequence[Case]


def tensor(name: str, dtype: str, *shape: int | str | None) -> TensorNode:
    return TensorNode(name=name, dtype=dtype, shape=shape)


def needs(value: Node, name: str = "", required: bool = True) -> Argument:
    name = name or next(leaves(value)).name
    return Argument(name=name, required=required, value=value)


def method(inputs: Sequence[Argument], outputs: Node, state: Sequence[State] = ()) -> Method:
    tolerances = {leaf.name: Tolerance(atol=1e-5, rtol=1.3e-6) for leaf in leaves(outputs)}
    return Method(inputs=tuple(inputs), outputs=outputs, state=tuple(state), tolerances=tolerances)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


def once(inputs: Flat, name: str = "forward") -> Case:
    return Case(f"{name}, one step", name, (Step(inputs),))


def _tiny() -> Model:
    obs = needs(tensor("obs", "uint8", "batch", 510))
    rows = torch.arange(2 * 510).reshape(2, 510).to(torch.uint8)
    return Model(
        Tiny().eval(),
        {
            "forward": method([obs], tensor("logits", "float32", "batch", 3)),
            "act": method([obs], tensor("action", "int64", "batch")),
        },
        [once({"obs": rows}), once({"obs": rows[:1]}), once({"obs": rows}, "act")],
    )


def _nested() -> Model:
    row = ("float32", "n")
    pair = TupleNode(items=(tensor("pair.0", *row), tensor("pair.1", *row)))
    named = DictNode(keys=("left",), items=(tensor("named.left", *row),))
    many = ListNode(element=tensor("many.*", *row))
    outputs = DictNode(
        keys=("total", "greets"), items=(tensor("total", *row), tensor("greets", "bool", 1))
    )
    inputs: Flat = {name: noise(3) for name in ("pair.0", "pair.1", "named.left", "many.0")}
    inputs |= {"text": string_to_tensor("grüße"), "times": torch.tensor(3)}
    inputs |= {"scale": torch.tensor(0.1, dtype=torch.float64)}
    return Model(
        Nested(),
        {
            "forward": method(
                [
                    needs(pair, "pair"),
                    needs(named, "named"),
                    needs(many, "many"),
                    needs(ScalarNode(kind="str", name="text")),
                    needs(ScalarNode(kind="float", name="scale")),
                    needs(ScalarNode(kind="int", name="times")),
                    needs(ScalarNode(kind="bool", name="flag"), required=False),
                    needs(OptionalNode(item=tensor("bias", *row)), required=False),
                ],
                outputs,
            )
        },
        [once(inputs), once(inputs | {"flag": torch.tensor(True), "bias": noise(3)})],
    )


def _exact() -> Model:
    dtypes = {"f": "float32", "d": "float64", "i": "int64", "u": "uint8", "b": "bool"}
    inputs: Flat = {name: noise(2).to(getattr(torch, dtype)) for name, dtype in dtypes.items()}
    same = [tensor(f"{name}_out", dtype, "n") for name, dtype in dtypes.items()]
    outputs = TupleNode(items=(*same, tensor("total", "float32")))
    arguments = [needs(tensor(name, dtype, "n")) for name, dtype in dtypes.items()]
    return Model(Exact(), {"forward": method(arguments, outputs)}, [once(inputs)])


def _every() -> Model:
    dtypes = {
        "h": "float16", "a": "int8", "s": "int16", "i": "int32",
        "us": "uint16", "ui": "uint32", "ul": "uint64",
    }  # fmt: skip
    inputs: Flat = {
        name: torch.arange(3).to(getattr(torch, dtype)) for name, dtype in dtypes.items()
    }
    outputs = TupleNode(
        items=tuple(tensor(f"{name}_out", dtype, "n") for name, dtype in dtypes.items())
    )
    arguments = [needs(tensor(name, dtype, "n")) for name, dtype in dtypes.items()]
    return Model(Every(), {"forward": method(arguments, outputs)}, [once(inputs)])


def _half() -> Model:
    outputs = TupleNode(items=(tensor("double", "bfloat16", "n"), tensor("wide", "float32", "n")))
    inputs = {"x": noise(4).bfloat16()}
    arguments = [needs(tensor("x", "bfloat16", "n"))]
    return Model(Half(), {"forward": method(arguments, outputs)}, [once(inputs)])


def _logarithm() -> Model:
    signature = method([needs(tensor("x", "float32", "n"))], tensor("output", "float32", "n"))
    return Model(Logarithm(), {"forward": signature}, [once({"x": noise(5).abs() + 0.1})])


def _memory() -> Model:
    row = ("float32", "batch", 2)
    signature = method(
        [needs(tensor("x", *row)), needs(tensor("h", *row))],
        TupleNode(items=(tensor("y", *row), tensor("h", *row))),
        [State(input="h", output="h", start="zeros")],
    )
    steps = tuple(Step({"x": noise(2, 2) * number}) for number in (1, 2, 3))
    return Model(Memory(), {"forward": signature}, [Case("three steps", "forward", steps)])


def _slow() -> Model:
    signature = method([needs(ScalarNode(kind="int", name="rounds"))], tensor("output", "float32"))
    return Model(Slow(), {"forward": signature}, [once({"rounds": torch.tensor(2)})])


def _lasting() -> Model:
    h = tensor("h", "float32", 1)
    signature = method(
        [needs(ScalarNode(kind="int", name="rounds")), needs(h)],
        h,
        [State(input="h", output="h", start="zeros")],
    )
    return Model(
        Lasting(), {"forward": signature}, [once({"rounds": torch.tensor(2), "h": torch.zeros(1)})]
    )


def _wide() -> Model:
    signature = method(
        [needs(tensor("x", "float32", "batch", 2))], tensor("output", "float32", "batch", 4)
    )
    return Model(Wide(), {"forward": signature}, [once({"x": noise(1, 2)})])


def _column(module: nn.Module) -> Model:
    signature = method(
        [needs(tensor("x", "float32", "batch", 1))], tensor("y", "float32", "batch", 1)
    )
    return Model(module, {"forward": signature}, [once({"x": torch.ones(2, 1)})])


def _layered() -> Model:
    h = tensor("h", "float32", 2, "batch", 3)
    signature = method(
        [
            needs(tensor("x", "float32", "batch", 3)),
            needs(h),
            needs(ScalarNode(kind="float", name="scale")),
        ],
        TupleNode(items=(tensor("y", "float32", "batch"), h)),
        [State(input="h", output="h", start="zeros")],
    )
    scale = torch.tensor(0.5, dtype=torch.float64)
    steps = tuple(Step({"x": noise(2, 3) * number, "scale": scale}) for number in (1, 2))
    return Model(Layered(), {"forward": signature}, [Case("two steps", "forward", steps)])


def _spread() -> Model:
    signature = method([needs(tensor("x", "float32", "n"))], tensor("output", "float32", "m"))
    return Model(Spread(), {"forward": signature}, [once({"x": noise(5).abs() + 0.1})])


def _held() -> Model:
    return _column(Held())


def _positive() -> Model:
    return _column(Positive())


def _loud() -> Model:
    return _column(Loud())


MODELS = {
    "tiny": _tiny,
    "nested": _nested,
    "exact": _exact,
    "half": _half,
    "logarithm": _logarithm,
    "memory": _memory,
    "slow": _slow,
    "every": _every,
}


def _talkative(text: str) -> Model:
    signature = method([needs(ScalarNode(kind="str", name="text"))], tensor("y", "float32", 1))
    case = once({"text": string_to_tensor(text)})
    return Model(Talkative(), {"forward": signature}, [case])


MORE = {
    "talkative": lambda: _talkative("hello"),
    "slowly": lambda: _talkative("slowly"),  # for tests of their own
    "wide": _wide,
    "lasting": _lasting,
    "held": _held,
    "positive": _positive,
    "loud": _loud,
    "roomy": lambda: _column(Roomy()),
    "layered": _layered,
    "endless": lambda: _column(Endless()),
    "announced": lambda: _column(Announced()),
    "stalled": lambda: _column(Stalled()),
    "picky": lambda: _column(Picky()),
    "rationed": lambda: _column(Rationed()),
    "reshaped": lambda: _column(Reshaped()),
    "spread": _spread,
}

Edit = Callable[[Flat], Flat]
MakeArchive = Callable[..., Path]


def make(
    folder: Path,
    name: str,
    version: str = "1",
    file: str = "",
    edit: Edit = lambda outputs: outputs,
    golden: bool = True,
) -> Path:
    """Write an archive of one of the models above; `edit` changes its golden outputs."""
    path = folder / (file or f"{name}-{version}.pt")
    write(path, (MODELS | MORE)[name](), name, version, edit, golden)
    return path


def write(
    path: Path,
    model: Model,
    name: str,
    version: str = "1",
    edit: Edit = lambda outputs: outputs,
    golden: bool = True,
) -> None:
    """Write an archive that promises what `model` does, whether it keeps to it or not."""
    cases = model.cases if golden else []
    manifest = Manifest(
        name=name,
        version=version,
        source=Source(factory="served:make"),
        torch=torch.__version__,
        mode="script",
        parameters=sum(parameter.numel() for parameter in model.module.parameters()),
        methods=model.methods,
        golden=tuple(
            GoldenEntry(name=case.name, method=case.method, steps=len(case.steps)) for case in cases
        ),
    )
    program = Program(manifest, model.module)
    proved = []
    for case in cases:
        outputs = run_case(program.call, model.methods[case.method], case)
        steps = zip(case.steps, outputs, strict=True)
        made = tuple(
            Step(step.inputs, edit({name: value.clone() for name, value in flat.items()}))
            for step, flat in steps
        )
        proved.append(Case(case.name, case.method, made))
    script = torchscript_file.save(torchscript.compile_module(model.module, "script", {}))
    path.write_bytes(pack(script, manifest, proved))


@pytest.fixture
def make_archive(tmp_path: Path) -> MakeArchive:
    """Return `make` into the test's own folder."""

    def made(name: str, **said: object) -> Path:
        return make(tmp_path, name, **said)  # type: ignore[arg-type]

    return made


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return an archive of each model."""
    folder = tmp_path_factory.mktemp("archives")
    return {name: make(folder, name) for name in MODELS}


@dataclass
class Process:
    """A server: its supervisor's process, its lines as they come, and its address."""

    popen: subprocess.Popen[str]
    url: str = ""
    grpc: str = ""
    """Where it listens for gRPC, if it does: `HOST:PORT`."""

    def line(self) -> str:
        """Wait for the next line of stdout."""
        assert self.popen.stdout is not None
        return self.popen.stdout.readline().rstrip("\n")

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, 60)

    def below(self) -> list[Any]:
        """Return all processes that the server has started, as `psutil.Process`."""
        return list(psutil.Process(self.popen.pid).children(recursive=True))

    def workers(self) -> list[Any]:
        """Return the processes that have the models, as `psutil.Process`."""
        return [process for process in self.below() if process.name().startswith("torchship-w")]

    def worker(self) -> Any:
        """Return the process that has the models, of a server with one."""
        (worker,) = self.workers()
        return worker

    def peak(self) -> int:
        """Return the most memory that the worker ever had, in bytes."""
        with open(f"/proc/{self.worker().pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) << 10

    def stderr(self, awaited: str = "") -> str:
        """Return what stands on standard error, once `awaited` is among it or all has ended.

        A line is written a moment after what it tells of.
        """
        assert self.popen.stderr is not None
        end = time.monotonic() + 60
        while True:
            over = self.popen.poll() is not None or time.monotonic() > end
            self.popen.stderr.seek(0)
            said = self.popen.stderr.read()
            if awaited in said or over:
                return said


Launch = Callable[..., AbstractContextManager[Process]]


@contextmanager
def launched(*arguments: object, environment: Mapping[str, str] | None = None) -> Iterator[Process]:
    """Run `torchship serve` on a free port; yield it once it listens, loaded or not."""
    command = [sys.executable, "-m", "torchship", "serve", "--port", "0", *map(str, arguments)]
    with tempfile.TemporaryFile("a+") as errors:
        # Reading moves the place that the server's processes share: they are to write at the end.
        fcntl.fcntl(errors, fcntl.F_SETFL, fcntl.fcntl(errors, fcntl.F_GETFL) | os.O_APPEND)
        popen = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )
        popen.stderr = errors
        process = Process(popen)
        try:
            process.url = process.line().removeprefix("listening on ")
            if "--grpc-port" in command:
                process.grpc = process.line().removeprefix("listening on ").partition("://")[2]
            yield process
        finally:
            stop(popen)


@pytest.fixture
def own_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a server take the log of this process, which is given back afterwards."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging.getLogger(), "level", logging.WARNING)


@pytest.fixture
def free_port() -> Iterator[int]:
    """Return a port that nobody else gets while the test runs."""
    with held_port() as port:
        yield port


@pytest.fixture(scope="session")
def make_in() -> MakeArchive:
    """Return `make`, which takes a folder first."""
    return make


@pytest.fixture(scope="session")
def launch() -> Launch:
    """Return `launched`."""
    return launched


@pytest.fixture(scope="module")
def server(archives: dict[str, Path]) -> Iterator[Process]:
    """Return a server of every model, and of a second version of one."""
    with tempfile.TemporaryDirectory() as folder:
        newer = [make(Path(folder), "tiny", version) for version in ("9", "10")]
        with launched("--max-body-bytes", 1 << 20, *archives.values(), *newer) as process:
            assert process.line().startswith("ready: tiny/1, nested/1, ")
            yield process


@pytest.fixture(scope="module")
def reference(archives: dict[str, Path]) -> Callable[..., Flat]:
    """Return the loaded archive's own answer to numpy inputs, without a server."""

    def answered(name: str, **inputs: np.ndarray[Any, Any]) -> Flat:
        flat = {key: torch.from_numpy(value).clone() for key, value in inputs.items()}
        return open_archive(archives[name]).program().call("forward", flat)

    return answered
