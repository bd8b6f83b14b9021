"""The archive file: what it holds, and every way in which a damaged one is refused."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

import zoo
from torchship.script.archive import GOLDEN, MANIFEST, open_archive, parse_archive
from torchship.script.errors import ArchiveError
from torchship.script.export import export


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


def refusal(data: bytes) -> str:
    with pytest.raises(ArchiveError) as caught:
        parse_archive(Path("a.pt"), data)
    message = str(caught.value)
    assert message.startswith("'a.pt': ")
    return message.removeprefix("'a.pt': ")


def test_it_is_a_torchscript_file_that_torch_loads(data: bytes) -> None:
    extra = {"torchship/manifest.json": "", "torchship/golden.safetensors": ""}
    with pytest.warns(DeprecationWarning, match=r"torch\.jit"):
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
    with pytest.raises(ArchiveError, match=r"cannot read '.*none\.pt': No such file"):
        open_archive(tmp_path / "none.pt")
    with pytest.raises(ArchiveError, match="Is a directory"):
        open_archive(tmp_path)


def test_a_plain_torchscript_file_says_that_nothing_vouches_for_it(data: bytes) -> None:
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
