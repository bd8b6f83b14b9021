"""Triton's gRPC client, as it is: every call that this server supports."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from importlib import import_module
from queue import Queue
from typing import Any

import numpy as np
import pytest

# It has no types.
InferenceServerException: Any = import_module("tritonclient.utils").InferenceServerException
triton: Any = import_module("tritonclient.grpc")
aio: Any = import_module("tritonclient.grpc.aio")

OBS = np.arange(2 * 510, dtype=np.uint8).reshape(2, 510)


@pytest.fixture(scope="module")
def client(grpc_server: Any) -> Iterator[Any]:
    with triton.InferenceServerClient(grpc_server.grpc) as client:
        yield client


def given(name: str, datatype: str, array: np.ndarray[Any, Any]) -> Any:
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def test_health_and_readiness(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "9")
    assert not client.is_model_ready("tiny", "2")
    assert not client.is_model_ready("nobody")


def test_metadata_configuration_statistics_and_index(client: Any) -> None:
    server = client.get_server_metadata()
    assert server.name == "torchship"
    assert "sequence" in server.extensions
    metadata = client.get_model_metadata("tiny")
    assert (list(metadata.versions), metadata.platform) == (["9", "1"], "pytorch_libtorch")
    assert (metadata.inputs[0].datatype, list(metadata.inputs[0].shape)) == ("UINT8", [-1, 510])
    config = client.get_model_config("tiny").config
    assert (config.backend, config.input[0].data_type) == ("torchship", 2)  # TYPE_UINT8
    assert list(client.get_model_config("half").config.input[0].dims) == [-1]
    index = client.get_model_repository_index().models
    assert {("tiny", "1"), ("tiny", "9"), ("every", "1")} <= {(m.name, m.version) for m in index}
    assert {m.state for m in index} == {"READY"}
    stats = client.get_inference_statistics()
    assert len(stats.model_stats) == len(index)
    with pytest.raises(InferenceServerException, match="'nobody'") as error:
        client.get_model_metadata("nobody")
    assert error.value.status() == "StatusCode.NOT_FOUND"


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_everything_at_once(client: Any, reference: Any, compression: str | None) -> None:
    result = client.infer(
        "tiny",
        [given("obs", "UINT8", OBS)],
        model_version="9",
        outputs=[triton.InferRequestedOutput("logits")],
        request_id="all",
        priority=1,
        timeout=60_000_000,
        client_timeout=60,
        headers={"x-any": "thing"},
        compression_algorithm=compression,
        parameters={"method": "forward", "other": "x", "number": 1, "flag": True},
    )
    response = result.get_response()
    assert (response.id, response.model_version) == ("all", "9")
    logits = reference("tiny", obs=OBS)["logits"].numpy()
    assert result.as_numpy("logits").tobytes() == logits.tobytes()


def test_text_and_classes(client: Any) -> None:
    ones = np.ones(3, np.float32)
    inputs = [given(n, "FP32", ones) for n in ("pair.0", "pair.1", "named.left", "many.0")]
    inputs += [given("scale", "FP64", np.array([0.25])), given("times", "INT64", np.array([3]))]
    inputs.append(given("text", "BYTES", np.array(["grüße".encode()], dtype=np.object_)))
    result = client.infer("nested", inputs)
    assert result.as_numpy("total").tolist() == [5.25] * 3
    assert result.as_numpy("greets").tolist() == [True]
    wanted = triton.InferRequestedOutput("logits", class_count=2)
    ranked = client.infer("tiny", [given("obs", "UINT8", OBS)], outputs=[wanted])
    assert ranked.as_numpy("logits").shape == (2, 2)


def test_async_inference(client: Any, reference: Any) -> None:
    answers: Queue[tuple[Any, Any]] = Queue()
    for number in range(8):
        client.async_infer(
            "tiny",
            [given("obs", "UINT8", OBS[: 1 + number % 2])],
            lambda result, error: answers.put((result, error)),
            request_id=str(number),
        )
    logits = reference("tiny", obs=OBS)["logits"].numpy()
    seen = set()
    for _ in range(8):
        result, error = answers.get(timeout=60)
        assert error is None
        number = int(result.get_response().id)
        seen.add(number)
        rows = logits[: 1 + number % 2]
        np.testing.assert_allclose(result.as_numpy("logits"), rows, rtol=1e-5, atol=1e-6)
    assert seen == set(range(8))


def recurrent(xs: list[float]) -> list[float]:
    """What `memory` answers to steps of one value."""
    found, h = [], np.float32(0)
    for x in xs:
        h = h * np.float32(0.5) + np.float32(x)
        found.append(float(np.tanh(h)))
    return found


def test_a_stream_of_several_sequences_and_plain_requests_and_an_error(client: Any) -> None:
    answers: Queue[tuple[Any, Any]] = Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    xs = {7: [1.0, 2.0, 3.0], 8: [-1.0, 0.5, 0.25]}
    for step in range(3):
        for sequence, values in xs.items():
            client.async_stream_infer(
                "memory",
                [given("x", "FP32", np.full((1, 2), values[step], np.float32))],
                request_id=f"{sequence}:{step}",
                sequence_id=sequence,
                sequence_start=step == 0,
                sequence_end=step == 2,
                enable_empty_final_response=True,
            )
        client.async_stream_infer("nobody", [given("x", "FP32", np.ones((1, 2), np.float32))])
        client.async_stream_infer("tiny", [given("obs", "UINT8", OBS)], request_id="plain")
    found, expected = [], []
    for step in range(3):
        for sequence, values in xs.items():
            result, error = answers.get(timeout=60)
            assert error is None
            response = result.get_response()
            assert response.id == f"{sequence}:{step}"
            assert response.parameters["triton_final_response"].bool_param
            found.append(result.as_numpy("y")[0, 0])
            expected.append(recurrent(values)[step])
        result, error = answers.get(timeout=60)
        assert "'nobody'" in str(error)
        result, error = answers.get(timeout=60)
        assert result.get_response().id == "plain"
    client.stop_stream()
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_asyncio(grpc_server: Any, reference: Any) -> None:
    async def talk() -> tuple[Any, list[Any]]:
        async with aio.InferenceServerClient(grpc_server.grpc) as client:
            result = await client.infer("tiny", [given("obs", "UINT8", OBS)])

            async def steps() -> Any:
                for number in range(3):
                    yield {
                        "model_name": "memory",
                        "inputs": [given("x", "FP32", np.ones((1, 2), np.float32))],
                        "sequence_id": "asyncio",
                        "sequence_start": number == 0,
                        "sequence_end": number == 2,
                    }

            found = [answer async for answer, error in client.stream_infer(steps())]
            return result, found

    result, found = asyncio.run(talk())
    logits = reference("tiny", obs=OBS)["logits"].numpy()
    assert result.as_numpy("logits").tobytes() == logits.tobytes()
    values = [answer.as_numpy("y")[0, 0] for answer in found]
    np.testing.assert_allclose(values, recurrent([1, 1, 1]), rtol=1e-6)


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
    with pytest.raises(InferenceServerException) as error:
        call(client)
    assert error.value.status() == "StatusCode.UNIMPLEMENTED"


def test_loading_and_unloading(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="expected explicit mode") as error:
        client.load_model("tiny")
    assert error.value.status() == "StatusCode.FAILED_PRECONDITION"
    with pytest.raises(InferenceServerException, match="expected explicit mode"):
        client.unload_model("tiny")
    with pytest.raises(InferenceServerException, match="'config' is not supported"):
        client.load_model("tiny", config="{}")
