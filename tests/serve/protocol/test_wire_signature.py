from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from torchship.script.format.manifest import Manifest
from torchship.script.runtime.archive import open_archive
from torchship.serve.errors import RequestError
from torchship.serve.protocol.tensors import Strings, Value
from torchship.serve.protocol.wire_signature import Signature, describe

Load = Callable[[str], Manifest]


@pytest.fixture
def manifest(archives: dict[str, Path]) -> Load:
    return lambda name: open_archive(archives[name]).require_manifest()


@pytest.fixture
def nested(manifest: Load) -> Signature:
    return Signature(manifest("nested").methods["forward"])


def test_metadata_names_the_leaves_with_minus_one_for_any_size(manifest: Load) -> None:
    row = {"datatype": "FP32", "shape": [-1]}
    assert describe(manifest("nested"), ["2", "1"], {"runtime": "native"}) == {
        "name": "nested",
        "versions": ["2", "1"],
        "platform": "pytorch_libtorch",
        "parameters": {"runtime": "native"},
        "inputs": [
            {"name": "pair.0", **row},
            {"name": "pair.1", **row},
            {"name": "named.left", **row},
            {"name": "many.*", **row, "optional": True},
            {"name": "text", "datatype": "BYTES", "shape": [1]},
            {"name": "scale", "datatype": "FP64", "shape": [1]},
            {"name": "times", "datatype": "INT64", "shape": [1]},
            {"name": "flag", "datatype": "BOOL", "shape": [1], "optional": True},
            {"name": "bias", **row, "optional": True},
        ],
        "outputs": [
            {"name": "total", **row},
            {"name": "greets", "datatype": "BOOL", "shape": [1]},
        ],
    }


def test_metadata_has_the_other_methods_beside_forward(manifest: Load) -> None:
    obs = {"name": "obs", "datatype": "UINT8", "shape": [-1, 510]}
    described = describe(manifest("tiny"), ["1"], {})
    assert described["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}]
    assert described["methods"] == {
        "act": {
            "inputs": [obs],
            "outputs": [{"name": "action", "datatype": "INT64", "shape": [-1]}],
        }
    }


def test_recurrent_state_may_be_left_out(manifest: Load) -> None:
    inputs = describe(manifest("memory"), ["1"], {})["inputs"]
    assert isinstance(inputs, list)
    assert [(entry["name"], entry.get("optional", False)) for entry in inputs] == [
        ("x", False),
        ("h", True),
    ]


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_string_becomes_its_utf_8_bytes(nested: Signature, shape: tuple[int, ...]) -> None:
    flat = nested.to_flat({"text": Strings(shape, ["é".encode()])})
    assert flat["text"].dtype == torch.uint8
    assert flat["text"].data == b"\xc3\xa9"


def test_an_empty_string_is_a_string(nested: Signature) -> None:
    assert nested.to_flat({"text": Strings((1,), [b""])})["text"].shape == (0,)


def test_leaves_become_wire_tensors_and_leaves_again(nested: Signature) -> None:
    flat = {
        "text": torch.tensor([65, 66], dtype=torch.uint8),
        "times": torch.tensor(3),
        "many.7": torch.ones(2),
    }
    wire = nested.to_wire(flat)
    assert wire["text"] == Strings((1,), [b"AB"])
    times = wire["times"]
    assert isinstance(times, torch.Tensor)
    assert times.shape == (1,)
    back = nested.to_flat(wire)
    assert back["text"].tensor().equal(flat["text"])
    assert back["many.7"].tensor().equal(flat["many.7"])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("pair.0", Strings((1,), [b"a"]), "expected float32[n], got BYTES[1]"),
        ("times", Strings((1,), [b"a"]), "expected int, got BYTES[1]"),
        ("text", Strings((2,), [b"a", b"b"]), "expected str (BYTES[1]), got BYTES[2]"),
        (
            "text",
            torch.tensor([65], dtype=torch.uint8),
            "expected str (BYTES[1]), got uint8[1]",
        ),
    ],
)
def test_a_string_for_an_input_that_is_no_string_is_refused(
    nested: Signature, name: str, value: Value, message: str
) -> None:
    with pytest.raises(RequestError) as caught:
        nested.to_flat({name: value})
    assert str(caught.value) == f"input '{name}': {message}"


def test_an_unknown_input_is_refused_with_the_known_ones(nested: Signature) -> None:
    for name in ("pair", "pair.2", "many", "many.0.1", "*"):
        with pytest.raises(RequestError, match=r"unknown input '.*': expected 'pair.0', 'pair.1',"):
            nested.to_flat({name: torch.ones(1)})
