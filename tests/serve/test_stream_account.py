"""Streams in metrics, logs and traces; limits that apply to their messages."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families as families
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

Launch = Callable[..., AbstractContextManager[Any]]
ID = "X-Request-Id"
X: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [1, 2]}
ONE: dict[str, Any] = {"inputs": [X | {"data": [1, 2]}]}
NO_OUTPUT = ONE | {"outputs": [{"name": "z"}]}


def stream(server: Any, path: str = "v2/models/memory/stream", **headers: str) -> ClientConnection:
    url = f"{server.url.replace('http', 'ws', 1)}/{path}"
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return connect(url, proxy=None, additional_headers=named)


def ask(socket: ClientConnection, message: Any) -> Any:
    socket.send(message if isinstance(message, str) else json.dumps(message))
    return json.loads(socket.recv())


def refused(server: Any, path: str, **headers: str) -> Any:
    with pytest.raises(InvalidStatus) as error, stream(server, path, **headers):
        pass
    return error.value.response


def requests(server: Any) -> dict[tuple[str, str, str], float]:
    """How many requests ended, by model, version and status; those to /metrics are left out."""
    text = httpx.get(f"{server.url}/metrics", trust_env=False).text
    samples = [s for family in families(text) for s in family.samples]
    counted = [s for s in samples if s.name == "torchship_requests_total"]
    found = {(s.labels["model"], s.labels["version"], s.labels["code"]): s.value for s in counted}
    found.pop(("", "", "200"), None)
    return found


def test_messages_and_refusals_are_counted_and_logged_under_their_handshakes_id(
    launch: Launch, archives: dict[str, Path], make_archive: Callable[..., Path]
) -> None:
    files = (archives["memory"], make_archive("memory", version="2"))
    with launch("--log-format", "json", "--access-log", "all", *files) as server:
        assert server.line() == "ready: memory/1, memory/2"
        with stream(server, X_Request_Id="mine") as socket:
            assert socket.response is not None
            assert socket.response.headers[ID] == "mine"
            assert "outputs" in ask(socket, ONE)
            assert "'z'" in ask(socket, NO_OUTPUT)["error"]
            assert "not JSON" in ask(socket, "nonsense")["error"]
        with stream(server, "v2/models/memory/versions/1/stream") as socket:
            assert socket.response is not None
            made = socket.response.headers[ID]
            assert len(made) == 32
            assert "outputs" in ask(socket, ONE)
        nobody = refused(server, "v2/models/chess/stream", X_Request_Id="two")
        assert (nobody.status_code, nobody.headers[ID]) == (404, "two")
        nowhere = refused(server, "v2/nothing", X_Request_Id="three")
        assert (nowhere.status_code, nowhere.headers[ID]) == (404, "three")
        assert json.loads(nowhere.body) == {"error": "WebSocket '/v2/nothing': not found"}
        assert requests(server) == {
            ("memory", "2", "200"): 1,
            ("memory", "2", "400"): 2,
            ("memory", "1", "200"): 1,
            ("", "", "404"): 2,
        }
        stats = httpx.get(f"{server.url}/v2/models/memory/stats", trust_env=False).json()
        newest, oldest = (one["inference_stats"] for one in stats["model_stats"])
        assert (newest["success"]["count"], newest["fail"]["count"]) == (1, 2)
        assert (oldest["success"]["count"], oldest["fail"]["count"]) == (1, 0)
        for phase in ("success", "compute_input", "compute_infer", "compute_output"):
            assert newest[phase]["ns"] > 0
        server.popen.terminate()
        assert server.popen.wait(60) == 0
        lines = [json.loads(line) for line in server.stderr().splitlines()[1:]]
    assert [line["event"] for line in lines] == ["request"] * len(lines)
    said = [(ln["request_id"], ln["status"]) for ln in lines if ln["method"] == "WEBSOCKET"]
    # The last line of each stream is of its handshake, when it has ended.
    for id, statuses in (("mine", [200, 400, 400, 101]), (made, [200, 101])):
        assert [status for of, status in said if of == id] == statuses
    assert ("two", 404) in said
    assert ("three", 404) in said


def test_a_step_counts_for_the_version_on_which_its_sequence_is(
    launch: Launch, archives: dict[str, Path], make_archive: Callable[..., Path]
) -> None:
    with launch(archives["memory"], make_archive("memory", version="2")) as server:
        assert server.line() == "ready: memory/1, memory/2"
        for path, start in (("memory/versions/1", True), ("memory", False)):
            request = ONE | {"parameters": {"sequence_id": "a", "sequence_start": start}}
            url = f"{server.url}/v2/models/{path}/infer"
            assert httpx.post(url, json=request, trust_env=False).json()["model_version"] == "1"
        assert requests(server) == {("memory", "1", "200"): 2}


def test_a_refused_stream_is_no_fault(launch: Launch, archives: dict[str, Path]) -> None:
    with launch("--access-log", "none", archives["memory"]) as server:
        assert server.line() == "ready: memory/1"
        for path in ("v2/models/chess/stream", "v2/models/memory/versions/7/stream", "nowhere"):
            assert refused(server, path).status_code == 404
        server.popen.terminate()
        assert server.popen.wait(60) == 0
        assert server.stderr().splitlines() == [
            "signatures are not checked: no --trusted-keys were given"
        ]


def test_what_a_request_may_say_and_send_holds_for_a_message(
    launch: Launch, archives: dict[str, Path]
) -> None:
    with launch("--max-tensor-bytes", 8, archives["memory"]) as server:
        assert server.line() == "ready: memory/1"
        with stream(server) as socket:
            assert "outputs" in ask(socket, ONE)
            two = {"inputs": [X | {"shape": [2, 2], "data": [1, 2, 3, 4]}]}
            assert ask(socket, two) == {"error": "input 'x': expected at most 8 bytes, got 16"}
            late = ask(socket, ONE | {"parameters": {"timeout": 1}})
            assert "waited longer than its timeout" in late["error"]
            assert ask(socket, ONE)["outputs"][1]["data"] == [1.5, 3]
        found = requests(server)
        assert found == {("memory", "1", c): n for c, n in (("200", 2), ("413", 1), ("408", 1))}


def test_a_message_whose_client_left_is_not_run(
    launch: Launch, make_archive: Callable[..., Path]
) -> None:
    def rounds(number: int) -> dict[str, Any]:
        tensor = {"name": "rounds", "datatype": "INT64", "shape": [1], "data": [number]}
        return {"inputs": [tensor]}

    with launch(make_archive("lasting")) as server:
        assert server.line() == "ready: lasting/1"
        path = "v2/models/lasting/stream"
        with stream(server, path) as first, stream(server, path) as last:
            first.send(json.dumps(rounds(400_000)))
            with stream(server, path) as leaver:
                # It would keep the model busy for longer than a socket waits here.
                leaver.send(json.dumps(rounds(1_000_000_000)))
            last.send(json.dumps(rounds(1)))
            for socket, count in ((first, 400_000), (last, 1)):
                assert json.loads(socket.recv(60))["outputs"][0]["data"] == [count]
        found = requests(server)
        assert found == {("lasting", "1", "200"): 2, ("lasting", "1", "499"): 1}
