"""Over a real socket, with Triton's own client where it has a word for it."""

import asyncio
import gzip
import logging
import math
import struct
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import ml_dtypes
import numpy as np
import orjson
import pytest
from fastapi import FastAPI
from tritonclient.utils import InferenceServerException

from torchship.serve.engine.engine import Engine
from torchship.serve.errors import BodyTooLargeError, QueueFullError
from torchship.serve.http.app import create_app
from torchship.serve.http.body import read_body
from torchship.serve.protocol.tensors import RawTensor
from torchship.serve.repository.repository import Repository

# It has no types.
triton: Any = import_module("tritonclient.http")

OBS = np.arange(2 * 510, dtype=np.uint8).reshape(2, 510)


@pytest.fixture(scope="module")
def http(server: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[Any]:
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        yield client


def given(name: str, datatype: str, array: np.ndarray[Any, Any], binary: bool = True) -> Any:
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def ask(http: httpx.Client, model: str, *inputs: Mapping[str, object], **head: object) -> Any:
    return http.post(f"/v2/models/{model}/infer", json={"inputs": list(inputs), **head})


def x(*values: float) -> dict[str, object]:
    return {"name": "x", "datatype": "FP32", "shape": [len(values)], "data": values}


def refusal(answer: httpx.Response, status: int = 400) -> str:
    assert answer.headers["content-type"] == "application/json"
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    message: str = answer.json()["error"]
    return message


def test_server_metadata_and_health(client: Any, http: httpx.Client) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    metadata = client.get_server_metadata()
    assert metadata["name"] == "torchship"
    assert metadata["extensions"] == [
        "binary_tensor_data",
        "classification",
        "model_configuration",
        "schedule_policy",
        "sequence",
        "statistics",
    ]
    assert http.get("/v2/health/ready").status_code == 200


def test_model_metadata_and_readiness(client: Any) -> None:
    metadata = client.get_model_metadata("tiny")
    assert metadata["versions"] == ["10", "9", "1"]
    assert metadata["inputs"] == [{"name": "obs", "datatype": "UINT8", "shape": [-1, 510]}]
    assert list(metadata["methods"]) == ["act"]
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "9")
    assert not client.is_model_ready("tiny", "8")
    assert not client.is_model_ready("nobody")


def test_model_configuration(client: Any, http: httpx.Client) -> None:
    for version in ("", "9"):
        config = client.get_model_config("tiny", version)
        assert config == {
            "name": "tiny",
            "platform": "pytorch_libtorch",
            "backend": "torchship",
            "max_batch_size": 0,
            "input": [{"name": "obs", "data_type": "TYPE_UINT8", "dims": [-1, 510]}],
            "output": [{"name": "logits", "data_type": "TYPE_FP32", "dims": [-1, 3]}],
        }
    inputs = {tensor["name"]: tensor for tensor in client.get_model_config("nested")["input"]}
    assert inputs["text"] == {"name": "text", "data_type": "TYPE_STRING", "dims": [1]}
    assert inputs["flag"]["data_type"] == "TYPE_BOOL"
    assert inputs["flag"]["optional"] is True
    assert "is unknown" in refusal(http.get("/v2/models/nobody/config"), 404)


def test_the_index_lists_every_archive(
    client: Any, http: httpx.Client, archives: dict[str, Path]
) -> None:
    index = client.get_model_repository_index()
    digest = sha256(archives["tiny"].read_bytes()).hexdigest()
    assert index[0] == {"name": "tiny", "version": "1", "state": "READY", "sha256": digest}
    assert [entry["version"] for entry in index if entry["name"] == "tiny"] == ["1", "9", "10"]
    assert http.post("/v2/repository/index", json={"ready": True}).json() == index
    refusal(http.get("/v2/repository/index"), 405)
    for content, message in ((b"[]", "expected a JSON object"), (b'{"ready":1}', "true or false")):
        assert message in refusal(http.post("/v2/repository/index", content=content))
    refusal(http.post("/v2/repository/index", content=b" " * ((1 << 20) + 1)), 413)


def test_the_index_says_why_an_archive_is_not_ready(
    launch: Any, make_archive: Any, archives: Any, tmp_path: Any
) -> None:
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"no archive")
    wrong = make_archive("half", edit=lambda flat: {name: v + 1 for name, v in flat.items()})
    with launch(archives["memory"], broken, wrong) as process:
        assert process.line().startswith("failed: ")
        assert process.line().startswith("failed: ")
        with triton.InferenceServerClient(process.url.removeprefix("http://")) as own:
            live, unread, failed = own.get_model_repository_index()
        only = httpx.post(f"{process.url}/v2/repository/index", json={"ready": True}).json()
    digest = sha256(archives["memory"].read_bytes()).hexdigest()
    assert live == {"name": "memory", "version": "1", "state": "READY", "sha256": digest}
    assert only == [live]
    assert unread.pop("reason").startswith("'broken.pt': not a readable zip")
    assert unread == {"name": "broken", "state": "UNAVAILABLE"}
    assert "golden case 0" in failed.pop("reason")
    assert failed == {"name": "half", "version": "1", "state": "UNAVAILABLE"}


@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
def test_tritons_client_gets_the_models_answer(
    client: Any, reference: Any, binary_in: bool, binary_out: bool
) -> None:
    outputs = [triton.InferRequestedOutput("logits", binary_data=binary_out)]
    inputs = [given("obs", "UINT8", OBS, binary_in)]
    result = client.infer("tiny", inputs, outputs=outputs, request_id="seven")
    logits = result.as_numpy("logits")
    assert logits.dtype == np.float32
    assert logits.tobytes() == reference("tiny", obs=OBS)["logits"].numpy().tobytes()
    response = result.get_response()
    assert (response["id"], response["model_name"]) == ("seven", "tiny")
    assert response["model_version"] == "10"


def test_tritons_client_asks_for_binary_data_by_default(client: Any) -> None:
    result = client.infer("tiny", [given("obs", "UINT8", OBS)], model_version="1")
    assert "parameters" in result.get_output("logits")
    assert result.get_response()["model_version"] == "1"
    assert "id" not in result.get_response()


def test_another_method_by_parameter(client: Any, reference: Any) -> None:
    inputs = [given("obs", "UINT8", OBS)]
    result = client.infer("tiny", inputs, parameters={"method": "act"})
    logits = reference("tiny", obs=OBS)["logits"]
    assert result.as_numpy("action").tolist() == logits.argmax(1).tolist()
    with pytest.raises(InferenceServerException, match="has no method 'train'"):
        client.infer("tiny", inputs, parameters={"method": "train"})


def test_every_kind_of_argument(client: Any) -> None:
    ones = np.ones(3, np.float32)
    rows = [given(n, "FP32", ones) for n in ("pair.0", "pair.1", "named.left", "many.0", "many.1")]
    numbers = [
        given("scale", "FP64", np.array([0.25])),
        given("times", "INT64", np.array(3)),
    ]
    for text, greets in (("grüße", True), ("", False)):
        for binary in (True, False):
            words = [given("text", "BYTES", np.array([text], dtype=np.object_), binary)]
            result = client.infer("nested", rows + numbers + words)
            assert result.as_numpy("total").tolist() == [6.25] * 3
            assert result.as_numpy("greets").tolist() == [greets]
    more = [given("flag", "BOOL", np.array([True])), given("bias", "FP32", ones)]
    result = client.infer("nested", rows + numbers + words + more)
    assert result.as_numpy("total").tolist() == [-7.25] * 3


def test_values_survive_json_exactly(http: httpx.Client) -> None:
    values: dict[str, tuple[str, list[Any]]] = {
        "f": ("FP32", [struct.unpack("<f", b"\x01\0\0\0")[0], np.float32(0.1).item()]),
        "d": ("FP64", [5e-324, 0.1 + 0.2]),
        "i": ("INT64", [2**63 - 1, -(2**63)]),
        "u": ("UINT8", [0, 255]),
        "b": ("BOOL", [True, False]),
    }
    inputs = [
        {"name": name, "datatype": datatype, "shape": [2], "data": data}
        for name, (datatype, data) in values.items()
    ]
    answer = ask(http, "exact", *inputs).json()
    outputs = {output["name"]: output for output in answer["outputs"]}
    for name, (datatype, data) in values.items():
        assert outputs[f"{name}_out"]["datatype"] == datatype
        assert outputs[f"{name}_out"]["data"] == data
    assert outputs["total"]["shape"] == []
    assert outputs["total"]["data"] == [np.float32(0.1).item()]


def test_only_the_requested_outputs_in_their_order(http: httpx.Client) -> None:
    inputs = [
        {"name": name, "datatype": datatype, "shape": [1], "data": [0]}
        for name, datatype in zip("fdiu", ("FP32", "FP64", "INT64", "UINT8"), strict=True)
    ]
    inputs.append({"name": "b", "datatype": "BOOL", "shape": [1], "data": [True]})
    wanted = [{"name": "i_out"}, {"name": "f_out"}]
    answer = ask(http, "exact", *inputs, outputs=wanted).json()
    assert [output["name"] for output in answer["outputs"]] == ["i_out", "f_out"]
    message = refusal(ask(http, "exact", *inputs, outputs=[{"name": "q"}]))
    assert message.startswith("unknown output 'q': expected 'f_out', 'd_out'")


def test_state_starts_by_itself_or_as_given(client: Any) -> None:
    row = given("x", "FP32", np.ones((1, 2), np.float32))
    first = client.infer("memory", [row]).as_numpy("h")
    assert first.tolist() == [[1.0, 1.0]]
    second = client.infer("memory", [row, given("h", "FP32", first)]).as_numpy("h")
    assert second.tolist() == [[1.5, 1.5]]


def test_nan_travels_as_binary_data_unless_asked_otherwise(client: Any, http: httpx.Client) -> None:
    result = client.infer("logarithm", [given("x", "FP32", np.array([-1, 0, 1], np.float32))])
    values = result.as_numpy("output").tolist()
    assert math.isnan(values[0])
    assert values[1:] == [-math.inf, 0.0]
    assert refusal(ask(http, "logarithm", x(-1, 0, 1))) == (
        "output 'output': 2 of 3 values are not finite, which JSON cannot carry: "
        "ask for it with binary_data, or for such values as the parameter non_finite says, "
        "'string' or 'null'"
    )


def test_half_precision_travels_as_binary_data_only(client: Any, http: httpx.Client) -> None:
    array = np.array([1.5, -2], ml_dtypes.bfloat16)
    tensor = given("x", "BF16", array)
    doubled = client.infer("half", [tensor]).as_numpy("double")
    assert (doubled.dtype, doubled.tolist()) == (array.dtype, [3.0, -4.0])
    wide = [triton.InferRequestedOutput("wide", binary_data=False)]
    assert client.infer("half", [tensor], outputs=wide).as_numpy("wide").tolist() == [1.5, -2.0]
    assert refusal(ask(http, "half", x(1) | {"datatype": "BF16"})) == (
        "input 'x': BF16 has no JSON form, send it as binary data"
    )


def test_a_request_gives_up_after_its_own_timeout(client: Any) -> None:
    inputs = [given("obs", "UINT8", OBS)]
    # A microsecond is over before the engine's thread has even been woken.
    with pytest.raises(InferenceServerException) as caught:
        client.infer("tiny", inputs, timeout=1)
    assert str(caught.value) == "[408] the request waited longer than its timeout"
    for timeout in (None, 0, 60_000_000):
        assert client.infer("tiny", inputs, timeout=timeout).as_numpy("logits").shape == (2, 3)


def test_priority_and_timeout_reach_the_engine(archives: Any) -> None:
    asked: list[tuple[int, float | None]] = []

    async def ask_all() -> None:
        repository = Repository([archives["logarithm"]])
        await repository.load()
        engine = repository.find("logarithm")
        run = engine.call

        async def watched(*said: Any, **named: Any) -> Mapping[str, RawTensor]:
            asked.append((named["priority"], named["timeout"]))
            return await run(*said, **named)

        engine.call = watched  # type: ignore[method-assign]
        transport = httpx.ASGITransport(create_app(repository))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as own:
            for parameters in ({}, {"priority": 0, "timeout": 0}, {"priority": 1}, {"priority": 2}):
                body = {"inputs": [x(1)], "parameters": {"timeout": 2_500_000, **parameters}}
                answer = await own.post("/v2/models/logarithm/infer", json=body)
                assert answer.status_code == 200
        repository.release()

    asyncio.run(ask_all())
    assert asked == [(2, 2.5), (2, None), (1, 2.5), (2, 2.5)]


def test_a_full_queue_is_the_clients_to_wait_for(archives: Any) -> None:
    async def ask_one() -> httpx.Response:
        repository = Repository([archives["logarithm"]])
        await repository.load()

        async def full(*_: object, **__: object) -> Mapping[str, RawTensor]:
            raise QueueFullError("too many rows wait")

        repository.find("logarithm").call = full  # type: ignore[method-assign]
        transport = httpx.ASGITransport(create_app(repository))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as own:
            answer = await own.post("/v2/models/logarithm/infer", json={"inputs": [x(1)]})
        repository.release()
        return answer

    assert refusal(asyncio.run(ask_one()), 429) == "too many rows wait"


def test_the_models_own_refusal_is_the_clients_error(http: httpx.Client) -> None:
    message = refusal(ask(http, "logarithm", x(60, 60)))
    assert message == "model 'logarithm' method 'forward' raised: the sum is over 100"


def test_wrong_inputs_are_named_with_what_came_and_what_was_expected(
    client: Any, http: httpx.Client
) -> None:
    cases = [
        (
            [given("obs", "FP32", np.ones((1, 512), np.float32))],
            "input 'obs': expected uint8[batch,510], got float32[1,512]",
        ),
        (
            [given("obs", "UINT8", np.ones((1, 2), np.uint8))],
            "input 'obs': expected uint8[batch,510], got uint8[1,2]",
        ),
        (
            [given("obs", "UINT8", np.ones(510, np.uint8))],
            "input 'obs': expected uint8[batch,510], got uint8[510]",
        ),
        ([given("image", "UINT8", OBS)], "unknown input 'image': expected 'obs'"),
        (
            [given("obs", "BYTES", np.array([b"a"], dtype=np.object_))],
            "input 'obs': expected uint8[batch,510], got BYTES[1]",
        ),
    ]
    for inputs, message in cases:
        with pytest.raises(InferenceServerException) as caught:
            client.infer("tiny", inputs)
        assert str(caught.value) == f"[400] {message}"
    assert refusal(ask(http, "tiny")) == "input 'obs' is missing: expected 'obs'"
    assert refusal(ask(http, "logarithm", x(1) | {"shape": [2]})) == (
        "input 'x': expected 2 values for FP32[2], got 1"
    )
    assert refusal(ask(http, "slow", x(1))) == "unknown input 'x': expected 'rounds'"


def test_a_lying_binary_request_is_refused(http: httpx.Client) -> None:
    head = (
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[2],'
        b'"parameters":{"binary_data_size":8}}]}'
    )
    cases = [
        (head + b"\0" * 4, len(head), "binary_data_size is 8, and 4 bytes are left"),
        (head + b"\0" * 12, len(head), "expected 8 bytes of binary data after the JSON, got 12"),
        (head + b"\0" * 8, len(head) + 99, "expected a length from 1 to the body's"),
        (head + b"\0" * 8, len(head) - 1, "the body is not JSON"),
    ]
    for content, length, message in cases:
        headers = {"Inference-Header-Content-Length": str(length)}
        answer = http.post("/v2/models/logarithm/infer", content=content, headers=headers)
        assert message in refusal(answer)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_tritons_client_compresses_requests(client: Any, reference: Any, encoding: str) -> None:
    logits = reference("tiny", obs=OBS)["logits"].numpy()
    for binary in (True, False):
        tensors = [given("obs", "UINT8", OBS, binary)]
        result = client.infer("tiny", tensors, request_compression_algorithm=encoding)
        assert result.as_numpy("logits").tobytes() == logits.tobytes()


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_tritons_client_gets_compressed_answers(
    client: Any, http: httpx.Client, reference: Any, encoding: str
) -> None:
    logits = reference("tiny", obs=OBS)["logits"].numpy()
    for binary in (True, False):
        result = client.infer(
            "tiny",
            [given("obs", "UINT8", OBS)],
            outputs=[triton.InferRequestedOutput("logits", binary_data=binary)],
            response_compression_algorithm=encoding,
        )
        assert result.as_numpy("logits").tobytes() == logits.tobytes()
    for accepted, got in ((encoding, encoding), ("gzip, deflate, br", None), ("identity", None)):
        headers = {"Accept-Encoding": accepted}
        body = {"inputs": [x(1)]}
        answer = http.post("/v2/models/logarithm/infer", json=body, headers=headers)
        assert answer.headers.get("content-encoding") == got
        assert answer.json()["outputs"][0]["data"] == [0.0]


def raw(http: httpx.Client, path: str, content: bytes, **headers: str) -> httpx.Response:
    return http.post(
        f"/v2/models/{path}/infer",
        content=content,
        headers={"Inference-Header-Content-Length": "0", **headers},
    )


def test_a_raw_request_is_the_inputs_data_alone(http: httpx.Client, reference: Any) -> None:
    logits = reference("tiny", obs=OBS)["logits"].numpy()
    for answer in (
        raw(http, "tiny", OBS.tobytes()),
        raw(http, "tiny/versions/10", gzip.compress(OBS.tobytes()), **{"Content-Encoding": "gzip"}),
    ):
        length = int(answer.headers["inference-header-content-length"])
        result = triton.InferenceServerClient.parse_response_body(
            answer.content, header_length=length
        )
        assert result.as_numpy("logits").tobytes() == logits.tobytes()
        assert result.get_response()["model_version"] == "10"


def test_what_a_raw_request_cannot_be(http: httpx.Client) -> None:
    cases = [
        ("tiny", bytes(511), "expected a multiple of 510 bytes for uint8[batch,510], got 511"),
        ("exact", b"", "expected a model that needs one tensor, it needs 'f', 'd', 'i', 'u', 'b'"),
        ("slow", bytes(8), "expected a model that needs one tensor, it needs 'rounds'"),
    ]
    for model, content, message in cases:
        assert message in refusal(raw(http, model, content))


def test_a_raw_request_leaves_state_to_start_by_itself(http: httpx.Client) -> None:
    answer = raw(http, "memory", np.ones((3, 2), np.float32).tobytes())
    length = int(answer.headers["inference-header-content-length"])
    assert [output["shape"] for output in orjson.loads(answer.content[:length])["outputs"]] == [
        [3, 2],
        [3, 2],
    ]
    assert answer.content[length + 24 :] == np.ones((3, 2), np.float32).tobytes()


def test_an_encoding_that_is_not_read_is_refused(http: httpx.Client) -> None:
    for encoding in ("br", "gzip, deflate", ""):
        headers = {"Content-Encoding": encoding}
        answer = http.post("/v2/models/tiny/infer", content=b"{}", headers=headers)
        assert refusal(answer, 415) == (
            f"Content-Encoding: expected gzip, deflate, identity, got {encoding!r}"
        )
        assert answer.headers["accept-encoding"] == "gzip, deflate, identity"
    headers = {"Content-Encoding": "gzip"}
    answer = http.post("/v2/models/tiny/infer", content=b"{}", headers=headers)
    assert refusal(answer).startswith("the body is not gzip: ")


def test_a_bomb_is_refused(http: httpx.Client) -> None:
    headers = {"Content-Encoding": "gzip"}
    for size, status in ((1 << 20, 400), ((1 << 20) + 1, 413)):
        content = gzip.compress(b" " * size)
        answer = http.post("/v2/models/tiny/infer", content=content, headers=headers)
        message = refusal(answer, status)
    assert message == "the inflated body is too large: expected at most 1048576 bytes"


def test_what_is_not_there(http: httpx.Client) -> None:
    for path in ("/v2/models/nobody", "/v2/models/tiny/versions/8", "/v2/models/nobody/ready"):
        assert "is unknown" in refusal(http.get(path), 404)
    assert refusal(ask(http, "nobody", x(1)), 404).startswith("model 'nobody' is unknown")
    for path in ("/v2/", "/v3", "/v2/models/..%2f..%2fetc/infer", "/redoc"):
        assert refusal(http.get(path), 404) == f"GET {httpx.URL(path).path}: not found"


def test_wrong_verbs(http: httpx.Client) -> None:
    answer = http.get("/v2/models/tiny/infer")
    assert refusal(answer, 405) == "GET /v2/models/tiny/infer: method not allowed"
    assert answer.headers["allow"] == "POST"
    refusal(http.post("/v2"), 405)


def test_a_body_over_the_limit_is_refused_announced_or_not(http: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(1 << 10):
            yield b" " * (1 << 12)

    for content in (b" " * ((1 << 20) + 1), endless()):
        answer = http.post("/v2/models/tiny/infer", content=content)
        assert refusal(answer, 413) == "the body is too large: expected at most 1048576 bytes"
    # Of exactly the limit it is read: what is wrong with it then is that it is no JSON.
    assert "not JSON" in refusal(http.post("/v2/models/tiny/infer", content=b" " * (1 << 20)))


def test_reading_ends_at_the_limit() -> None:
    received = 0

    async def receive() -> dict[str, object]:
        nonlocal received
        received += 1
        return {"type": "http.request", "body": b" " * 10, "more_body": received < 100}

    async def read() -> None:
        await read_body({}, receive, 25)

    with pytest.raises(BodyTooLargeError):
        asyncio.run(read())
    assert received == 3


def test_a_client_that_disconnects_early_does_not_affect_others(
    server: Any, http: httpx.Client
) -> None:
    for _ in range(5):
        with server.connect() as connection:
            connection.sendall(
                b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
            )
    assert ask(http, "logarithm", x(1)).json()["outputs"][0]["data"] == [0.0]


def test_concurrent_clients_get_their_own_answers(server: Any, http: httpx.Client) -> None:
    def many(client: int) -> None:
        with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as own:
            for number in range(40):
                value = float(client * 1000 + number)
                row = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [value, -value]}
                answer = ask(own, "memory", row, id=f"{client}-{number}").json()
                assert answer["id"] == f"{client}-{number}"
                assert answer["outputs"][1]["data"] == [value, -value]

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(many, client) for client in range(8)]:
            done.result()


def broken_app() -> FastAPI:
    class Broken(Repository):
        def find(self, name: str, version: str | None = None) -> Engine:
            raise RuntimeError("secret in /srv/models")

    return create_app(Broken([]))


@pytest.mark.parametrize("verb", ["GET", "POST"])
def test_an_unforeseen_error_tells_the_client_an_id_and_the_log_the_rest(
    verb: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def request() -> httpx.Response:
        transport = httpx.ASGITransport(broken_app())
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as own:
            return await own.request(verb, "/v2/models/m" + ("/infer" if verb == "POST" else ""))

    with caplog.at_level(logging.ERROR):
        message = refusal(asyncio.run(request()), 500)
    kind, _, number = message.rpartition(" ")
    assert (kind, len(number)) == ("internal error", 32)
    assert number in caplog.text
    assert "secret in /srv/models" in caplog.text
