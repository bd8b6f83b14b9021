"""What the connection answers itself is byte for byte what the application would have sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clocked import ClockedServer, clocked
from wire import connected

LAST = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nX-Request-Id: two\r\nConnection: close\r\n\r\n"
OBS = 4  # of the 510 values of a row, at its beginning

SERVERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "for pages": {"cors_origin": ("http://page.example",)},
    "for any page": {"cors_origin": ("*",)},
    "below a path": {"root_path": "/below"},
    "behind a proxy": {"forwarded_allow_ips": "127.0.0.1"},
}


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, archives: dict[str, Path]) -> Iterator[ClockedServer]:
    names = ("tiny", "memory", "nested")
    with clocked(
        *(archives[name] for name in names),
        max_tensor_bytes=4096,
        quick_us=10**9,
        **SERVERS[request.param],
    ) as process:
        yield process


def tensor(rows: int, width: int, datatype: str, data: list[object]) -> dict[str, object]:
    values = [*data, *[1] * max(rows * width - len(data), 0)]
    return {"name": "obs", "datatype": datatype, "shape": [rows, width], "data": values}


tensors = st.builds(
    tensor,
    rows=st.sampled_from([0, 1, 2, 9, 65]),
    width=st.sampled_from([510, 510, 510, 511]),
    datatype=st.sampled_from(["UINT8", "UINT8", "UINT8", "FP32", "BYTES", "CHESS"]),
    data=st.lists(st.sampled_from([0, 1, 255, 256, -1, 0.5, True, None, "a", []]), max_size=OBS),
)
outputs = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["logits", "logits", "action", "chess"])},
        optional={
            "parameters": st.fixed_dictionaries(
                {},
                optional={
                    "binary_data": st.booleans(),
                    "classification": st.sampled_from([0, 1, 3]),
                },
            )
        },
    ),
    max_size=2,
)
parameters = st.fixed_dictionaries(
    {},
    optional={
        "method": st.sampled_from(["forward", "act", "chess", 1]),
        "priority": st.sampled_from([0, 1, 2, 3, "a"]),
        "timeout": st.sampled_from([0, 10**9, -1]),
        "binary_data_output": st.booleans(),
        "non_finite": st.sampled_from(["error", "null", "chess"]),
        "sequence_id": st.sampled_from([0, 7]),
    },
)
requests = st.fixed_dictionaries(
    {"inputs": st.lists(tensors, min_size=1, max_size=1) | st.just([])},
    optional={"id": st.sampled_from(["a", 1]), "outputs": outputs, "parameters": parameters},
).map(orjson.dumps)
bodies = requests | st.builds(lambda body, cut: body[:cut], requests, st.integers(0, 40))
headers = st.lists(
    st.sampled_from(
        [
            "Inference-Header-Content-Length: 9",
            "Inference-Header-Content-Length: a",
            "Accept-Encoding: identity",
            "Connection: keep-alive",
            "X-Forwarded-For: 192.0.2.1",
        ]
    ),
    max_size=2,
    unique=True,
)


def answered(server: ClockedServer, head: list[str], body: bytes) -> tuple[bytes, Any, Any]:
    """Return the bytes of an answer, its line in the access log and what was counted."""
    server.log.records.clear()
    before = server.counted()
    with connected(server) as (connection, stream):
        sent = "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body
        connection.sendall(sent + LAST)
        content = stream.read()
    lines = [line for line in content.split(b"\r\n") if not line.startswith(b"date: ")]
    server.log.wait_for(1 + content.count(b'{"live":true}'))
    said = vars(server.log.records[0])
    names = ("levelname", "method", "path", "status", "model", "version", "request_id")
    now = server.counted()
    counted = {line: now[line] - before.get(line, 0) for line in now}
    client = said["client"].partition(":")[0]
    return b"\r\n".join(lines), (client, *(said[name] for name in names)), counted


@settings(max_examples=60, deadline=None)
@given(body=bodies, more=headers, model=st.sampled_from(["tiny", "tiny", "memory", "nobody"]))
def test_both_paths_answer_the_same(
    server: ClockedServer, body: bytes, more: list[str], model: str
) -> None:
    head = [f"POST /v2/models/{model}/infer HTTP/1.1", "Host: x", "X-Request-Id: one", *more]
    fast = answered(server, head, body)
    slow = answered(server, [*head, "traceparent: 1"], body)
    assert fast == slow


def scalar(name: str, datatype: str, value: object) -> dict[str, object]:
    return {"name": name, "datatype": datatype, "shape": [1], "data": [value]}


NESTED = {
    **{
        name: {"name": name, "datatype": "FP32", "shape": [2], "data": [1, 2.5]}
        for name in ("pair.0", "pair.1", "named.left", "many.0")
    },
    "text": scalar("text", "BYTES", "grüße"),
    "scale": scalar("scale", "FP64", 0.5),
    "times": scalar("times", "INT64", 3),
}


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ([], 200),
        ([scalar("text", "BYTES", "")], 200),
        ([scalar("text", "UINT8", 1)], 400),
        ([scalar("text", "BYTES", "a") | {"shape": [2], "data": ["a", "b"]}], 400),
        ([scalar("times", "BYTES", "3")], 400),
        ([scalar("times", "FP64", 3)], 400),
        ([scalar("chess", "BYTES", "e4")], 400),
    ],
)
def test_strings_and_numbers_too(
    server: ClockedServer, wrong: list[dict[str, object]], status: int
) -> None:
    inputs = NESTED | {str(entry["name"]): entry for entry in wrong}
    body = orjson.dumps({"inputs": list(inputs.values())})
    head = ["POST /v2/models/nested/infer HTTP/1.1", "Host: x", "X-Request-Id: one"]
    fast = answered(server, head, body)
    assert fast[0].startswith(b"HTTP/1.1 %d " % status), fast[0]
    assert fast == answered(server, [*head, "traceparent: 1"], body)


def test_below_its_path_too(server: ClockedServer) -> None:
    body = json.dumps({"inputs": [tensor(1, 510, "UINT8", [])]}).encode()
    head = ["POST /below/v2/models/tiny/infer HTTP/1.1", "Host: x", "X-Request-Id: one"]
    assert answered(server, head, body) == answered(server, [*head, "traceparent: 1"], body)
