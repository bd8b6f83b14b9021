"""The parsers of manifest and golden record, with untrusted bytes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import make_artefacts
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import zoo
from torchship.script.errors import ArchiveError, InputError
from torchship.script.exporting.export import export
from torchship.script.format import dtypes
from torchship.script.format.golden import from_safetensors, to_safetensors
from torchship.script.format.manifest import Argument, Manifest, Method, Tolerance, parse_manifest
from torchship.script.format.nodes import TensorNode, unique
from torchship.script.runtime.archive import GOLDEN, open_archive
from torchship.script.runtime.program import check_inputs

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    path = tmp_path_factory.mktemp("manifest") / "a.pt"
    return export(zoo.target(zoo.everything, zoo.everything_examples), path).require_manifest()


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, bytes]:
    path: Path = tmp_path_factory.mktemp("golden") / "a.pt"
    archive = export(zoo.target(zoo.linear, zoo.rows), path)
    return archive.require_manifest(), archive.records[GOLDEN]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside a JSON document."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = [path]
    for key, inner in items if isinstance(value, dict | list) else ():
        found += places(inner, (*path, key)) if isinstance(inner, dict | list) else [(*path, key)]
    return found


def test_a_manifest_survives_the_journey(valid: Manifest) -> None:
    assert parse_manifest(valid.to_json()) == valid


@given(st.binary(max_size=64) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_refused_with_a_reason(data: bytes) -> None:
    with pytest.raises(ArchiveError, match="manifest"):
        parse_manifest(data)


@given(st.data())
def test_any_value_in_any_place_is_taken_or_refused_with_a_reason(
    valid: Manifest, data: st.DataObject
) -> None:
    document = json.loads(valid.to_json())
    path = data.draw(st.sampled_from(places(document)[1:]))
    changed = copy.deepcopy(document)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = data.draw(json_values)
    try:
        parsed = parse_manifest(json.dumps(changed).encode())
    except ArchiveError as error:
        assert str(error)
    else:
        assert parse_manifest(parsed.to_json()) == parsed


@given(st.binary(max_size=256))
def test_any_bytes_for_a_golden_record(data: bytes) -> None:
    with pytest.raises(ArchiveError, match="golden record is not safetensors"):
        from_safetensors(data, (), {})


@given(st.data())
def test_a_golden_record_with_a_byte_changed(
    golden: tuple[Manifest, bytes], data: st.DataObject
) -> None:
    manifest, record = golden
    changed = bytearray(record)
    changed[data.draw(st.integers(0, len(record) - 1))] = data.draw(st.integers(0, 255))
    try:
        cases = from_safetensors(bytes(changed), manifest.golden, manifest.methods)
    except ArchiveError as error:
        assert str(error)
    else:
        assert [case.name for case in cases] == [entry.name for entry in manifest.golden]


def test_a_golden_record_survives_the_journey(golden: tuple[Manifest, bytes]) -> None:
    manifest, record = golden
    cases = from_safetensors(record, manifest.golden, manifest.methods)
    assert to_safetensors(cases) == record


sizes = st.integers(0, 3)
dimensions = sizes | st.sampled_from(["batch", "time"]) | st.none()
dtype_names = st.sampled_from(["float32", "float16", "int64", "bool", "uint16"])


@given(
    st.lists(st.tuples(dtype_names, st.lists(dimensions, max_size=3)), min_size=2, max_size=2),
    st.lists(st.tuples(dtype_names, st.lists(sizes, max_size=3)), min_size=2, max_size=2),
)
def test_tensors_are_taken_exactly_when_they_fit(
    expected: list[tuple[str, list[int | str | None]]], given: list[tuple[str, list[int]]]
) -> None:
    nodes = [
        TensorNode(name=name, dtype=dtype, shape=tuple(shape))
        for name, (dtype, shape) in zip("xy", expected, strict=True)
    ]
    arguments = tuple(Argument(name=node.name, required=True, value=node) for node in nodes)
    tolerances = {"x": Tolerance(atol=0, rtol=0)}
    method = Method(inputs=arguments, outputs=nodes[0], tolerances=tolerances)
    tensors = {
        name: torch.zeros(shape, dtype=dtypes.BY_NAME[dtype].torch)
        for name, (dtype, shape) in zip("xy", given, strict=True)
    }
    bound: dict[str, set[int]] = {}
    fits = True
    for (dtype, shape), (got_dtype, got) in zip(expected, given, strict=True):
        fits = fits and dtype == got_dtype and len(shape) == len(got)
        for wanted, size in zip(shape, got, strict=False):
            fits = fits and (not isinstance(wanted, int) or wanted == size)
            if isinstance(wanted, str):
                bound.setdefault(wanted, set()).add(size)
    fits = fits and all(len(seen) == 1 for seen in bound.values())
    if fits:
        assert check_inputs(method, tensors) == {name: seen.pop() for name, seen in bound.items()}
    else:
        with pytest.raises(InputError, match=r"input '[xy]': expected \w+\["):
            check_inputs(method, tensors)


MUTATIONS = json.loads((Path(zoo.__file__).parent / "manifest_mutations.json").read_text())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archives that the C++ tests open, one for each entry of the table."""
    folder = tmp_path_factory.mktemp("mutations")
    with pytest.warns(zoo.TORCHSCRIPT_NOTICE):
        make_artefacts.make_mutations(folder)
    return folder


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[entry["name"] for entry in MUTATIONS])
def test_python_takes_and_refuses_what_cpp_does(mutation: dict[str, Any], tiny: Path) -> None:
    verdict = "accepted" if mutation["accepted"] else "refused"
    path = tiny / verdict / f"{mutation['name']}.pt"
    if mutation["accepted"]:
        assert open_archive(path).golden is not None
    else:
        with pytest.raises(ArchiveError):
            _ = open_archive(path).golden


def test_very_many_names_are_gone_through_once() -> None:
    """A search for each of them would never end."""
    names = [f"name{number}" for number in range(1_000_000)]
    unique(names, "field")
    with pytest.raises(ValueError, match="field 'name7' stands twice"):
        unique([*names, "name8", "name7"], "field")
