"""Values that JSON has no numbers for: an error, strings or null, as the request says."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from torchship.script.runtime.archive import open_archive
from torchship.serve.client.client import Client


def infer(server: Any, model: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(
        f"{server.url}/v2/models/{model}/infer", json=body, trust_env=False, timeout=60
    )


def logarithm(*data: object, datatype: str = "FP32", **more: object) -> dict[str, Any]:
    x = {"name": "x", "datatype": datatype, "shape": [len(data)], "data": list(data)}
    return {"inputs": [x], **more}


@pytest.mark.parametrize("more", [0, 100_000])  # directly, and by a helper process
@pytest.mark.parametrize(
    ("said", "expected"),
    [("string", ["NaN", "-Infinity", "Infinity", 0.0]), ("null", [None, None, None, 0.0])],
)
def test_non_finite_values_have_the_requested_form(
    server: Any, said: str, expected: list[object], more: int
) -> None:
    data = ["NaN", 0, "Infinity", 1, *[1] * more]
    parameters = {"non_finite": said}
    outputs = [{"name": "output", "parameters": parameters}]
    for body in (
        logarithm(*data, parameters=parameters),
        logarithm(*data, outputs=outputs),
        logarithm(*data, outputs=outputs, parameters={"non_finite": "error"}),
    ):
        answer = infer(server, "logarithm", body)
        assert answer.status_code == 200
        assert answer.json()["outputs"][0]["data"] == [*expected, *[0.0] * more]


@pytest.mark.parametrize("parameters", [{}, {"non_finite": "error"}])
def test_without_it_the_error_says_how_to_ask(server: Any, parameters: dict[str, Any]) -> None:
    answer = infer(server, "logarithm", logarithm(-1, 1, parameters=parameters))
    assert answer.status_code == 400
    message = answer.json()["error"]
    assert message.startswith("output 'output': 1 of 2 values are not finite")
    assert message.endswith("as the parameter non_finite says, 'string' or 'null'")


@pytest.mark.parametrize("value", ["nan", "String", True, 1, None, [], {}])
def test_other_wishes_are_refused(server: Any, value: object) -> None:
    body = logarithm(1, parameters={"non_finite": value})
    answer = infer(server, "logarithm", body)
    assert answer.status_code == 400
    assert "expected non_finite to be one of error, string, null" in answer.json()["error"]


@pytest.mark.parametrize("data", [["nan"], ["NaN "], ["1"], [""], [None], [True], ["NaN", True]])
def test_no_other_strings_are_numbers(server: Any, data: list[object]) -> None:
    answer = infer(server, "logarithm", logarithm(*data))
    assert answer.status_code == 400
    assert "expected FP32 values, got" in answer.json()["error"]


STRINGS = 'send it as the string "NaN", "Infinity" or "-Infinity", or the tensor as binary data'


@pytest.mark.parametrize("more", [0, 200_000])  # directly, and by a helper process
@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("NaN", "JSON has no NaN"),
        ("nan", "JSON has no nan"),
        ("Infinity", "JSON has no Infinity"),
        ("-Infinity", "JSON has no -Infinity"),
        ("-inf", "JSON has no -inf"),
        ("1e999", "1e999 is too large for a double"),
    ],
)
def test_a_body_with_what_json_has_no_number_for(
    server: Any, value: str, what: str, more: int
) -> None:
    """As Python's json writes it, and many others that nobody has told to be strict."""
    body = json.dumps(logarithm(1, 2, *[1] * more)).replace("1, 2", f"1, {value}").encode()
    head = body.index(value.encode())
    answer = httpx.post(
        f"{server.url}/v2/models/logarithm/infer", content=body, trust_env=False, timeout=60
    )
    assert answer.status_code == 400
    expected = f"the body is not JSON: {what} (line 1 column {head + 1}): {STRINGS}"
    assert answer.json() == {"error": expected}


def test_other_bodies_that_are_not_json_get_the_same_error_as_before(server: Any) -> None:
    for content in ('{"inputs": nonsense}', '{"inputs": [', '{"NaN": infinite}', ""):
        answer = httpx.post(
            f"{server.url}/v2/models/logarithm/infer", content=content, trust_env=False, timeout=60
        )
        assert answer.status_code == 400
        assert "the body is not JSON: " in answer.json()["error"]
        assert "string" not in answer.json()["error"]


def test_integers_have_no_such_values(server: Any) -> None:
    x = {"name": "rounds", "datatype": "INT64", "shape": [1], "data": ["NaN"]}
    answer = infer(server, "slow", {"inputs": [x]})
    assert (answer.status_code, "INT64 values, got 'NaN'" in answer.text) == (400, True)


def test_a_number_that_is_too_large_is_no_infinity(server: Any) -> None:
    answer = infer(server, "logarithm", logarithm("NaN", 1e39))
    assert answer.status_code == 400
    assert "expected FP32 values up to" in answer.json()["error"]


def test_our_client_gets_back_what_it_sent(server: Any, archives: dict[str, Path]) -> None:
    """Bit for bit, but for a NaN's own bits, and -0.0 as it is."""
    signature = open_archive(archives["exact"]).require_manifest().methods["forward"]
    f = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 1e-45])
    inputs = {"f": f, "d": f.double(), "i": torch.ones(5, dtype=torch.int64)}
    inputs |= {"u": torch.ones(5, dtype=torch.uint8), "b": torch.ones(5, dtype=torch.bool)}
    with Client(server.url) as client:
        for binary in (False, True):
            outputs = client.infer("exact", signature, inputs, binary=binary)
            for name in ("f", "d"):
                torch.testing.assert_close(
                    outputs[f"{name}_out"], inputs[name], rtol=0, atol=0, equal_nan=True
                )
            assert math.isnan(float(outputs["total"]))


def test_the_openapi_document_describes_non_finite(server: Any) -> None:
    text = httpx.get(f"{server.url}/openapi.json", trust_env=False, timeout=60).text
    schemas = json.loads(text)["components"]["schemas"]
    for name in ("InferenceRequest", "RequestOutput"):
        assert "non_finite" in schemas[name]["description"]


def test_streams_do_the_same(launch: Callable[..., Any], archives: dict[str, Path]) -> None:
    from websockets.sync.client import connect

    with launch(archives["memory"]) as process:
        assert process.line() == "ready: memory/1"
        url = process.url.replace("http", "ws") + "/v2/models/memory/stream"
        x = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": ["NaN", "-Infinity"]}
        with connect(url) as socket:
            for said in ("string", "null"):
                socket.send(json.dumps({"inputs": [x], "parameters": {"non_finite": said}}))
                (y, *_) = json.loads(socket.recv())["outputs"]
                assert y["data"] == (["NaN", -1.0] if said == "string" else [None, -1.0])
