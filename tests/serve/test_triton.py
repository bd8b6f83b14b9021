"""Triton's client: every call that this server supports, besides those in test_app.py."""

import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import httpx
import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

# It has no types.
triton: Any = import_module("tritonclient.http")

OBS = np.arange(2 * 510, dtype=np.uint8).reshape(2, 510)

EDGES: dict[str, tuple[str, Any]] = {
    "h": ("FP16", np.array([65504, -(2**-24), np.inf], np.float16)),
    "a": ("INT8", np.array([-128, 0, 127], np.int8)),
    "s": ("INT16", np.array([-(2**15), 0, 2**15 - 1], np.int16)),
    "i": ("INT32", np.array([-(2**31), 0, 2**31 - 1], np.int32)),
    "us": ("UINT16", np.array([0, 1, 2**16 - 1], np.uint16)),
    "ui": ("UINT32", np.array([0, 1, 2**32 - 1], np.uint32)),
    "ul": ("UINT64", np.array([0, 1, 2**64 - 1], np.uint64)),
}


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[Any]:
    address = server.url.removeprefix("http://")
    with triton.InferenceServerClient(address, concurrency=4) as client:
        yield client


def given(name: str, datatype: str, array: np.ndarray[Any, Any], binary: bool = True) -> Any:
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("size", [3, 0])
def test_the_edges_of_every_datatype(client: Any, binary: bool, size: int) -> None:
    inputs = [
        given(name, datatype, array[:size], binary or datatype == "FP16")
        for name, (datatype, array) in EDGES.items()
    ]
    outputs = [
        triton.InferRequestedOutput(f"{name}_out", binary_data=binary or datatype == "FP16")
        for name, (datatype, _) in EDGES.items()
    ]
    result = client.infer("every", inputs, outputs=outputs)
    for name, (datatype, array) in EDGES.items():
        assert result.get_output(f"{name}_out")["datatype"] == datatype
        found = result.as_numpy(f"{name}_out")
        assert found.dtype == array.dtype
        assert found.tobytes() == array[:size].tobytes()


def test_numbers_past_the_edges_of_json_are_refused(server: Any) -> None:
    inputs = [
        {"name": name, "datatype": datatype, "shape": [1], "data": [1]}
        for name, (datatype, _) in EDGES.items()
        if name != "h"
    ]
    for number, (smallest, largest) in enumerate(
        [(-128, 127), (-(2**15), 2**15 - 1), (-(2**31), 2**31 - 1), (0, 2**16 - 1), (0, 2**32 - 1)]
    ):
        for value in (smallest - 1, largest + 1):
            wrong = [*inputs]
            wrong[number] = {**inputs[number], "data": [value]}
            answer = httpx.post(f"{server.url}/v2/models/every/infer", json={"inputs": wrong})
            assert answer.status_code == 400
            assert f"values from {smallest} to {largest}, got {value}" in answer.json()["error"]


def test_async_inference(client: Any, reference: Any) -> None:
    tensors = [given("obs", "UINT8", OBS[: 1 + number % 2]) for number in range(8)]
    waiting = [
        client.async_infer("tiny", [tensor], request_id=str(number), priority=1 + number % 2)
        for number, tensor in enumerate(tensors)
    ]
    logits = reference("tiny", obs=OBS)["logits"].numpy()
    for number, request in enumerate(waiting):
        result = request.get_result()
        assert result.get_response()["id"] == str(number)
        np.testing.assert_allclose(
            result.as_numpy("logits"), logits[: 1 + number % 2], rtol=1e-5, atol=1e-6
        )


def test_everything_at_once(client: Any, reference: Any) -> None:
    result = client.infer(
        "tiny",
        [given("obs", "UINT8", OBS)],
        model_version="9",
        outputs=[triton.InferRequestedOutput("logits", binary_data=True)],
        request_id="all",
        priority=1,
        timeout=60_000_000,
        headers={"X-Any": "thing"},
        query_params={"any": "thing"},
        request_compression_algorithm="gzip",
        response_compression_algorithm="deflate",
        parameters={"method": "forward", "other": "x", "number": 1, "flag": True, "real": 0.5},
    )
    response = result.get_response()
    assert (response["id"], response["model_version"]) == ("all", "9")
    logits = reference("tiny", obs=OBS)["logits"].numpy()
    assert result.as_numpy("logits").tobytes() == logits.tobytes()


def test_bodies_that_another_http_client_sends(server: Any, reference: Any) -> None:
    body, length = triton.InferenceServerClient.generate_request_body([given("obs", "UINT8", OBS)])
    headers = {"Inference-Header-Content-Length": str(length)}
    answer = httpx.post(f"{server.url}/v2/models/tiny/infer", content=body, headers=headers)
    result = triton.InferenceServerClient.parse_response_body(
        answer.content, header_length=int(answer.headers["inference-header-content-length"])
    )
    logits = reference("tiny", obs=OBS)["logits"].numpy()
    assert result.as_numpy("logits").tobytes() == logits.tobytes()


def test_metadata_configuration_index_and_readiness_of_each_version(client: Any) -> None:
    assert client.get_model_metadata("tiny")["versions"] == ["10", "9", "1"]
    for version in ("1", "9", "10"):
        assert client.is_model_ready("tiny", version)
        assert client.get_model_metadata("tiny", version)["name"] == "tiny"
        assert client.get_model_config("tiny", version)["name"] == "tiny"
    index = {(entry["name"], entry["version"]) for entry in client.get_model_repository_index()}
    assert {("tiny", "1"), ("tiny", "9"), ("tiny", "10"), ("every", "1")} <= index
    datatypes = {t["name"]: t["datatype"] for t in client.get_model_metadata("every")["inputs"]}
    assert datatypes == {name: datatype for name, (datatype, _) in EDGES.items()}
    types = {t["name"]: t["data_type"] for t in client.get_model_config("every")["input"]}
    assert types == {name: f"TYPE_{datatype}" for name, (datatype, _) in EDGES.items()}


def test_text_that_is_no_text_is_the_clients_error(client: Any) -> None:
    ones = np.ones(3, np.float32)
    inputs = [given(n, "FP32", ones) for n in ("pair.0", "pair.1", "named.left", "many.0")]
    inputs += [given("scale", "FP64", np.array([0.25])), given("times", "INT64", np.array(3))]
    inputs.append(given("text", "BYTES", np.array([b"\xff\xfe"], dtype=np.object_)))
    with pytest.raises(InferenceServerException, match=re.escape("[400] input 'text'")):
        client.infer("nested", inputs)


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.get_trace_settings(),
        lambda client: client.get_log_settings(),
        lambda client: client.get_system_shared_memory_status(),
        lambda client: client.register_system_shared_memory("a", "b", 8),
        lambda client: client.get_cuda_shared_memory_status(),
    ],
)
def test_what_this_server_lacks_is_reported(client: Any, call: Any) -> None:
    with pytest.raises(InferenceServerException, match=r"\[404\] .*not found"):
        call(client)
