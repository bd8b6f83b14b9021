"""The numbers inside another program: lazy signs, the caller's memory, the floating-point mode."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

import c_abi
import host_zoo
import zoo
from c_abi import Array, Session, given, room, taken
from torchship.cpp_runner.binary import runner_path
from torchship.script.exporting.export import export
from torchship.script.runtime import torchscript_file
from torchship.script.runtime.archive import open_archive, pack

TARGETS = {
    "minus": host_zoo.minus_target,
    "handing": host_zoo.handing_target,
    "clamping": host_zoo.clamping_target,
    "subnormal": host_zoo.subnormal_target,
    "wide": host_zoo.wide_target,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("archives")
    for name, target in TARGETS.items():
        export(target(), made / f"{name}.pt")
    plain = open_archive(made / "minus.pt")
    with warnings.catch_warnings():
        for category in zoo.TORCHSCRIPT_NOTICE:
            warnings.simplefilter("ignore", category)
        script = torchscript_file.save(torch.jit.script(host_zoo.Negating().eval()))
    (made / "negating.pt").write_bytes(pack(script, plain.require_manifest(), plain.golden))
    return made


def column(*values: float) -> Array:
    return np.array(values, np.float32)[:, None]


def run(folder: Path, name: str, *arguments: object, stdin: str = "") -> str:
    command = [str(runner_path()), "run", str(folder / f"{name}.pt"), *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=True)
    return done.stdout


# ---- Lazy signs, and tensors that are not the model's to give away -------------------------------


@pytest.mark.parametrize("rows", [(5.0,), (5.0, -3.0)])
def test_a_sign_that_was_left_for_later_is_in_the_memory(
    rows: tuple[float, ...], folder: Path
) -> None:
    x, minus = column(*rows), -column(*rows)
    session = Session(c_abi.Archive(folder / "negating.pt"))
    assert np.array_equal(session.run({"x": x, "h": 0 * x})["y"], minus)
    first = session.step({"x": x})
    assert np.array_equal(first["h"], minus)
    state = safetensors.numpy.load(session.save_state())
    assert np.array_equal(state["h"], minus)
    y, h = np.zeros_like(x), np.zeros_like(x)
    session.fill("step", {"x": x}, [room("y", y), room("h", h)])
    assert np.array_equal(y, minus)
    assert np.array_equal(h, np.zeros_like(x))
    session.load_state(safetensors.numpy.save({"h": x}))
    assert np.array_equal(session.step({"x": x})["h"], 2 * minus)


def test_the_runner_writes_what_the_memory_means(folder: Path, tmp_path: Path) -> None:
    line = json.dumps({"x": [[5.0]]})
    assert json.loads(run(folder, "negating", "--input", "-", stdin=line))["y"] == [[-5.0]]
    np.savez(tmp_path / "in.npz", x=column(5))
    for file in ("out.npz", "out.npy", "out.safetensors"):
        run(folder, "negating", "--input", tmp_path / "in.npz", "--output", tmp_path / file)
    assert np.load(tmp_path / "out.npz")["y"] == -5
    assert np.load(tmp_path / "out.npy") == -5
    assert safetensors.numpy.load_file(tmp_path / "out.safetensors")["y"] == -5


@pytest.mark.parametrize("name", ["negating", "handing", "clamping"])
def test_golden_cases_agree(name: str, folder: Path) -> None:
    c_abi.Archive(folder / f"{name}.pt").verify()


def test_outputs_lie_in_memory_of_their_own(folder: Path) -> None:
    session = Session(c_abi.Archive(folder / "handing.pt"))
    x = np.ones((2, 3), np.float32)
    lent = session.lent("run", [given("x", x)])
    places = {tensor.name: tensor.data for tensor in lent} | {b"input": x.ctypes.data}
    assert len(set(places.values())) == 5
    # Whoever writes to an output that he was lent changes no weight.
    by_name = {tensor.name: taken(tensor) for tensor in lent}
    log_std = by_name[b"log_std"]
    ctypes.memset(log_std.ctypes.data, 0, log_std.nbytes)
    assert session.run({"x": x})["log_std"].tolist() == [0.5, -1.0, 2.0]


# ---- The caller's memory -------------------------------------------------------------------------


def test_a_model_that_overwrites_its_input_leaves_the_callers_array(folder: Path) -> None:
    session = Session(c_abi.Archive(folder / "clamping.pt"))
    x = np.array([[500.0, 1, -500]], np.float32)
    h = np.array([[900.0, 1, -900]], np.float32)
    kept_x, kept_h = x.copy(), h.copy()
    outputs = session.run({"x": x, "h": h})
    assert outputs["y"].tolist() == [[100, 1, -100]]
    assert outputs["h"].tolist() == [[200, 2, -200]]
    session.step({"x": x, "h": h})
    filled = np.zeros_like(x)
    session.fill("run", {"x": x, "h": h}, [room("y", filled)])
    assert np.array_equal(x, kept_x)
    assert np.array_equal(h, kept_h)


def test_a_model_that_overwrites_its_state_leaves_what_was_lent(folder: Path) -> None:
    session = Session(c_abi.Archive(folder / "clamping.pt"))
    x = np.array([[90.0, 1, -90]], np.float32)
    session.step({"x": x})
    before = session.save_state()
    session.step({"x": x})
    lent = {tensor.name: tensor for tensor in session.lent("step", [given("x", x)])}
    view = taken(lent[b"h"])
    kept = view.copy()
    assert float(kept.max()) > 100
    # A step that fails after the model ran leaves the state as it was.
    saved = session.save_state()
    wrong = np.zeros((7, 7), np.float32)
    with pytest.raises(c_abi.Failure):
        session.fill("step", {"x": x}, [room("y", wrong)])
    assert session.save_state() == saved
    assert np.array_equal(view, kept)
    session.load_state(before)


# ---- The floating-point mode ---------------------------------------------------------------------

SSE_FLUSH, SSE_UP, SSE_DOWN, SSE_TRUNCATE = 0x8040, 0x4000, 0x2000, 0x6000
SSE_MASKS = 0x1F80
UNTRAPPED = 0x1F80
MODES = {
    "flush subnormal numbers": UNTRAPPED | SSE_FLUSH,
    "round up": UNTRAPPED | SSE_UP,
    "round down": UNTRAPPED | SSE_DOWN,
    "truncate": UNTRAPPED | SSE_TRUNCATE,
    "trap": UNTRAPPED & ~(0x0080 | 0x0200 | 0x0400),  # invalid, division by zero, overflow
    "flags": UNTRAPPED | 0x0001,
}
libm = ctypes.PyDLL(None)


def environment() -> ctypes.Array[ctypes.c_char]:
    memory = ctypes.create_string_buffer(64)
    libm.fegetenv(memory)
    return memory


def mxcsr(memory: ctypes.Array[ctypes.c_char]) -> int:
    return int.from_bytes(memory.raw[28:32], "little")


@contextmanager
def mode(name: str) -> Iterator[int]:
    """Have this thread compute in a mode, as the program around the library does."""
    before = environment()
    wanted = MODES[name]
    changed = ctypes.create_string_buffer(
        before.raw[:28] + wanted.to_bytes(4, "little") + before.raw[32:], 64
    )
    libm.fesetenv(changed)
    try:
        yield wanted
    finally:
        libm.fesetenv(before)


@pytest.mark.parametrize("name", MODES)
def test_the_callers_mode_changes_no_number_and_stays(name: str, folder: Path) -> None:
    archive = c_abi.Archive(folder / "subnormal.pt")
    session = Session(archive)
    x = np.ascontiguousarray(open_archive(folder / "subnormal.pt").golden[0].steps[0].inputs["x"])
    expected = session.run({"x": x})
    assert 0 < abs(expected["small"]).min() < 1e-37
    inputs = [given("x", x)]
    with mode(name) as wanted:
        lent = session.lent("run", inputs)
        after = mxcsr(environment())
        c_abi.check(c_abi.library().torchship_archive_verify(archive.handle))
        verified = mxcsr(environment())
    for tensor in lent:
        assert taken(tensor).tobytes() == expected[tensor.name.decode()].tobytes(), tensor.name
    control = 0xFFC0
    assert after & control == verified & control == wanted & control


@pytest.mark.parametrize("name", MODES)
def test_python_computes_in_the_default_mode(name: str, folder: Path) -> None:
    archive = open_archive(folder / "subnormal.pt")
    program = archive.program()
    inputs = archive.golden[0].steps[0].inputs
    expected = archive.golden[0].steps[0].outputs
    with mode(name) as wanted:
        outputs = program.call("forward", inputs)
        after = mxcsr(environment())
    assert after & 0xFFC0 == wanted & 0xFFC0
    for output, golden in expected.items():
        assert torch.equal(outputs[output], golden), output


def test_an_archive_is_opened_in_the_default_mode(folder: Path) -> None:
    with mode("truncate"):
        archive = c_abi.Archive(folder / "subnormal.pt")
    archive.verify()


WORKERS = """
import ctypes, sys
import numpy as np, torch
sys.path[:0] = {path!r}
from pathlib import Path
import c_abi
from torchship.script.runtime import torchscript_file
from torchship.script.runtime.archive import open_archive, pack

# The program's own use of LibTorch, with workers that flush subnormal numbers to zero.
torch.set_num_threads(2)
torch.set_flush_denormal(True)
torch.zeros(1 << 22).add_(1)
torch.set_flush_denormal(False)
case = open_archive(sys.argv[1]).golden[1].steps[0]
session = c_abi.Session(c_abi.Archive(Path(sys.argv[1]), c_abi.Options(threads=2)))
outputs = session.run({{"x": case.inputs["x"].numpy()}})
flushed = int((outputs["output"] == 0).sum())
golden = case.outputs["output"].numpy()
print(flushed, int((golden == 0).sum()), torch.get_num_threads())
"""


def test_workers_that_somebody_else_has_started_compute_in_the_default_mode(folder: Path) -> None:
    code = WORKERS.format(path=sys.path)
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder / "wide.pt")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    flushed, golden, threads = map(int, done.stdout.split())
    assert flushed == golden
    assert threads == 2
