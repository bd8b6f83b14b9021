"""The largest classes of an output, alone and through Triton's client."""

import math
from importlib import import_module
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from torchship.serve.errors import RequestError
from torchship.serve.protocol.classification import classified, largest
from torchship.serve.protocol.request_header import WantedOutput
from torchship.serve.protocol.tensors import Strings

triton: Any = import_module("tritonclient.http")


def test_the_largest_come_first_with_their_labels() -> None:
    rows = torch.tensor([[0.25, 3, -1], [5, 5, 7]])
    found = largest("y", rows, 2, {"y": ("a", "b", "c")})
    assert found == Strings(
        (2, 2), [b"3.000000:1:b", b"0.250000:0:a", b"7.000000:2:c", b"5.000000:0:a"]
    )
    other = {"z": ("a", "b", "c")}
    assert largest("y", rows, 1, other).items == [b"3.000000:1", b"7.000000:2"]


def test_of_equals_the_lower_index_comes_first() -> None:
    found = largest("y", torch.ones(1, 1000), 1000, {})
    assert found.items == [f"1.000000:{index}".encode() for index in range(1000)]


def test_a_class_without_a_label_has_its_index_only() -> None:
    found = largest("y", torch.tensor([1, 3, 2]), 3, {"y": ("a", "b")})
    assert found.items == [b"3:1:b", b"2:2", b"1:0:a"]


def test_integers_half_precision_and_more_classes_than_there_are() -> None:
    assert largest("y", torch.tensor([2**53 + 1, 2**53]), 9, {}) == Strings(
        (2,), [b"9007199254740993:0", b"9007199254740992:1"]
    )
    assert largest("y", torch.tensor([1.5, math.nan]).bfloat16(), 2, {}).items == [
        b"nan:1",
        b"1.500000:0",
    ]


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_nothing_has_no_classes(shape: tuple[int, int]) -> None:
    found = largest("y", torch.empty(shape), 2, {})
    assert found == Strings((shape[0], min(2, shape[1])), [])


@pytest.mark.parametrize(
    ("value", "came"),
    [
        (torch.tensor(1.0), "FP32[]"),
        (torch.tensor([True]), "BOOL[1]"),
        (Strings((1,), [b"a"]), "BYTES[1]"),
    ],
)
def test_what_has_no_classes_is_refused(value: Any, came: str) -> None:
    with pytest.raises(RequestError) as caught:
        largest("y", value, 1, {})
    assert str(caught.value) == (
        f"output 'y': classification needs numbers with a dimension of classes, got {came}"
    )


def test_only_the_outputs_that_were_asked_for_so() -> None:
    outputs: dict[str, Any] = {"y": torch.tensor([1, 2]), "z": torch.tensor([3, 4])}
    found = classified(outputs, [WantedOutput("y", classes=1), WantedOutput("z")], {})
    assert found == {"y": Strings((1,), [b"2:1"]), "z": outputs["z"]}


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_client(server: Any, reference: Any, binary: bool) -> None:
    obs = np.arange(2 * 510, dtype=np.uint8).reshape(2, 510)
    tensor = triton.InferInput("obs", [2, 510], "UINT8")
    tensor.set_data_from_numpy(obs)
    wanted = triton.InferRequestedOutput("logits", binary_data=binary, class_count=2)
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        result = client.infer("tiny", [tensor], outputs=[wanted])
    assert result.get_output("logits")["datatype"] == "BYTES"
    logits = reference("tiny", obs=obs)["logits"]
    expected = [
        [f"{row[i].item():f}:{i}" for i in row.argsort(descending=True)[:2].tolist()]
        for row in logits
    ]
    found = result.as_numpy("logits")
    assert [[str(i, "utf-8") if binary else i for i in row] for row in found.tolist()] == expected


@pytest.mark.parametrize("count", [-1, True, "3", 1.5, 2**31])
def test_a_count_that_is_none(server: Any, count: object) -> None:
    x = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}
    wanted = {"name": "output", "parameters": {"classification": count}}
    answer = httpx.post(
        f"{server.url}/v2/models/logarithm/infer", json={"inputs": [x], "outputs": [wanted]}
    )
    assert answer.status_code == 400
    assert answer.json()["error"] == (
        f"output 'output': expected classification to be a number of classes, got {count!r}"
    )
