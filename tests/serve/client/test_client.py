import math
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from torchship.script.format.manifest import Method
from torchship.script.format.tree import string_to_tensor
from torchship.script.runtime.archive import open_archive
from torchship.serve.client.client import Client
from torchship.serve.errors import ServerError


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


@pytest.fixture
def signatures(archives: dict[str, Path]) -> dict[str, Method]:
    return {
        name: open_archive(path).require_manifest().methods["forward"]
        for name, path in archives.items()
    }


@pytest.mark.parametrize("binary", [True, False])
def test_values_come_back_exactly(
    client: Client, signatures: dict[str, Method], binary: bool
) -> None:
    inputs = {
        "f": torch.tensor([0.1, -0.0, 1e-45]),
        "d": torch.tensor([0.1, -0.0, 5e-324], dtype=torch.float64),
        "i": torch.tensor([2**63 - 1, -(2**63), 0]),
        "u": torch.tensor([0, 7, 255], dtype=torch.uint8),
        "b": torch.tensor([True, False, True]),
    }
    outputs = client.infer("exact", signatures["exact"], inputs, binary=binary)
    for name, value in inputs.items():
        out = outputs[f"{name}_out"]
        assert out.dtype == value.dtype
        assert out.numpy().tobytes() == value.numpy().tobytes()
    assert outputs["total"].shape == ()


@pytest.mark.parametrize("binary", [True, False])
def test_strings_and_numbers_travel_by_their_kind(
    client: Client, signatures: dict[str, Method], binary: bool
) -> None:
    inputs = {name: torch.ones(2) for name in ("pair.0", "pair.1", "named.left", "many.0")}
    inputs |= {
        "text": string_to_tensor("grüße"),
        "scale": torch.tensor(0.5, dtype=torch.float64),
        "times": torch.tensor(2),
        "flag": torch.tensor(True),
    }
    outputs = client.infer("nested", signatures["nested"], inputs, binary=binary)
    assert outputs["total"].tolist() == [-4.5, -4.5]
    assert outputs["greets"].tolist() == [True]


@pytest.mark.parametrize("binary", [True, False])
def test_half_precision_is_binary_either_way(
    client: Client, signatures: dict[str, Method], binary: bool
) -> None:
    x = torch.tensor([1.5, -2.0], dtype=torch.bfloat16)
    outputs = client.infer("half", signatures["half"], {"x": x}, binary=binary)
    assert outputs["double"].dtype == torch.bfloat16
    assert outputs["double"].tolist() == [3.0, -4.0]
    assert outputs["wide"].dtype == torch.float32


def test_a_method_and_a_version_can_be_chosen(
    client: Client, signatures: dict[str, Method]
) -> None:
    obs = {"obs": torch.zeros(2, 510, dtype=torch.uint8)}
    action = client.infer("tiny", signatures["tiny"], obs, "act", version="9")["action"]
    assert (action.dtype, action.shape) == (torch.int64, (2,))
    with pytest.raises(ServerError, match="version '8' is unknown") as caught:
        client.infer("tiny", signatures["tiny"], obs, version="8")
    assert caught.value.status == 404


@pytest.mark.parametrize("binary", [True, False])
def test_nan_travels_in_either_form(
    client: Client, signatures: dict[str, Method], binary: bool
) -> None:
    signature = signatures["logarithm"]
    for value in (math.nan, -1.0):
        x = {"x": torch.tensor([value])}
        outputs = client.infer("logarithm", signature, x, binary=binary)
        assert math.isnan(outputs["output"].item())


def test_a_missing_server_is_reported(signatures: dict[str, Method]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    with (
        Client(f"http://127.0.0.1:{port}") as client,
        pytest.raises(ServerError, match=r"no answer from http://127\.0\.0\.1"),
    ):
        client.infer("half", signatures["half"], {"x": torch.ones(1).bfloat16()})
