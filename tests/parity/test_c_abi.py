"""The C ABI, called from Python with numpy arrays, beside the Python runtime: the same bits."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ctypes import byref, c_int64, c_size_t, c_void_p
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import c_abi
import zoo
from c_abi import Array, Failure, Options, Session, Tensor, given, library, room, taken
from torchship.cpp_runner.binary import cmake_prefix
from torchship.models.moba import observation
from torchship.script.exporting.export import export
from torchship.script.exporting.target import Target
from torchship.script.format.golden import Case, Step
from torchship.script.format.signing import make_key, sign
from torchship.script.format.tree import Flat
from torchship.script.runtime import torchscript_file
from torchship.script.runtime.archive import open_archive, pack

HEADER = cmake_prefix() / "include" / "torchship" / "torchship.h"
MODELS = ("fizzbuzz", "lstm", "moba", "snake-lstm")


class Echo(torch.nn.Module):
    """Gives back what it was given, and what it was given the step before."""

    def forward(
        self, x: torch.Tensor, last: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return last * 1, x, x


def echo() -> torch.nn.Module:
    return Echo().eval()


def echo_target() -> Target:
    return zoo.target(
        echo,
        [{"x": zoo.noise(1, n, 3), "last": zoo.noise(2, n, 3)} for n in (2, 3)],
        "echo",
        outputs={"forward": ["before", "now", "last"]},
        state={"forward": [("last", "last", "zeros")]},
    )


@pytest.fixture(scope="module")
def folder(model_archive: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("archives")
    for name in MODELS:
        shutil.copy(model_archive(name), made)
    export(zoo.target(zoo.everything, zoo.everything_examples), made / "everything.pt")
    examples = [{"x": zoo.noise(1, n, 3), "how": 0} for n in (2, 3)]
    export(zoo.target(zoo.raising, examples), made / "raising.pt")
    export(echo_target(), made / "echo.pt")
    return made


def arrays(flat: Flat) -> dict[str, Array]:
    """The same memory, which torch has aligned to 64 bytes."""
    return {name: tensor.numpy() for name, tensor in flat.items()}


def assert_same_bits(actual: dict[str, Array], expected: Flat) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        array = tensor.contiguous().numpy()
        assert (actual[name].dtype, actual[name].shape) == (array.dtype, array.shape), name
        assert actual[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("name", [*MODELS, "everything", "raising"])
def test_golden_cases_have_the_bits_of_the_python_runtime(name: str, folder: Path) -> None:
    python = open_archive(folder / f"{name}.pt")
    program = python.program()
    archive = c_abi.Archive(folder / f"{name}.pt")
    archive.verify()
    for case in python.golden:
        session = Session(archive, case.method)
        carried: Flat = {}
        for step in case.steps:
            expected = program.call(case.method, {**carried, **step.inputs})
            states = python.require_manifest().methods[case.method].state
            carried = {state.input: expected[state.output] for state in states}
            actual = session.step(arrays(step.inputs))
            assert_same_bits(actual, expected)
            assert_same_bits(actual, step.outputs)


def test_strided_arrays_are_read_where_they_are(folder: Path) -> None:
    session = Session(c_abi.Archive(folder / "moba.pt"))
    obs = observation(1, 6).numpy()
    wide = np.zeros((12, 1020), np.uint8)
    wide[::2, ::2] = obs
    expected = session.run({"obs": obs})
    for view in (wide[::2, ::2], np.asfortranarray(obs)):
        assert not view.flags.c_contiguous
        actual = session.run({"obs": view})
        for name, array in expected.items():
            np.testing.assert_array_equal(actual[name], array)


def test_memory_that_is_filled_anew_for_each_step(folder: Path) -> None:
    # The model returns its input as its state, so a session that kept it would see the new values.
    session = Session(c_abi.Archive(folder / "echo.pt"))
    x = np.zeros((1, 3), np.float32)
    for step in range(4):
        x[:] = step
        lent = {tensor.name: tensor for tensor in session.lent("step", [given("x", x)])}
        x[:] = 99
        np.testing.assert_array_equal(taken(lent[b"before"]), np.full((1, 3), max(step - 1, 0)))
        np.testing.assert_array_equal(taken(lent[b"now"]), np.full((1, 3), step))


def test_outputs_may_be_the_next_inputs(folder: Path) -> None:
    path = folder / "lstm.pt"
    python, case = open_archive(path), open_archive(path).golden[0]
    first = case.steps[0].inputs
    names = {s.output: s.input for s in python.require_manifest().methods[case.method].state}
    carrying, handing = (Session(c_abi.Archive(path), case.method) for _ in range(2))
    data = [given(n, a) for n, a in arrays(first).items() if n not in names.values()]
    back: list[Tensor] = []
    for _ in range(4):
        expected = {t.name: taken(t).copy() for t in carrying.lent("step", data)}
        lent = handing.lent("run", [*data, *back])
        assert {t.name for t in lent} == expected.keys()
        for tensor in lent:
            np.testing.assert_array_equal(taken(tensor), expected[tensor.name])
        back = []
        for tensor in lent:
            if tensor.name.decode() in names:
                tensor.name = names[tensor.name.decode()].encode()
                back.append(tensor)
        assert len(back) == len(names) == 2


@pytest.mark.parametrize("name", [*MODELS, "everything"])
def test_outputs_go_into_the_callers_memory(name: str, folder: Path) -> None:
    archive = c_abi.Archive(folder / f"{name}.pt")
    for case in open_archive(folder / f"{name}.pt").golden:
        lending, filling = Session(archive, case.method), Session(archive, case.method)
        for step in case.steps:
            for function in ("run", "step"):
                lent = lending.lent(function, [given(n, a) for n, a in arrays(step.inputs).items()])
                expected = {t.name.decode(): taken(t).copy() for t in lent}
                out = {n: np.full_like(array, 77) for n, array in expected.items()}
                filling.fill(function, arrays(step.inputs), [room(n, a) for n, a in out.items()])
                for output, array in expected.items():
                    assert out[output].tobytes() == array.tobytes(), output


def test_only_the_outputs_that_have_a_buffer_are_copied(folder: Path) -> None:
    archive = c_abi.Archive(folder / "moba.pt")
    asking, filling = Session(archive), Session(archive)
    obs = {"obs": observation(3, 5).numpy()}
    value = np.zeros((5, 1), np.float32)
    filling.fill("step", obs, [])
    filling.fill("step", obs, [room("value", value)])
    asking.step(obs)
    assert asking.step(obs)["value"].tobytes() == value.tobytes()


def test_a_buffer_may_be_the_memory_of_an_input(folder: Path) -> None:
    # `now` and `last` are the memory of x, which is the buffer of `before`.
    session = Session(c_abi.Archive(folder / "echo.pt"))
    session.step({"x": np.full((1, 3), 1, np.float32)})
    x = np.full((1, 3), 2, np.float32)
    now = np.zeros((1, 3), np.float32)
    session.fill("step", {"x": x}, [room("now", now), room("before", x)])
    assert (x == 1).all()
    assert (now == 2).all()
    session.fill("step", {"x": x}, [room("before", now)])
    assert (now == 2).all()


def test_buffers_that_do_not_fit(folder: Path) -> None:
    session = Session(c_abi.Archive(folder / "moba.pt"))
    obs = {"obs": observation(3, 2).numpy()}
    session.step(obs)
    before = session.save_state()
    value = np.zeros((2, 1), np.float32)

    def refusal(*out: c_abi.Buffer) -> tuple[int, str]:
        refused = failure(lambda: session.fill("step", obs, out))
        assert session.save_state() == before
        assert not value.any()
        return refused

    fits, wide = room("value", value), np.zeros((2, 1), np.float64)
    said = "output 'value' is float32[2,1], the buffer given for it "
    assert refusal(room("value", wide)) == (c_abi.BAD_INPUT, said + "float64[2,1]")
    assert refusal(room("value", wide[:1])) == (c_abi.BAD_INPUT, said + "float64[1,1]")
    assert refusal(room("value", value.reshape(2))) == (c_abi.BAD_INPUT, said + "float32[2]")
    assert refusal(room("worth", value), fits) == (
        c_abi.BAD_USAGE,
        "there is no output 'worth', only c, h, logits, value",
    )
    assert refusal(fits, room("h", wide))[0] == c_abi.BAD_INPUT
    assert refusal(fits, fits) == (c_abi.BAD_INPUT, "output 'value': given twice")
    assert refusal(c_abi.Buffer(b"value", 11, 2, fits.shape, None)) == (
        c_abi.BAD_USAGE,
        "output 'value': its data is NULL",
    )
    assert library().torchship_session_step_into(session.handle, None, 0, None, 1) == (
        c_abi.BAD_USAGE
    )
    assert library().torchship_last_message().decode() == (
        "1 outputs were announced, and their array is NULL"
    )


def test_reset_and_reset_of_rows(folder: Path) -> None:
    program = open_archive(folder / "moba.pt").program()
    session = Session(c_abi.Archive(folder / "moba.pt"))
    obs = observation(3, 5)
    session.reset_rows([0])  # before the first step there is nothing to forget
    first = session.step({"obs": obs.numpy()})
    session.reset_rows([4, 1, 1])
    state = {name: torch.from_numpy(first[name].copy()) for name in "hc"}
    for tensor in state.values():
        tensor[[1, 4]] = 0
    assert_same_bits(
        session.step({"obs": obs.numpy()}), program.call("forward", {"obs": obs, **state})
    )
    session.reset()
    again = session.step({"obs": obs.numpy()})
    assert all(again[name].tobytes() == first[name].tobytes() for name in first)
    for row in (-1, 5):
        assert failure(partial(session.reset_rows, [row])) == (
            c_abi.BAD_INPUT,
            f"row {row} cannot be reset: the state has 5 rows",
        )
    stateless = Session(c_abi.Archive(folder / "fizzbuzz.pt"))
    assert failure(lambda: stateless.reset_rows([0]))[0] == c_abi.BAD_USAGE


def test_state_goes_to_bytes_and_back(folder: Path) -> None:
    archive = c_abi.Archive(folder / "moba.pt")
    one, other = Session(archive), Session(archive, "act")
    obs = {"obs": observation(4, 2).numpy()}
    empty = one.save_state()
    outputs = one.step(obs)
    state = one.save_state()
    assert_same_bits({n: outputs[n] for n in "hc"}, safetensors.torch.load(state))
    other.load_state(state)
    expected, actual = one.step(obs), other.step(obs)
    assert actual["h"].tobytes() == expected["h"].tobytes()
    other.load_state(empty)
    assert other.step(obs)["h"].tobytes() == outputs["h"].tobytes()
    for damaged in (state[:-1], b"\xff" * 16, b""):
        assert failure(partial(one.load_state, damaged))[0] == c_abi.BAD_INPUT
    assert one.save_state() == other_state(one, state, obs)


def other_state(session: Session, state: bytes, obs: dict[str, Array]) -> bytes:
    """The state one step after `state`."""
    session.load_state(state)
    session.step(obs)
    return session.save_state()


def test_sessions_of_one_archive_on_many_threads(folder: Path) -> None:
    archive = c_abi.Archive(folder / "moba.pt")
    program = open_archive(folder / "moba.pt").program()

    def play(seed: int) -> list[dict[str, Array]]:
        session = Session(archive)
        return [
            session.step({"obs": observation(seed + n, 1 + seed % 3).numpy()}) for n in range(8)
        ]

    seeds = range(0, 1600, 100)
    with ThreadPoolExecutor(8) as pool:
        games = list(pool.map(play, seeds))
    for seed, game in zip(seeds, games, strict=True):
        state: Flat = {}
        for n, actual in enumerate(game):
            obs = observation(seed + n, 1 + seed % 3)
            expected = program.call("forward", {"obs": obs, **state})
            state = {name: expected[name] for name in "hc"}
            assert_same_bits(actual, expected)


def test_methods_and_signatures_as_json(folder: Path) -> None:
    described = c_abi.Archive(folder / "moba.pt").describe()
    assert (described["name"], described["version"]) == ("moba", "1")
    forward, act = described["methods"]
    assert (forward["name"], act["name"]) == ("forward", "act")
    assert forward["inputs"][0] == {
        "name": "obs",
        "value": "uint8[batch,510]",
        "dtype": "uint8",
        "shape": ["batch", 510],
        "required": True,
    }
    assert [output["name"] for output in forward["outputs"]] == ["logits", "value", "h", "c"]
    assert act["state"][1] == {"input": "c", "output": "c", "start": "zeros"}


def test_version() -> None:
    assert library().torchship_version().decode() == version("torchship")


# --- what goes wrong ---


def failure(action: Callable[[], object]) -> tuple[int, str]:
    with pytest.raises(Failure) as caught:
        action()
    return caught.value.status, caught.value.message


def test_inputs_that_do_not_fit(folder: Path) -> None:
    session = Session(c_abi.Archive(folder / "moba.pt"))
    obs = observation(1, 2).numpy()

    def refusal(**inputs: Array) -> str:
        status, message = failure(lambda: session.run(inputs))
        assert status == c_abi.BAD_INPUT
        return message

    assert refusal(obs=np.zeros((1, 512), np.float32)) == (
        "input 'obs': expected uint8[batch,510], got float32[1,512]"
    )
    assert "unknown input 'view'" in refusal(view=obs)
    assert "missing input 'obs'" in refusal()
    assert refusal(obs=obs, h=np.zeros((3, 128), np.float32)).startswith(
        "input 'h': expected float32[batch,128] with batch=2, got float32[3,128]"
    )
    crooked = np.zeros(4 * 128 + 1, np.uint8)[1:].view(np.float32).reshape(1, 128)
    assert refusal(obs=obs[:1], h=crooked) == (
        "input 'h': its data is not aligned to 4 bytes, the size of float32"
    )
    assert refusal(obs=obs[::-1]) == "input 'obs': stride 0 is -510, expected 0 or more"


def test_tensors_that_cannot_be(folder: Path) -> None:
    session = Session(c_abi.Archive(folder / "moba.pt"))
    obs = observation(1, 2).numpy()

    def refusal(**fields: object) -> tuple[int, str]:
        tensor = given("obs", obs)
        for name, value in fields.items():
            setattr(tensor, name, value)
        return failure(lambda: session.lent("run", [tensor]))

    def sizes(*numbers: int) -> ctypes.Array[c_int64]:
        return (c_int64 * len(numbers))(*numbers)

    far = "input 'obs': its shape and strides go beyond what memory can hold"
    assert refusal(dtype=13) == (c_abi.BAD_INPUT, "input 'obs': there is no dtype 13")
    assert refusal(dtype=-1) == (c_abi.BAD_INPUT, "input 'obs': there is no dtype -1")
    assert refusal(rank=-1) == (c_abi.BAD_INPUT, "input 'obs': rank -1, expected 0 to 64")
    assert refusal(rank=65) == (c_abi.BAD_INPUT, "input 'obs': rank 65, expected 0 to 64")
    assert refusal(shape=sizes(-2, 510)) == (
        c_abi.BAD_INPUT,
        "input 'obs': dimension 0 is -2, expected 0 or more",
    )
    assert refusal(shape=sizes(2**62, 510)) == (c_abi.BAD_INPUT, far)
    assert refusal(strides=sizes(2**63 - 1, 1)) == (c_abi.BAD_INPUT, far)
    assert refusal(dtype=12, shape=sizes(2**60, 1)) == (c_abi.BAD_INPUT, far)
    assert refusal(shape=None) == (c_abi.BAD_USAGE, "input 'obs': its shape is NULL")
    assert refusal(data=None) == (c_abi.BAD_USAGE, "input 'obs': its data is NULL")
    assert refusal(name=None) == (c_abi.BAD_USAGE, "input number 0: its name is NULL")
    twice = [given("obs", obs), given("obs", obs)]
    assert failure(lambda: session.lent("run", twice)) == (
        c_abi.BAD_INPUT,
        "input 'obs': given twice",
    )


def test_every_pointer_may_be_null(folder: Path) -> None:
    archive = c_abi.Archive(folder / "fizzbuzz.pt")
    session = Session(archive)
    lib, path = library(), str(folder / "fizzbuzz.pt").encode()
    handle, count, outputs = c_void_p(), c_size_t(), ctypes.POINTER(Tensor)()
    where = byref(outputs)
    calls: dict[str, Callable[[], int]] = {
        "path": lambda: lib.torchship_archive_open(None, None, byref(handle)),
        "archive": lambda: lib.torchship_archive_open(path, None, None),
        "options.device": lambda: lib.torchship_archive_open(
            path, byref(Options(device=None)), byref(handle)
        ),
        "json": lambda: lib.torchship_archive_describe(archive.handle, None),
        "session": lambda: lib.torchship_session_open(archive.handle, None, None),
        "outputs": lambda: lib.torchship_session_run(session.handle, None, 0, None, byref(count)),
        "output_count": lambda: lib.torchship_session_run(session.handle, None, 0, where, None),
        "rows": lambda: lib.torchship_session_reset_rows(session.handle, None, 1),
        "bytes": lambda: lib.torchship_session_load_state(session.handle, None, 1),
        "size": lambda: lib.torchship_session_save_state(session.handle, byref(handle), None),
    }
    for name, call in calls.items():
        assert call() == c_abi.BAD_USAGE
        assert lib.torchship_last_message().decode() == f"argument '{name}' is NULL"
    without: dict[str, list[object]] = {
        "archive_describe": [None],
        "archive_verify": [],
        "session_run": [None, 0, where, byref(count)],
        "session_step": [None, 0, where, byref(count)],
        "session_run_into": [None, 0, None, 0],
        "session_step_into": [None, 0, None, 0],
        "session_reset": [],
        "session_reset_rows": [None, 0],
        "session_save_state": [byref(handle), byref(count)],
        "session_load_state": [None, 0],
    }
    for function, arguments in without.items():
        assert getattr(lib, f"torchship_{function}")(None, *arguments) == c_abi.BAD_USAGE
    lib.torchship_archive_close(None)
    lib.torchship_session_close(None)


def test_statuses_are_the_exit_codes(folder: Path, tmp_path: Path) -> None:
    path = folder / "fizzbuzz.pt"
    archive = c_abi.Archive(path)
    status, message = failure(lambda: Session(archive, "think"))
    assert status == c_abi.BAD_USAGE
    assert "has no method 'think'" in message

    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(path.read_bytes()[:-1])
    for file in (tmp_path / "none.pt", damaged):
        status, message = failure(partial(c_abi.Archive, file))
        assert status == c_abi.BAD_ARCHIVE
        assert str(file) in message or file.name in message

    raising = Session(c_abi.Archive(folder / "raising.pt"))
    x = {"x": np.zeros((2, 3), np.float32), "how": np.array(1)}
    assert failure(lambda: raising.run(x)) == (
        c_abi.BAD_INPUT,
        "model 'zoo' method 'forward' raised: first line\nsecond line",
    )

    python = open_archive(path)
    wrong = [
        Case(c.name, c.method, tuple(Step(s.inputs, edited(s.outputs)) for s in c.steps))
        for c in python.golden
    ]
    edited_file = tmp_path / "edited.pt"
    edited_file.write_bytes(
        pack(torchscript_file.save(python.load()), python.require_manifest(), wrong)
    )
    opened = c_abi.Archive(edited_file)
    status, message = failure(opened.verify)
    assert status == c_abi.MISMATCH
    assert message.startswith("golden case 'forward example 0', step 0, output 'scores': ")


def edited(outputs: Flat) -> Flat:
    return {name: tensor + 1 for name, tensor in outputs.items()}


def test_options(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "fizzbuzz.pt"
    path.write_bytes((folder / "fizzbuzz.pt").read_bytes())

    def refusal(**said: object) -> tuple[int, str]:
        return failure(lambda: c_abi.Archive(path, Options(**said)))

    assert refusal(fusion=3)[0] == c_abi.BAD_USAGE
    for said in ({"threads": 0}, {"warm_up": -1}, {"device": b"tpu"}):
        status, message = refusal(**said)
        assert status == c_abi.BAD_USAGE
        assert next(iter(said)).split("_")[0] in message

    make_key(tmp_path / "release.key", tmp_path / "release.pub")
    keys = str(tmp_path / "release.pub").encode()
    assert refusal(trusted_keys=keys)[0] == c_abi.BAD_ARCHIVE
    sign(path, tmp_path / "release.key")
    archive = c_abi.Archive(path, Options(trusted_keys=keys, warm_up=2, freeze=1))
    case = open_archive(path).golden[0]
    assert_same_bits(Session(archive).run(arrays(case.steps[0].inputs)), case.steps[0].outputs)


def test_each_thread_has_its_own_message(folder: Path) -> None:
    archive = c_abi.Archive(folder / "fizzbuzz.pt")
    mine = failure(lambda: Session(archive, "mine"))[1]

    def theirs() -> tuple[str, str]:
        before: str = library().torchship_last_message().decode()
        return before, failure(lambda: Session(archive, "theirs"))[1]

    with ThreadPoolExecutor(1) as pool:
        before, message = pool.submit(theirs).result()
    assert before == ""
    assert "'theirs'" in message
    assert library().torchship_last_message().decode() == mine
    assert "'mine'" in mine


def test_handles_may_be_closed_in_any_order(folder: Path) -> None:
    archive = c_abi.Archive(folder / "fizzbuzz.pt")
    session = Session(archive)
    del archive
    assert session.run({"x": np.zeros((1, 10), np.float32)})["scores"].shape == (1, 4)


# --- what the library shows ---


def declared() -> set[str]:
    return set(
        re.findall(
            r"\b(torchship_\w+)\(", re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)
        )
    )


def test_only_the_declared_functions_are_exported() -> None:
    file = cmake_prefix() / "lib" / "libtorchship_c.so"
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", "--format=posix", file],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert {line.split()[0] for line in listed.stdout.splitlines()} == declared()
    assert len(declared()) == 17


def test_the_header_is_c11_and_c17_and_cpp(tmp_path: Path) -> None:
    for compiler, language in (("gcc", "c11"), ("gcc", "c17"), ("g++", "c++20")):
        source = tmp_path / ("header.cpp" if "++" in language else "header.c")
        source.write_text(
            "#include <torchship/torchship.h>\n"
            "torchship_options options = TORCHSHIP_OPTIONS;\n"
            "const char *(*use)(void) = torchship_version;\n"
        )
        flags = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only", f"-std={language}"]
        done = subprocess.run(
            [compiler, *flags, f"-I{HEADER.parents[1]}", source],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
