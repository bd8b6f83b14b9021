"""The C ABI inside other programs: archives in memory, older headers, counts that nothing has."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from ctypes import byref, c_char_p, c_int32, c_size_t, c_void_p
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import c_abi
from c_abi import BAD_ARCHIVE, BAD_INPUT, BAD_USAGE, Failure, Options, Session, library
from cmake_projects import ROOT
from torchship.cpp_runner.binary import cmake_prefix
from torchship.script.exporting.export import export
from torchship.script.exporting.target import find_target
from torchship.script.format.manifest import CustomOperator
from torchship.script.format.signing import make_key, sign
from torchship.script.runtime import torchscript_file
from torchship.script.runtime.archive import open_archive, pack

SIZE = ctypes.sizeof(Options)
EXAMPLES = ROOT / "cpp_runner" / "examples"


@pytest.fixture(scope="module")
def folder(model_archive: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("archives")
    for name in ("fizzbuzz", "moba"):
        shutil.copy(model_archive(name), made)
    return made


@pytest.fixture(scope="module")
def signed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`fizzbuzz.pt` with its signature, `ours.pub`, and another's key."""
    made = tmp_path_factory.mktemp("signed")
    shutil.copy(folder / "fizzbuzz.pt", made)
    for name in ("ours", "other"):
        make_key(made / f"{name}.key", made / f"{name}.pub")
    sign(made / "fizzbuzz.pt", made / "ours.key")
    return made


def refusal(call: Callable[[], object]) -> tuple[int, str]:
    with pytest.raises(Failure) as raised:
        call()
    return raised.value.status, raised.value.message


# --- archives in memory ---


def test_an_archive_in_memory_is_the_one_in_the_file(folder: Path) -> None:
    data = (folder / "moba.pt").read_bytes()
    memory = bytearray(data)
    handle = c_void_p()
    held = (ctypes.c_char * len(memory)).from_buffer(memory)
    status = library().torchship_archive_open_memory(
        held, len(memory), None, None, 0, None, byref(handle)
    )
    assert status == c_abi.OK
    library().torchship_archive_close(handle)

    archive = c_abi.Archive(data)
    file = c_abi.Archive(folder / "moba.pt")
    assert archive.describe() == file.describe()
    archive.verify()
    obs = {"obs": np.full((2, 510), 3, np.uint8)}
    theirs = Session(file).run(obs)
    for name, array in Session(archive).run(obs).items():
        assert array.tobytes() == theirs[name].tobytes()


def test_nothing_of_the_memory_is_kept(folder: Path) -> None:
    memory = bytearray((folder / "moba.pt").read_bytes())
    held = (ctypes.c_char * len(memory)).from_buffer(memory)
    handle = c_void_p()
    opened = library().torchship_archive_open_memory
    assert opened(held, len(memory), b"m", None, 0, None, byref(handle)) == c_abi.OK
    memory[:] = bytes(len(memory))
    assert library().torchship_archive_verify(handle) == c_abi.OK
    library().torchship_archive_close(handle)


def test_a_signature_in_memory(signed: Path) -> None:
    data = (signed / "fizzbuzz.pt").read_bytes()
    signature = (signed / "fizzbuzz.pt.sig").read_bytes()
    ours = Options(trusted_keys=str(signed / "ours.pub").encode())
    c_abi.Archive(data, ours, signature).verify()

    def refused(options: Options | None, sig: bytes | None, data: bytes = data) -> tuple[int, str]:
        return refusal(lambda: c_abi.Archive(data, options, sig))

    other = Options(trusted_keys=str(signed / "other.pub").encode())
    none = "'game.pak': its signature is of none of the 1 trusted keys"
    assert refused(other, signature) == (BAD_ARCHIVE, none)
    assert refused(ours, signature, data[:-1] + b"?") == (BAD_ARCHIVE, none)
    assert refused(ours, bytes(64)) == (BAD_ARCHIVE, none)
    assert refused(ours, None) == (
        BAD_ARCHIVE,
        "'game.pak' is not signed: no signature was given",
    )
    for size in (1, 63, 65):
        assert refused(ours, bytes(size)) == (
            BAD_ARCHIVE,
            f"'game.pak': its signature has {size} bytes, expected 64",
        )
    for options in (None, Options()):
        assert refused(options, signature) == (
            BAD_USAGE,
            "'game.pak': a signature was given, and no trusted keys to check it with",
        )


def test_keys_in_memory(signed: Path) -> None:
    data = (signed / "fizzbuzz.pt").read_bytes()
    signature = (signed / "fizzbuzz.pt.sig").read_bytes()
    pem = (signed / "ours.pub").read_bytes()
    both = (signed / "other.pub").read_bytes() + pem
    for keys in (pem, both):
        c_abi.Archive(data, Options(trusted_keys_pem=keys), signature)
        c_abi.Archive(signed / "fizzbuzz.pt", Options(trusted_keys_pem=keys))
    path = str(signed / "ours.pub").encode()
    said: dict[str, dict[str, Any]] = {
        "are both given": {"trusted_keys_pem": pem, "trusted_keys": path},
        "trusted keys 'options.trusted_keys_pem': holds no PUBLIC KEY block": {
            "trusted_keys_pem": b""
        },
    }
    for expected, options in said.items():
        status, message = refusal(partial(c_abi.Archive, data, Options(**options), signature))
        assert status == BAD_USAGE
        assert expected in message


def test_what_is_no_archive_in_memory(folder: Path) -> None:
    data = (folder / "fizzbuzz.pt").read_bytes()
    for damaged in (b"", b"PK", data[:-1], data[: len(data) // 2], bytes(1000)):
        status, message = refusal(partial(c_abi.Archive, damaged))
        assert status == BAD_ARCHIVE
        assert message.startswith("'game.pak': ")

    handle = c_void_p(1)
    opened = library().torchship_archive_open_memory
    calls = {
        "argument 'bytes' is NULL": (None, 0, None, None, 0),
        "argument 'bytes' is NULL ": (None, 9, None, None, 0),
        f"size is {2**64 - 1}, expected at most {2**63 - 1}": (data, -1, None, None, 0),
        "signature_size is 64, and the signature is NULL": (data, len(data), None, None, 64),
        f"signature_size is {2**64 - 1}, expected at most {2**63 - 1}": (
            *(data, len(data), None, data, -1),
        ),
    }
    for expected, arguments in calls.items():
        handle.value = 1
        assert opened(*arguments, None, byref(handle)) == BAD_USAGE
        assert library().torchship_last_message().decode() == expected.strip()
        assert handle.value is None
    assert opened(data, len(data), None, None, 0, None, None) == BAD_USAGE
    assert library().torchship_last_message() == b"argument 'archive' is NULL"


# --- options that grow ---


class FirstOptions(ctypes.Structure):
    """torchship_options as its first header had it."""

    _fields_ = (
        ("size", c_size_t),
        ("threads", c_int32),
        ("warm_up", c_int32),
        ("freeze", c_int32),
        ("fusion", c_int32),
        ("device", c_char_p),
        ("trusted_keys", c_char_p),
    )


def opened_with(options: ctypes.Structure, path: Path) -> int:
    handle = c_void_p()
    opened = library()["torchship_archive_open"]  # of its own, without the newer argtypes
    status: int = opened(str(path).encode(), byref(options), byref(handle))
    library().torchship_archive_close(handle)
    return status


def test_a_program_of_the_first_header_goes_on_working(signed: Path) -> None:
    def options(**said: object) -> FirstOptions:
        defaults = {"size": ctypes.sizeof(FirstOptions), "threads": 1, "device": b"cpu"}
        return FirstOptions(**defaults | said)

    # What lies behind the struct in memory is not the library's to read.
    class Framed(ctypes.Structure):
        _fields_ = (("options", FirstOptions), ("behind", ctypes.c_uint8 * 256))

    path = signed / "fizzbuzz.pt"
    keys = {name: str(signed / f"{name}.pub").encode() for name in ("ours", "other")}
    for said, status in (
        (options(), c_abi.OK),
        (options(warm_up=1, freeze=1, fusion=1), c_abi.OK),
        (options(trusted_keys=keys["ours"]), c_abi.OK),
        (options(trusted_keys=keys["other"]), BAD_ARCHIVE),
        (options(fusion=9), BAD_USAGE),
    ):
        assert opened_with(said, path) == status
        assert opened_with(Framed(said, (ctypes.c_uint8 * 256)(*[0xAA] * 256)), path) == status


@pytest.mark.parametrize("size", [0, 1, 8, 39, 41, 48, SIZE - 1, SIZE + 1, SIZE + 8, 2**64 - 1])
def test_a_size_of_no_header_is_refused(size: int, folder: Path) -> None:
    class Newer(ctypes.Structure):
        _fields_ = (("options", Options), ("more", ctypes.c_uint8 * 256))

    assert opened_with(Newer(Options(size=size)), folder / "fizzbuzz.pt") == BAD_USAGE
    message = library().torchship_last_message().decode()
    assert message == (
        f"options.size is {size}, expected 40 or {SIZE}: begin with TORCHSHIP_OPTIONS, and with a "
        f"torchship.h no newer than this library, torchship {version()}"
    )


def version() -> str:
    text: bytes = library().torchship_version()
    return text.decode()


# --- folders of operators ---

WITH_OPERATORS = """
import sys
from pathlib import Path
import c_abi
folders = [folder.encode() for folder in sys.argv[2:]]
try:
    c_abi.Archive(Path(sys.argv[1]), c_abi.Options(operators=folders)).verify()
except c_abi.Failure as failure:
    sys.exit(f"{failure.status} {failure.message}")
"""


def test_folders_of_operators(tmp_path: Path) -> None:
    ours = cmake_prefix() / "lib" / "libtorchship_ops.so"
    (tmp_path / "ops").mkdir()
    shutil.copy(ours, tmp_path / "ops" / "libacme_ops.so")
    export(find_target("lstm-fused", None, {}), tmp_path / "fused.pt")
    fused = open_archive(tmp_path / "fused.pt")
    [needed] = fused.require_manifest().custom_ops
    acme = CustomOperator(name=needed.name, library="acme_ops")
    said = fused.require_manifest().model_copy(update={"custom_ops": (acme,)})
    path = tmp_path / "acme.pt"
    path.write_bytes(pack(torchscript_file.save(fused.load()), said, fused.golden))

    def opened(*folders: object) -> subprocess.CompletedProcess[str]:
        tests = os.pathsep.join([str(ROOT / "tests"), *filter(None, sys.path)])
        script = ("-c", WITH_OPERATORS, path, *folders)
        environment = os.environ | {"PYTHONPATH": tests}
        return subprocess.run(
            [sys.executable, *map(str, script)],
            capture_output=True, text=True, check=False, env=environment,
        )  # fmt: skip

    assert opened("/no/such", tmp_path / "ops").returncode == 0
    for missing in (opened(), opened("/no/such")):
        assert missing.returncode == 1
        assert missing.stderr.startswith(f"{BAD_ARCHIVE} '{path}': it needs the operator")


def test_folders_that_are_none(folder: Path) -> None:
    path = folder / "fizzbuzz.pt"

    def refused(**said: object) -> tuple[int, str]:
        return refusal(lambda: c_abi.Archive(path, Options(**said)))

    assert refused(operator_count=1) == (BAD_USAGE, "argument 'options.operators' is NULL")
    nothing = (c_char_p * 2)(b"/tmp", None)
    assert refused(operators=nothing, operator_count=2) == (
        BAD_USAGE,
        "argument 'options.operators[1]' is NULL",
    )
    assert refused(operators=nothing, operator_count=2**64 - 1) == (
        BAD_USAGE,
        f"options.operator_count is {2**64 - 1}, expected at most 65536",
    )


# --- counts and sizes that nothing has ---


def test_counts_that_no_call_has(folder: Path) -> None:
    session = Session(c_abi.Archive(folder / "moba.pt"))
    session.step({"obs": np.zeros((1, 510), np.uint8)})
    lib, handle = library(), session.handle
    obs = c_abi.given("obs", np.zeros((1, 510), np.uint8))
    outputs, count = ctypes.POINTER(c_abi.Tensor)(), c_size_t()
    lent = (byref(outputs), byref(count))
    room = c_abi.room("value", np.zeros((1, 1), np.float32))
    row = ctypes.c_int64(0)
    for many in (2**64 - 1, 2**63, 65_537):
        calls: dict[str, int] = {
            "input count": lib.torchship_session_run(handle, byref(obs), many, *lent),
            "input count ": lib.torchship_session_step(handle, byref(obs), many, *lent),
            "output count": lib.torchship_session_run_into(
                handle, byref(obs), 1, byref(room), many
            ),
            "output count ": lib.torchship_session_step_into(
                handle, byref(obs), 1, byref(room), many
            ),
        }
        assert set(calls.values()) == {BAD_USAGE}, calls
        message = lib.torchship_last_message().decode()
        assert message == f"output count is {many}, expected at most 65536"
    assert lib.torchship_session_reset_rows(handle, byref(row), 2**64 - 1) == BAD_USAGE
    assert lib.torchship_session_load_state(handle, b"state", 2**64 - 1) == BAD_USAGE
    assert lib.torchship_session_load_state(handle, b"", 0) == BAD_INPUT


def test_a_file_whose_name_is_no_utf8_is_described(folder: Path, tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.pt"
    plain = torchscript_file.save(open_archive(folder / "fizzbuzz.pt").load())
    Path(os.fsdecode(path)).write_bytes(plain)
    handle, text = c_void_p(), c_char_p()
    assert library().torchship_archive_open(path, None, byref(handle)) == c_abi.OK
    assert library().torchship_archive_describe(handle, byref(text)) == c_abi.OK
    library().torchship_archive_close(handle)


def test_a_message_is_utf8_whatever_it_names(folder: Path) -> None:
    handle = c_void_p()
    assert library().torchship_archive_open(b"/no/\xff\xc3.pt", None, byref(handle)) == BAD_ARCHIVE
    message = library().torchship_last_message().decode()
    assert message == "cannot read '/no/??.pt': No such file or directory"
    session = Session(c_abi.Archive(folder / "moba.pt"))
    named = c_abi.Tensor(b"\xe2\x82", 1, 0, None, None, None)
    assert "input '??'" in refusal(lambda: session.lent("run", [named]))[1]
