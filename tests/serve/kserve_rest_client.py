"""KServe's own REST client, as it is, against the real server."""

import asyncio
import warnings
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import numpy as np
import pytest

OBS = np.arange(2 * 510, dtype=np.uint8).reshape(2, 510)

T = TypeVar("T")
Ask = Callable[[Callable[[Any], Awaitable[T]]], T]


@pytest.fixture(scope="module")
def kserve() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it imports
        import kserve
        import kserve.protocol.infer_type

        return kserve


@pytest.fixture
def ask(kserve: Any) -> Ask[Any]:
    """Return a function that runs one conversation with a client of its own."""

    def run(talk: Callable[[Any], Awaitable[T]]) -> T:
        async def talked() -> T:
            config = kserve.RESTConfig(protocol="v2", retries=0)
            async with kserve.InferenceRESTClient(config) as client:
                return await talk(client)

        return asyncio.run(talked())

    return run


def test_health(ask: Ask[Any], server: Any) -> None:
    async def talk(client: Any) -> list[bool]:
        return [
            await client.is_server_live(server.url),
            await client.is_server_ready(server.url),
            await client.is_model_ready(server.url, "tiny"),
            await client.is_model_ready(server.url, "nobody"),
        ]

    assert ask(talk) == [True, True, True, False]


@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
def test_infer(
    kserve: Any, ask: Ask[Any], server: Any, reference: Any, binary_in: bool, binary_out: bool
) -> None:
    tensor = kserve.InferInput("obs", list(OBS.shape), "UINT8")
    tensor.set_data_from_numpy(OBS, binary_data=binary_in)
    wanted = kserve.protocol.infer_type.RequestedOutput("logits", {"binary_data": binary_out})
    request = kserve.InferRequest(
        model_name="tiny",
        infer_inputs=[tensor],
        request_id="seven",
        request_outputs=[wanted],
    )

    async def talk(client: Any) -> Any:
        return await client.infer(server.url, request, model_name="tiny")

    response = ask(talk)
    assert (response.id, response.model_name) == ("seven", "tiny")  # it drops the version
    logits = response.outputs[0].as_numpy()
    assert logits.dtype == np.float32
    assert logits.tobytes() == reference("tiny", obs=OBS)["logits"].numpy().tobytes()


def test_outputs_come_as_binary_data(kserve: Any, ask: Ask[Any], server: Any) -> None:
    tensor = kserve.InferInput("x", [2], "FP32")
    tensor.set_data_from_numpy(np.array([-1, 1], np.float32), binary_data=True)
    request = kserve.InferRequest("logarithm", [tensor], parameters={"binary_data_output": True})

    async def talk(client: Any) -> Any:
        return await client.infer(server.url, request, model_name="logarithm")

    # A NaN has no other way.
    assert str(ask(talk).outputs[0].as_numpy().tolist()) == "[nan, 0.0]"


def test_strings_and_numbers(kserve: Any, ask: Ask[Any], server: Any) -> None:
    ones = np.ones(3, np.float32)
    arrays = {name: ones for name in ("pair.0", "pair.1", "named.left", "many.0", "many.1")}
    arrays |= {"scale": np.array([0.25]), "times": np.array([3])}
    arrays["text"] = np.array(["grüße".encode()], dtype=np.object_)
    datatypes = {"scale": "FP64", "times": "INT64", "text": "BYTES"}

    async def talk(client: Any) -> Any:
        tensors = []
        for name, array in arrays.items():
            tensor = kserve.InferInput(name, list(array.shape), datatypes.get(name, "FP32"))
            tensor.set_data_from_numpy(array, binary_data=True)
            tensors.append(tensor)
        request = kserve.InferRequest("nested", tensors)
        return await client.infer(server.url, request, model_name="nested")

    outputs = {output.name: output for output in ask(talk).outputs}
    assert outputs["total"].as_numpy().tolist() == [6.25] * 3
    assert outputs["greets"].as_numpy().tolist() == [True]


def test_an_error_reaches_the_client(kserve: Any, ask: Ask[Any], server: Any) -> None:
    tensor = kserve.InferInput("obs", [1, 2], "UINT8")
    tensor.set_data_from_numpy(OBS[:1, :2], binary_data=True)

    async def talk(client: Any) -> Any:
        request = kserve.InferRequest("tiny", [tensor])
        return await client.infer(server.url, request, model_name="tiny")

    with pytest.raises(Exception, match="400 Bad Request"):
        ask(talk)


def test_a_server_that_is_not_ready(ask: Ask[Any], launch: Any, make_archive: Any) -> None:
    bad = make_archive("memory", edit=lambda flat: {name: v + 1 for name, v in flat.items()})
    with launch(bad) as process:
        assert process.line().startswith("failed: ")

        async def talk(client: Any) -> list[bool]:
            live = await client.is_server_live(process.url)
            with pytest.raises(Exception, match="503 Service Unavailable"):
                await client.is_server_ready(process.url)
            return [live, await client.is_model_ready(process.url, "memory")]

        assert ask(talk) == [True, False]
