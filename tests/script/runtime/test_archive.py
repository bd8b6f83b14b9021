"""The archive file: its content, and refusals of damaged files."""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import zoo
from torchship.script.errors import ArchiveError, UnreadableError, UsageError
from torchship.script.exporting.export import export
from torchship.script.format.signing import make_key, read_trusted_keys, sign
from torchship.script.runtime.archive import GOLDEN, MANIFEST, open_archive, parse_archive


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("archive") / "a.pt"
    return export(zoo.target(zoo.linear, zoo.rows), path).data


def records_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return {info.filename.split("/", 1)[1]: file.read(info) for info in file.infolist()}


def rezip(records: dict[str, bytes], top: str = "archive") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in records.items():
            file.writestr(f"{top}/{name}", content)
    return buffer.getvalue()


def with_manifest(data: bytes, change: Callable[[dict[str, object]], object]) -> bytes:
    records = records_of(data)
    manifest = json.loads(records[MANIFEST])
    change(manifest)
    return rezip(records | {MANIFEST: json.dumps(manifest).encode()})


def run_python(program: str, *arguments: object) -> list[str]:
    """Run a program in a process of its own; return the lines that it prints."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return done.stdout.splitlines()


def refusal(data: bytes) -> str:
    with pytest.raises(ArchiveError) as caught:
        parse_archive(Path("a.pt"), data)
    message = str(caught.value)
    assert message.startswith("'a.pt': ")
    return message.removeprefix("'a.pt': ")


def test_it_is_a_torchscript_file_that_torch_loads(data: bytes) -> None:
    extra = {"torchship/manifest.json": "", "torchship/golden.safetensors": ""}
    with pytest.warns(zoo.TORCHSCRIPT_NOTICE, match=r"torch\.jit"):
        module = torch.jit.load(  # type: ignore[no-untyped-call]
            io.BytesIO(data), _extra_files=extra
        )
    assert json.loads(extra["torchship/manifest.json"])["format"] == 1
    assert isinstance(module, torch.jit.ScriptModule)


def test_the_manifest_has_a_digest_of_every_other_record(data: bytes) -> None:
    records = records_of(data)
    listed = json.loads(records.pop(MANIFEST))["records"]
    assert listed == {
        name: hashlib.sha256(content).hexdigest() for name, content in records.items()
    }


def test_the_golden_record_is_safetensors(data: bytes) -> None:
    tensors = safetensors.torch.load(records_of(data)[GOLDEN])
    assert torch.equal(tensors["0/0/in/x"], zoo.noise(1, 2, 3))
    assert {key.split("/", 1)[0] for key in tensors} == {"0", "1", "2", "3"}


def test_a_bit_flipped_anywhere_is_refused_or_touches_nothing(data: bytes) -> None:
    whole = parse_archive(Path("a.pt"), data)
    expected = whole.program().call("forward", {"x": zoo.noise(1, 2, 3)})["output"]
    harmless = 0
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << (place % 8)
        try:
            archive = parse_archive(Path("a.pt"), bytes(flipped))
            program = archive.program()
        except ArchiveError:
            continue
        # Accepted: a byte that no reader uses, such as a time stamp or the padding.
        assert archive.records == whole.records, place
        assert archive.manifest == whole.manifest
        assert torch.equal(program.call("forward", {"x": zoo.noise(1, 2, 3)})["output"], expected)
        harmless += 1
    assert harmless < len(data) / 4


def test_a_flip_in_a_record_names_the_record(data: bytes) -> None:
    for name, content in records_of(data).items():
        if name.startswith("data/") or name == GOLDEN:
            flipped = bytearray(data)
            flipped[data.index(content) + len(content) // 2] ^= 4
            assert refusal(bytes(flipped)).startswith(f"record '{name}' is damaged: ")


def test_a_record_that_is_marked_as_a_folder_is_refused(data: bytes) -> None:
    """LibTorch gives memory for it that nobody has written; it may look like the record."""
    buffer = io.BytesIO(data)
    with zipfile.ZipFile(buffer, "a") as file:
        for info in file.infolist():
            info.external_attr |= 0x10 if info.filename.endswith("data/1") else 0
        file.writestr("archive/extra/more", b"")  # so that the directory is written again
    assert refusal(buffer.getvalue()) == "record 'data/1' is marked as a folder: expected a file"


def test_a_cut_at_any_length_is_refused(data: bytes) -> None:
    for length in [*range(0, len(data), 97), len(data) - 1]:
        refusal(data[:length])


def test_a_newer_format_is_refused_before_anything_else_is_read(data: bytes) -> None:
    def newer(manifest: dict[str, object]) -> None:
        manifest["format"] = 2
        manifest["name"] = 17  # a newer format may mean anything by its fields

    message = refusal(with_manifest(data, newer))
    assert "format 2, and this TorchShip reads formats up to 1" in message


@pytest.mark.parametrize("number", [None, "1", 0, True, 1.5])
def test_a_format_that_is_no_number(data: bytes, number: object) -> None:
    message = refusal(with_manifest(data, lambda manifest: manifest.update(format=number)))
    assert f"no format number: expected 1, got {number!r}" in message


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda m: m.pop("methods"), "methods"),
        (lambda m: m.update(name="a/b"), "name"),
        (lambda m: m.update(surprise=1), "surprise"),
        (lambda m: m["methods"]["forward"]["outputs"].update(dtype="float31"), "dtype"),
        (lambda m: m["methods"]["forward"]["tolerances"]["output"].update(atol=-1), "atol"),
        (lambda m: m["golden"][0].update(steps=0), "golden.0.steps"),
    ],
)
def test_a_manifest_whose_fields_do_not_fit(
    data: bytes, change: Callable[[dict[str, object]], object], field: str
) -> None:
    message = refusal(with_manifest(data, change))
    assert message.startswith("the manifest is wrong: field '")
    assert field in message


def test_a_manifest_that_is_not_json(data: bytes) -> None:
    assert "not JSON" in refusal(rezip(records_of(data) | {MANIFEST: b"{"}))
    assert "no format number" in refusal(rezip(records_of(data) | {MANIFEST: b"[1]"}))


def test_records_that_are_added_missing_or_exchanged(data: bytes) -> None:
    records = records_of(data)
    assert "record 'data/9' is not listed" in refusal(rezip(records | {"data/9": b"x"}))
    without = {name: content for name, content in records.items() if name != "data/1"}
    assert refusal(rezip(without)) == "record 'data/1' is missing"
    exchanged = records | {"data/1": records["data/1"][::-1]}
    assert "record 'data/1' is damaged: expected SHA-256" in refusal(rezip(exchanged))


def test_an_archive_that_lost_its_manifest_is_not_taken_for_a_plain_file(data: bytes) -> None:
    records = {name: content for name, content in records_of(data).items() if name != MANIFEST}
    assert refusal(rezip(records)) == f"it holds the record '{GOLDEN}' but no manifest"


def test_records_of_the_same_name(data: bytes) -> None:
    buffer = io.BytesIO(data)
    with zipfile.ZipFile(buffer, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("archive/data/1", b"other weights")
    assert refusal(buffer.getvalue()) == "record 'data/1' is there twice"


@pytest.mark.parametrize("name", ["other/data.pkl", "archive/../escape", "loose", "archive/a\\b"])
def test_records_where_none_may_be(data: bytes, name: str) -> None:
    buffer = io.BytesIO(data)
    with zipfile.ZipFile(buffer, "a") as file:
        file.writestr(name, b"x")
    assert f"record '{name}': expected a name below 'archive/'" in refusal(buffer.getvalue())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "not a readable zip"),
        (b"PK\x05\x06" + bytes(18), "not a TorchScript file"),
        (rezip({"readme": b"x"}), "it has no 'data.pkl' and 'constants.pkl'"),
        (b"\x93NUMPY not a zip at all", "not a readable zip"),
    ],
)
def test_files_that_are_something_else(content: bytes, expected: str) -> None:
    assert expected in refusal(content)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match=r"cannot read '.*none\.pt': No such file"):
        open_archive(tmp_path / "none.pt")


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.fspath(path))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (Path.mkdir, "is a directory: expected a regular file"),
        (os.mkfifo, "is a FIFO: expected a regular file"),
        (a_socket, "is a socket: expected a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "is a character device: expected a regular"),
        (lambda path: path.symlink_to("nowhere"), "No such file or directory"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    ],
)
def test_what_is_no_regular_file_is_refused_and_never_waited_for(
    tmp_path: Path, data: bytes, make: Callable[[Path], object], expected: str
) -> None:
    path = tmp_path / "a.pt"
    make(path)
    with pytest.raises(ArchiveError, match=expected):
        open_archive(path)
    path.rmdir() if path.is_dir() else path.unlink()
    path.write_bytes(data)
    make(tmp_path / "a.pt.sig")
    with pytest.raises(ArchiveError, match=expected):
        open_archive(path, [Ed25519PrivateKey.generate().public_key()])
    with pytest.raises(UsageError, match=expected):
        make_key(tmp_path / "key", tmp_path / "key.pub")
        make(tmp_path / "b.pt")
        sign(tmp_path / "b.pt", tmp_path / "key")


def test_a_file_without_an_end_is_not_read_into_memory(tmp_path: Path) -> None:
    with (tmp_path / "a.pt").open("wb") as file:
        file.truncate(1 << 40)
    program = """
import sys
from pathlib import Path
from torchship.script.runtime.archive import open_archive
from torchship.script.errors import ArchiveError, UnreadableError, UsageError
try:
    open_archive(Path(sys.argv[1]))
except ArchiveError as error:
    print(error)
lines = Path("/proc/self/status").read_text().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))
"""
    message, peak = run_python(program, tmp_path / "a.pt")
    assert message == "'a.pt' has 1099511627776 bytes: expected at most 4362076160"
    assert int(peak) << 10 < 1 << 30


def test_it_is_loaded_as_often_as_wanted_until_it_is_released(data: bytes) -> None:
    archive = parse_archive(Path("a.pt"), data)
    x = {"x": zoo.noise(1, 2, 3)}
    first, second = (archive.program().call("forward", x)["output"] for _ in range(2))
    assert torch.equal(first, second)
    assert archive.data == data
    assert archive.size == len(data)
    assert archive.records == records_of(data)
    assert archive.sizes == {name: len(record) for name, record in archive.records.items()}
    program, cases = archive.program(), archive.golden
    smallest = min(cases, key=lambda case: case.nbytes)
    archive.release(golden_bytes=smallest.nbytes)
    assert [case.name for case in archive.golden] == [smallest.name]
    assert torch.equal(program.call("forward", x)["output"], first)
    for use in (archive.load, lambda: archive.data, lambda: archive.records):
        with pytest.raises(ArchiveError, match=r"'a\.pt' was released: open it again"):
            use()


def test_what_was_checked_is_loaded_whatever_becomes_of_the_file(
    data: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(data)
    archive = open_archive(path)
    with path.open("r+b") as file:  # the same inode
        file.write(bytes(len(data)))
    assert archive.program().call("forward", {"x": zoo.noise(1, 2, 3)})
    assert archive.digest == hashlib.sha256(data).hexdigest()


def test_a_system_without_files_in_memory(
    data: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    x = {"x": zoo.noise(1, 2, 3)}
    expected = parse_archive(Path("a.pt"), data).program().call("forward", x)["output"]
    monkeypatch.delattr(os, "memfd_create")
    (tmp_path / "a.pt").write_bytes(data)
    make_key(tmp_path / "key", tmp_path / "key.pub")
    sign(tmp_path / "a.pt", tmp_path / "key")
    archive = open_archive(tmp_path / "a.pt", read_trusted_keys(tmp_path / "key.pub"))
    assert archive.data == data
    assert torch.equal(archive.program().call("forward", x)["output"], expected)


def test_the_bytes_are_in_memory_once_and_not_after_the_archive(
    data: bytes, tmp_path: Path
) -> None:
    class Large(torch.nn.Module):
        """float32[batch,1] -> float32[batch,1]; has 50 MB of weights in two records."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("a", torch.ones(25 << 18))
            self.register_buffer("b", torch.ones(25 << 18))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.a.mean() * self.b.mean()  # type: ignore[operator]

    def large() -> torch.nn.Module:
        return Large().eval()

    export(zoo.target(large, [{"x": zoo.noise(n, n, 1)} for n in (1, 2)]), tmp_path / "a.pt")
    program = """
import sys
from pathlib import Path
from torchship.script.runtime.archive import open_archive
def status():
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    said = {words[0]: int(words[1]) for words in lines if words[0] in ("VmRSS:", "VmHWM:")}
    return said["VmRSS:"], said["VmHWM:"]
open_archive(Path(sys.argv[2])).program()  # what every archive needs is there then
base, _ = status()
program = open_archive(Path(sys.argv[1])).program()
resident, peak = status()
print(resident - base, peak - base)
"""
    (tmp_path / "small.pt").write_bytes(data)
    (figures,) = run_python(program, tmp_path / "a.pt", tmp_path / "small.pt")
    resident, peak = (int(figure) << 10 for figure in figures.split())
    weights = 50 << 20
    assert resident < 1.4 * weights
    assert peak < 1.8 * weights


def test_a_plain_torchscript_file_is_reported_as_unverified(data: bytes) -> None:
    records = records_of(data)
    plain = rezip({name: c for name, c in records.items() if not name.startswith("extra/")})
    archive = parse_archive(Path("plain.pt"), plain)
    assert archive.manifest is None
    x = zoo.noise(1, 2, 3)
    expected = parse_archive(Path("a.pt"), data).program().call("forward", {"x": x})["output"]
    assert torch.equal(archive.load()(x), expected)
    with pytest.raises(ArchiveError, match="nothing vouches for it"):
        archive.program()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: t.pop("0/0/out/output"), "golden case 0 ('forward example 0') has no outputs"),
        (lambda t: t.update({"9/0/out/output": torch.zeros(1)}), "which no golden case names"),
        (
            lambda t: t.update({"loose": torch.zeros(1)}),
            "a tensor 'loose': expected case/step/in/name",
        ),
    ],
)
def test_a_golden_record_that_does_not_fit_the_manifest(
    data: bytes, change: Callable[[dict[str, torch.Tensor]], object], expected: str
) -> None:
    records = records_of(data)
    tensors = safetensors.torch.load(records[GOLDEN])
    change(tensors)
    records[GOLDEN] = safetensors.torch.save(tensors)
    manifest = json.loads(records[MANIFEST])
    manifest["records"][GOLDEN] = hashlib.sha256(records[GOLDEN]).hexdigest()
    archive = parse_archive(
        Path("a.pt"), rezip(records | {MANIFEST: json.dumps(manifest).encode()})
    )
    with pytest.raises(ArchiveError) as caught:
        _ = archive.golden
    assert expected in str(caught.value)
