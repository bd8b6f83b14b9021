"""`torchship compile --weights file`: the C checks the file before it reads from it."""

from __future__ import annotations

import ctypes
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from compiled import STRICT, quick_options
from torchship.native.building.toolchain import build_library
from torchship.native.cli import write_project
from torchship.native.compiler import compile_archive
from torchship.script.exporting.export import export
from torchship.script.exporting.target import find_target
from torchship.script.runtime.archive import open_archive

HEADER = 128


@dataclass
class Checked:
    """The code of `xor`, in this process, and its file of weights."""

    library: ctypes.CDLL
    folder: Path
    contents: bytes

    def weights(self, contents: bytes, offset: int = 0) -> tuple[int | None, str]:
        """Return what the code makes of contents at an aligned address, plus an offset."""
        memory = ctypes.create_string_buffer(len(contents) + 128)
        start = -ctypes.addressof(memory) % 64 + offset
        ctypes.memmove(ctypes.addressof(memory) + start, contents, len(contents))
        message = ctypes.create_string_buffer(300)
        self.held = memory
        self.address = ctypes.addressof(memory) + start
        function = self.library.xor_weights_from
        function.restype = ctypes.c_void_p
        memory_and_size = (ctypes.c_void_p, ctypes.c_size_t)
        function.argtypes = (*memory_and_size, *memory_and_size)
        pointer = function(self.address, len(contents), message, len(message))
        return pointer, message.value.decode()


def archive_of(folder: Path, description: str) -> Path:
    path = folder / f"xor-{description}.pt"
    export(replace(find_target("xor", None, {}), description=description), path)
    return path


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Checked:
    folder = tmp_path_factory.mktemp("weights")
    code = compile_archive(open_archive(archive_of(folder, "1")), weights_apart=True)
    write_project(code, folder / "code")
    build_library(folder / "code" / "xor.c", folder / "xor.so", [*STRICT, *quick_options()])
    library = ctypes.CDLL(str(folder / "xor.so"))
    return Checked(library, folder, (folder / "code" / "xor.bin").read_bytes())


def test_the_file_is_used_where_it_lies_and_the_golden_cases_agree(checked: Checked) -> None:
    pointer, message = checked.weights(checked.contents)
    assert (pointer, message) == (checked.address + HEADER, "")
    library = checked.library
    library.xor_selftest_workspace_size.restype = ctypes.c_size_t
    workspace = ctypes.create_string_buffer(library.xor_selftest_workspace_size())
    text = ctypes.create_string_buffer(200)
    given = (ctypes.c_void_p(pointer), workspace, text, ctypes.c_int64(200))
    assert library.xor_selftest(*given) == 0
    assert text.value == b"5 outputs of 5 golden cases agree"


def test_every_flipped_bit_is_seen(checked: Checked) -> None:
    for place in (*range(0, 88, 7), *range(HEADER, len(checked.contents), 61)):
        changed = bytearray(checked.contents)
        changed[place] ^= 1
        pointer, message = checked.weights(bytes(changed))
        # The size and the SHA-256 in the header are for tools: the code knows what it expects.
        if 48 <= place < 88:
            assert pointer
        else:
            assert pointer is None
            assert message


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (slice(0, -1), r"weights: expected 512 bytes, got 511"),
        (slice(0, 127), r"weights: expected the contents of xor.bin, which begin with TSWEIGHT"),
        (slice(0, 0), r"weights: expected the contents of xor.bin, which begin with TSWEIGHT"),
        (slice(1, None), r"weights: expected the contents of xor.bin, which begin with TSWEIGHT"),
    ],
)
def test_a_part_of_the_file_is_refused(checked: Checked, cut: slice, message: str) -> None:
    pointer, said = checked.weights(checked.contents[cut])
    assert pointer is None
    assert said.startswith(message)


def test_a_longer_file_is_refused(checked: Checked) -> None:
    said = "weights: expected 512 bytes, got 513"
    assert checked.weights(checked.contents + b"\0") == (None, said)


def test_changed_weights_are_refused_with_their_digest(checked: Checked) -> None:
    changed = checked.contents[:-1] + b"\1"
    pointer, message = checked.weights(changed)
    assert pointer is None
    assert message.startswith("weights: changed, or written by another version: expected the SHA-")


def test_the_file_of_another_archive_is_refused_with_its_digest(checked: Checked) -> None:
    other = open_archive(archive_of(checked.folder, "2"))
    contents = compile_archive(other, weights_apart=True).weights_file
    expected = open_archive(checked.folder / "xor-1.pt").digest[:16]
    assert checked.weights(contents) == (
        None,
        f"weights: of another archive: expected the digest {expected}..., got "
        f"{other.digest[:16]}...",
    )


def test_memory_that_is_not_aligned_is_refused(checked: Checked) -> None:
    assert checked.weights(checked.contents, offset=8) == (
        None,
        "weights: expected an address that is a multiple of 64, got one and 8",
    )


def test_a_message_is_cut_where_its_buffer_ends(checked: Checked) -> None:
    message = ctypes.create_string_buffer(b"unchanged", 10)
    assert not checked.library.xor_weights_from(None, ctypes.c_size_t(0), message, 9)
    assert message.raw == b"weights:\0\0"
    assert not checked.library.xor_weights_from(None, ctypes.c_size_t(0), None, 0)


def test_a_call_without_weights_is_refused(checked: Checked) -> None:
    text = ctypes.create_string_buffer(200)
    fields = (ctypes.c_int64 * 8)(1, *[ctypes.addressof(text)] * 7)
    results = (ctypes.c_int64 * 3)(*[ctypes.addressof(text)] * 2, 200)
    assert checked.library.xor_forward(None, fields, results, text) == 2
    assert text.value == b"weights is NULL: give what xor_weights_from returned"


def test_the_example_takes_the_file(checked: Checked, tmp_path: Path) -> None:
    code = checked.folder / "code"
    program = tmp_path / "example"
    flags = ["-std=c11", *STRICT, *quick_options(), "-ffp-contract=off"]
    sources = [str(code / "example.c"), str(code / "xor.c")]
    subprocess.run(["cc", *flags, *sources, "-o", str(program), "-lm"], check=True)

    def ran(*arguments: object) -> tuple[int, str]:
        command = [str(program), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    status, printed = ran(code / "xor.bin")
    assert status == 0
    assert "5 outputs of 5 golden cases agree" in printed
    assert ran(tmp_path / "none.bin") == (2, f"cannot open {tmp_path / 'none.bin'}\n")
    assert ran() == (2, "usage: example xor.bin\n")
    (tmp_path / "long.bin").write_bytes(checked.contents + b"\0\0\0")
    assert ran(tmp_path / "long.bin") == (2, "weights: expected 512 bytes, got 513\n")
