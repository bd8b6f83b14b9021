"""Inference over gRPC: the same answers as over HTTP, and the same errors."""

from __future__ import annotations

import json
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rpc import DTYPES, Connection, add, outputs, refused, request, trailing
from torchship.serve.errors import STATUS
from torchship.serve.grpc import inference_pb2 as pb

OBS = np.arange(2 * 510, dtype=np.uint8).reshape(2, 510)
ONES = np.ones(3, np.float32)

EVERY: dict[str, Any] = {
    "h": np.array([65504, -(2**-24), np.inf], np.float16),
    "a": np.array([-128, 0, 127], np.int8),
    "s": np.array([-(2**15), 0, 2**15 - 1], np.int16),
    "i": np.array([-(2**31), 0, 2**31 - 1], np.int32),
    "us": np.array([0, 1, 2**16 - 1], np.uint16),
    "ui": np.array([0, 1, 2**32 - 1], np.uint32),
    "ul": np.array([0, 1, 2**64 - 1], np.uint64),
}
EXACT: dict[str, Any] = {
    "f": np.array([np.nan, 1e-45, -0.0], np.float32),
    "d": np.array([np.inf, 5e-324, 1], np.float64),
    "i": np.array([-(2**63), 0, 2**63 - 1], np.int64),
    "u": np.array([0, 1, 255], np.uint8),
    "b": np.array([True, False, True]),
}


def over_http(server: Any, model: str, **inputs: np.ndarray[Any, Any]) -> dict[str, bytes]:
    """Return the outputs of the same request over HTTP, as binary data."""
    entries = [
        {
            "name": name,
            "datatype": DTYPES[array.dtype.name],
            "shape": array.shape,
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in inputs.items()
    ]
    head = json.dumps({"inputs": entries, "parameters": {"binary_data_output": True}}).encode()
    length = "Inference-Header-Content-Length"
    answer = httpx.post(
        f"{server.url}/v2/models/{model}/infer",
        content=head + b"".join(array.tobytes() for array in inputs.values()),
        headers={length: str(len(head))},
        trust_env=False,
    )
    assert answer.status_code == 200, answer.text
    size = int(answer.headers[length])
    found, place = {}, size
    for entry in json.loads(answer.content[:size])["outputs"]:
        end = place + entry["parameters"]["binary_data_size"]
        found[entry["name"]] = answer.content[place:end]
        place = end
    return found


@pytest.mark.parametrize(
    ("model", "inputs"), [("every", EVERY), ("exact", EXACT), ("tiny", {"obs": OBS})]
)
def test_answers_are_those_of_http_bit_for_bit(
    grpc_server: Any, connection: Connection, model: str, inputs: Any
) -> None:
    answer = connection.infer(request(model, id="7", **inputs))
    assert outputs(answer) == over_http(grpc_server, model, **inputs)
    assert (answer.model_name, answer.id) == (model, "7")
    datatypes = {output.name: output.datatype for output in answer.outputs}
    for name, array in inputs.items():
        assert datatypes.get(f"{name}_out", DTYPES[array.dtype.name]) == DTYPES[array.dtype.name]


def test_typed_contents_in_and_out(grpc_server: Any, connection: Connection) -> None:
    message = pb.ModelInferRequest(model_name="exact")
    fields = ("fp32", "fp64", "int64", "uint", "bool")
    for (name, array), field in zip(EXACT.items(), fields, strict=True):
        contents = add(message, name, DTYPES[array.dtype.name], array.shape)
        getattr(contents, f"{field}_contents").extend(array.tolist())
    assert outputs(connection.infer(message)) == over_http(grpc_server, "exact", **EXACT)
    message.parameters["binary_data_output"].bool_param = False
    answer = connection.infer(message)
    assert not answer.raw_output_contents
    typed = {output.name: output.contents for output in answer.outputs}
    assert list(typed["i_out"].int64_contents) == EXACT["i"].tolist()
    assert list(typed["b_out"].bool_contents) == EXACT["b"].tolist()
    assert str(list(typed["f_out"].fp32_contents)) == str(EXACT["f"].tolist())
    assert list(typed["u_out"].uint_contents) == EXACT["u"].tolist()


def nested(text: bytes) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="nested")
    for name in ("pair.0", "pair.1", "named.left", "many.0"):
        add(message, name, "FP32", [3]).fp32_contents.extend([1, 1, 1])
    add(message, "scale", "FP64", [1]).fp64_contents.append(0.25)
    add(message, "times", "INT64", []).int64_contents.append(3)
    add(message, "text", "BYTES", [1]).bytes_contents.append(text)
    return message


def test_strings_and_numbers(connection: Connection) -> None:
    found = outputs(connection.infer(nested("grüße".encode())))
    assert np.frombuffer(found["total"], np.float32).tolist() == [5.25] * 3
    assert found["greets"] == b"\1"
    raw = nested(b"")
    for tensor in raw.inputs:
        contents = tensor.contents
        numbers = [*contents.fp32_contents, *contents.fp64_contents, *contents.int64_contents]
        kind = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64}.get(tensor.datatype)
        text = "grüße".encode()
        packed = len(text).to_bytes(4, "little") + text
        raw.raw_input_contents.append(np.array(numbers, kind).tobytes() if kind else packed)
        tensor.ClearField("contents")
    assert outputs(connection.infer(raw))["greets"] == b"\1"


def test_half_precision_is_raw_both_ways(connection: Connection) -> None:
    message = pb.ModelInferRequest(model_name="half", raw_input_contents=[b"\x80\x3f"])
    add(message, "x", "BF16", [1])
    answer = connection.infer(message)
    assert (answer.outputs[0].datatype, answer.raw_output_contents[0]) == ("BF16", b"\x00\x40")
    message.parameters["binary_data_output"].bool_param = False
    with pytest.raises(grpc.RpcError) as error:
        connection.infer(message)
    assert refused(error.value)[0] == "INVALID_ARGUMENT"


def test_methods_versions_outputs_and_classes(connection: Connection) -> None:
    acted = connection.infer(request("tiny", obs=OBS, parameters={"method": "act"}))
    assert acted.outputs[0].name == "action"
    assert connection.infer(request("tiny", obs=OBS)).model_version == "9"
    assert connection.infer(request("tiny", version="1", obs=OBS)).model_version == "1"
    ranked = request("tiny", obs=OBS)
    ranked.outputs.add(name="logits").parameters["classification"].int64_param = 1
    answer = connection.infer(ranked)
    assert (answer.outputs[0].datatype, list(answer.outputs[0].shape)) == ("BYTES", [2, 1])
    assert answer.raw_output_contents[0][4:].split(b":")[1][:1] in b"012"


def test_values_that_are_not_finite_need_no_parameter(connection: Connection) -> None:
    answer = connection.infer(request("logarithm", x=np.array([-1, 0], np.float32)))
    values = np.frombuffer(answer.raw_output_contents[0], np.float32)
    assert str(values.tolist()) == "[nan, -inf]"


@pytest.mark.parametrize(
    ("message", "status", "text"),
    [
        (request("nobody", x=ONES), "NOT_FOUND", "'nobody'"),
        (request("", x=ONES), "NOT_FOUND", "''"),
        (request("tiny", version="7", obs=OBS), "NOT_FOUND", "'7'"),
        (request("tiny", obs=OBS[:, :2]), "INVALID_ARGUMENT", "expected uint8.batch,510."),
        (request("tiny", x=ONES), "INVALID_ARGUMENT", "unknown input 'x': expected 'obs'"),
        (request("tiny", obs=OBS, parameters={"method": "no"}), "INVALID_ARGUMENT", "'act'"),
        (request("tiny", obs=OBS, parameters={"priority": 9}), "INVALID_ARGUMENT", "1 or 2"),
        (request("logarithm", x=ONES * 99), "INVALID_ARGUMENT", "the sum is over 100"),
        (request("memory", x=np.ones((1, 2), np.float32), parameters={"sequence_id": 9}),
         "NOT_FOUND", "sequence"),
        (request("tiny", obs=OBS, parameters={"sequence_id": 9, "sequence_start": True}),
         "INVALID_ARGUMENT", "has no state"),
    ],
)  # fmt: skip
def test_errors_have_the_text_of_http_and_the_status_of_the_table(
    connection: Connection, message: pb.ModelInferRequest, status: str, text: str
) -> None:
    with pytest.raises(grpc.RpcError, match=text) as error:
        connection.infer(message)
    assert refused(error.value)[0] == status
    assert trailing(error.value)["x-request-id"]


def test_every_error_of_the_table_has_a_status_of_grpc() -> None:
    for kind, known in STATUS.items():
        assert hasattr(grpc.StatusCode, known.grpc), kind
        expected = "UNIMPLEMENTED" if known.http == 501 else "UNAVAILABLE"
        assert known.http < 500 or known.grpc == expected


def test_what_is_too_large_is_refused_also_once_inflated(connection: Connection) -> None:
    large = request("tiny", obs=np.zeros((3000, 510), np.uint8))
    for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
        with pytest.raises(grpc.RpcError) as error:
            connection.infer(large, compression=compression)
        assert refused(error.value)[0] == "RESOURCE_EXHAUSTED"
    small = request("tiny", obs=OBS)
    for compression in (grpc.Compression.Deflate, grpc.Compression.Gzip):
        assert connection.infer(small, compression=compression).raw_output_contents


@pytest.mark.parametrize("method", ["ModelInfer", "ModelMetadata", "RepositoryModelLoad"])
def test_bytes_that_are_no_message_are_the_clients_error(
    connection: Connection, method: str
) -> None:
    for content in (b"\xff\xff", b"\x0a\x02\xff\xff", b"\x0a\x7f"):
        with pytest.raises(grpc.RpcError, match="got other bytes") as error:
            connection.raw(method, content)
        assert refused(error.value)[0] == "INVALID_ARGUMENT"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=120), infer=st.booleans())
def test_nothing_that_is_sent_is_the_servers_fault(
    connection: Connection, content: bytes, infer: bool
) -> None:
    try:
        connection.raw("ModelInfer" if infer else "ModelStatistics", content)
    except grpc.RpcError as error:
        assert refused(error)[0] not in ("INTERNAL", "UNKNOWN")


def test_methods_of_the_protocol_that_this_server_lacks(connection: Connection) -> None:
    for name in ("CudaSharedMemoryStatus", "LogSettings", "Nothing"):
        with pytest.raises(grpc.RpcError) as error:
            connection.raw(name, b"")
        assert refused(error.value)[0] == "UNIMPLEMENTED"


def test_a_call_is_logged_and_counted_once(grpc_server: Any, connection: Connection) -> None:
    metadata = [("x-request-id", "once-and-only")]
    connection.infer(request("exact", **EXACT), metadata=metadata)
    said = grpc_server.stderr("once-and-only")
    (line,) = [line for line in said.splitlines() if "once-and-only" in line]
    for part in (
        "method=GRPC", "path=/inference.GRPCInferenceService/ModelInfer", "status=200",
        "model=exact", "client=127.0.0.1:",
    ):  # fmt: skip
        assert part in line
    before = httpx.get(f"{grpc_server.url}/v2/models/exact/stats", trust_env=False).json()
    over_grpc = connection.method("ModelStatistics")(pb.ModelStatisticsRequest(name="exact"))
    connection.infer(request("exact", **EXACT))
    after = connection.method("ModelStatistics")(pb.ModelStatisticsRequest(name="exact"))
    counts = [s.model_stats[0].inference_stats.success.count for s in (over_grpc, after)]
    assert counts[0] == before["model_stats"][0]["inference_stats"]["success"]["count"]
    assert counts[1] == counts[0] + 1
