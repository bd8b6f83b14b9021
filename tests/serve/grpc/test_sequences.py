"""Sequences over gRPC: single calls and streams, and HTTP in turns with them."""

from __future__ import annotations

from collections.abc import Iterator
from queue import Queue
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from rpc import Connection, outputs, refused, request
from torchship.serve.grpc import inference_pb2 as pb

ROW = np.ones((1, 2), np.float32)


def step(sequence: object, *, id: str = "", value: float = 1, **said: Any) -> pb.ModelInferRequest:
    parameters = {"sequence_id": sequence, **said}
    return request("memory", id=id, x=ROW * np.float32(value), parameters=parameters)


def y(answer: pb.ModelInferResponse) -> float:
    return float(np.frombuffer(outputs(answer)["y"], np.float32)[0])


def expected(count: int) -> list[float]:
    found, h = [], np.float32(0)
    for _ in range(count):
        h = h * np.float32(0.5) + np.float32(1)
        found.append(float(np.tanh(h)))
    return found


def over_http(server: Any, sequence: object) -> float:
    x = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 1]}
    body = {"inputs": [x], "parameters": {"sequence_id": sequence}}
    answer = httpx.post(f"{server.url}/v2/models/memory/infer", json=body, trust_env=False)
    assert answer.status_code == 200, answer.text
    found = {output["name"]: output["data"] for output in answer.json()["outputs"]}
    return float(np.float32(found["y"][0]))


def test_one_sequence_over_http_calls_and_a_stream_in_turns(
    grpc_server: Any, connection: Connection
) -> None:
    found = [y(connection.infer(step("turns", sequence_start=True)))]
    found.append(over_http(grpc_server, "turns"))
    (answer,) = connection.stream(iter([step("turns")]))
    found.append(y(answer.infer_response))
    found.append(over_http(grpc_server, "turns"))
    found.append(y(connection.infer(step("turns", sequence_end=True))))
    np.testing.assert_allclose(found, expected(5), rtol=1e-6)
    with pytest.raises(grpc.RpcError) as error:
        connection.infer(step("turns"))
    assert refused(error.value)[0] == "NOT_FOUND"


def test_many_sequences_over_one_stream_each_in_its_order(connection: Connection) -> None:
    messages = [
        step(f"many-{number}", id=f"{number}/{turn}", sequence_start=turn == 0)
        for turn in range(4)
        for number in range(20)
    ]
    answers = list(connection.stream(iter(messages)))
    assert [a.infer_response.id for a in answers] == [m.id for m in messages]
    for number in range(20):
        found = [y(a.infer_response) for a in answers[number::20]]
        np.testing.assert_allclose(found, expected(4), rtol=1e-6)


def test_all_steps_of_a_sequence_sent_at_once_run_in_order(connection: Connection) -> None:
    messages = [step("burst", sequence_start=turn == 0) for turn in range(50)]
    found = [y(answer.infer_response) for answer in connection.stream(iter(messages))]
    np.testing.assert_allclose(found, expected(50), rtol=1e-6)


def test_an_error_is_the_answer_of_its_message_and_the_state_stays(connection: Connection) -> None:
    sent: Queue[pb.ModelInferRequest | None] = Queue()

    def messages() -> Iterator[pb.ModelInferRequest]:
        while (message := sent.get()) is not None:
            yield message

    answers = connection.stream(messages())

    def ask(message: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
        sent.put(message)
        answer: pb.ModelStreamInferResponse = next(answers)
        return answer

    assert not ask(step(5, sequence_start=True)).error_message
    wrong = step(5, id="wrong")
    wrong.inputs[0].name = "z"
    answer = ask(wrong)
    assert "unknown input 'z'" in answer.error_message
    assert answer.infer_response.id == "wrong"
    assert "'nobody'" in ask(request("nobody", x=ROW)).error_message
    assert y(ask(step(5)).infer_response) == pytest.approx(expected(2)[1])
    sent.put(None)
    assert list(answers) == []
    assert answers.code() is grpc.StatusCode.OK


def test_a_step_is_sent_again_with_its_key(connection: Connection) -> None:
    connection.infer(step("again", sequence_start=True))
    first = y(connection.infer(step("again", idempotency_key="a")))
    again = y(connection.infer(step("again", idempotency_key="a")))
    after = y(connection.infer(step("again", idempotency_key="b")))
    assert first == again == pytest.approx(expected(2)[1])
    assert after == pytest.approx(expected(3)[2])


def test_messages_that_are_none_end_no_stream(connection: Connection) -> None:
    opened: Any = connection.channel.stream_stream(
        "/inference.GRPCInferenceService/ModelStreamInfer",
        response_deserializer=pb.ModelStreamInferResponse.FromString,
    )
    good = step("bytes", sequence_start=True).SerializeToString()
    answers = list(opened(iter([b"\xff", good, b"\x0a\x02\xff\xff"])))
    assert [bool(answer.error_message) for answer in answers] == [True, False, True]
    assert "got other bytes" in answers[0].error_message
