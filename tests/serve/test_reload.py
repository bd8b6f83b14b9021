"""Models are loaded, replaced, damaged and unloaded while a real server answers."""

import gc
import http.client
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest
from tritonclient.utils import InferenceServerException

from torchship.script.format.tree import Flat

MakeArchive = Callable[..., Path]
Launch = Callable[..., Any]
psutil: Any = import_module("psutil")
triton: Any = import_module("tritonclient.http")
BODY = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
).encode()
CLIENTS = 4
RELOADS = 30
CYCLES = 50


def settings(**said: object) -> dict[str, str]:
    names = {f"TORCHSHIP_SERVE_{name.upper()}": str(value) for name, value in said.items()}
    return {**os.environ, "TORCHSHIP_SERVE_MAX_BATCH": "2", **names}


def post(server: Any, path: str, body: object = None) -> httpx.Response:
    return httpx.post(server.url + path, json=body, trust_env=False, timeout=60)


def index(server: Any) -> list[dict[str, str]]:
    return list(post(server, "/v2/repository/index").json())


def wrong(outputs: Flat) -> Flat:
    return {name: value + 1 for name, value in outputs.items()}


def differing(number: int, outputs: Flat) -> Flat:
    """Agree with the model, and make an archive of other bytes for each number."""
    return {name: value + number * 1e-7 for name, value in outputs.items()}


@contextmanager
def triton_client(server: Any) -> Iterator[Any]:
    client = triton.InferenceServerClient(server.url.removeprefix("http://"))
    try:
        yield client
    finally:
        client.close()
        del client
        gc.collect()  # gevent's pool, while its sockets are known to be closed


def test_tritons_client_loads_and_unloads(
    launch: Launch, make_archive: MakeArchive, tmp_path: Path
) -> None:
    make_archive("memory")
    bad = make_archive("half", edit=wrong)
    with (
        launch(tmp_path, environment=settings(mode="explicit")) as server,
        triton_client(server) as client,
    ):
        assert server.line() == "ready: "
        assert client.is_server_ready()
        assert not client.is_model_ready("memory")
        for _ in range(2):
            client.load_model("memory")
            assert server.line() == "live: memory/1"
        assert client.is_model_ready("memory")
        with pytest.raises(InferenceServerException, match="output 'double'") as caught:
            client.load_model("half")
        assert str(tmp_path) not in str(caught.value)
        assert server.line().startswith(f"failed: {bad}: ")
        rows = {entry["name"]: entry for entry in client.get_model_repository_index()}
        assert rows["memory"]["state"] == "READY"
        assert "output 'double'" in rows["half"]["reason"]
        with pytest.raises(InferenceServerException, match="'chess' is not in the repository"):
            client.load_model("chess")
        with pytest.raises(InferenceServerException, match="'config' is not supported"):
            client.load_model("memory", config="{}")
        for _ in range(2):
            client.unload_model("memory", unload_dependents=True)
        assert server.line() == "unloaded: memory/1"
        assert not client.is_model_ready("memory")
        assert client.is_server_ready()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("[1]", "expected a JSON object"),
        ("{", "the body is not JSON"),
        ('{"parameters": 3}', "expected 'parameters' to be an object"),
        ('{"parameters": {"unload_dependents": "all"}}', "expected true or false"),
    ],
)
def test_a_body_that_is_not_the_protocols_is_refused(server: Any, body: str, message: str) -> None:
    path = "/v2/repository/models/tiny/unload"
    answer = httpx.post(server.url + path, content=body, trust_env=False)
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_a_server_in_fixed_mode_reports_its_mode(server: Any) -> None:
    for what in ("load", "unload"):
        answer = post(server, f"/v2/repository/models/tiny/{what}")
        assert answer.status_code == 400
        assert "the server is in fixed mode, expected explicit mode" in answer.json()["error"]


def test_no_request_fails_while_the_model_is_reloaded(
    launch: Launch, make_archive: MakeArchive, tmp_path: Path
) -> None:
    # As many reloads as one every second makes in half a minute, one after the other instead.
    make_archive("memory")
    environment = settings(mode="explicit", load='["memory"]')
    with launch(tmp_path, environment=environment) as server:
        assert server.line() == "ready: memory/1"
        stop = threading.Event()
        answers: list[list[tuple[int, str]]] = [[] for _ in range(CLIENTS)]
        answered = threading.Semaphore(0)

        def ask(mine: list[tuple[int, str]]) -> None:
            connection = http.client.HTTPConnection(*server.address)
            while not stop.is_set():
                connection.request("POST", "/v2/models/memory/infer", BODY)
                answer = connection.getresponse()
                text = answer.read().decode()
                mine.append((answer.status, "" if answer.status == 200 else text))
                answered.release()
            connection.close()

        threads = [threading.Thread(target=ask, args=(mine,)) for mine in answers]
        for thread in threads:
            thread.start()
        try:
            for version in range(2, 2 + RELOADS):
                # In turn the same version from other bytes, and a version that takes over.
                newer = str(version) if version % 3 == 0 else "1"
                make_archive("memory", version=newer, edit=partial(differing, version))
                loaded = post(server, "/v2/repository/models/memory/load")
                assert (loaded.status_code, loaded.text) == (200, "{}")
                # The clients never pause: whoever waits for an answer now was there all along.
                assert answered.acquire(timeout=60)
        finally:
            stop.set()
            for thread in threads:
                thread.join(60)
        assert {answer for mine in answers for answer in mine} == {(200, "")}
        assert all(answers)
        newest = max(int(row["version"]) for row in index(server))
        answer = httpx.post(f"{server.url}/v2/models/memory/infer", content=BODY, trust_env=False)
        assert answer.json()["model_version"] == str(newest)


def test_a_request_in_flight_is_answered_by_the_version_that_took_it(
    launch: Launch, make_archive: MakeArchive, tmp_path: Path
) -> None:
    make_archive("memory")
    head = (
        "POST /v2/models/memory/infer HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
        f"Connection: close\r\nContent-Length: {len(BODY)}\r\n\r\n"
    )
    environment = settings(mode="explicit", load='["memory"]')
    with launch(tmp_path, environment=environment) as server:
        assert server.line() == "ready: memory/1"
        with server.connect() as slow:
            slow.sendall(head.encode())
            assert slow.recv(4096).startswith(b"HTTP/1.1 100")
            make_archive("memory", version="2").rename(tmp_path / "memory-1.pt")
            assert post(server, "/v2/repository/models/memory/load").status_code == 200
            assert [row["version"] for row in index(server)] == ["2"]
            slow.sendall(BODY)
            answer = b"".join(iter(lambda: slow.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 200")
        assert b'"model_version":"1"' in answer
        assert server.line() == "live: memory/2"
        assert server.line() == "unloaded: memory/1"


def test_a_polled_folder_is_followed_and_damage_is_reported(
    launch: Launch, make_archive: MakeArchive, tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()

    def put(version: str, **said: object) -> Path:
        """Write an archive as a user should: under another name, and then renamed."""
        made = make_archive("memory", version=version, **said)
        return made.rename(tmp_path / "models" / f"{version}.pt")

    file = put("1")
    environment = settings(mode="poll", poll_seconds=0.05)
    with launch(tmp_path / "models", environment=environment) as server:
        assert server.line() == "ready: memory/1"
        second = put("2")
        assert server.line() == "live: memory/2"
        bad = put("3", edit=wrong)
        assert server.line().startswith(f"failed: {bad}: golden case 0")
        second.unlink()
        assert server.line() == "unloaded: memory/2"
        data = file.read_bytes()
        file.write_bytes(data[:100] + bytes(100) + data[200:])
        assert server.line().startswith(f"failed: {file}: '1.pt': ")
        rows = {row["version"]: row for row in index(server)}
        assert {version: row["state"] for version, row in rows.items()} == {
            "1": "READY",
            "3": "UNAVAILABLE",
        }
        assert rows["1"]["reason"].startswith("'1.pt': ")
        assert rows["3"]["reason"].startswith("golden case 0")
        answer = httpx.post(f"{server.url}/v2/models/memory/infer", content=BODY, trust_env=False)
        assert answer.status_code == 200
        assert answer.json()["model_version"] == "1"
        ready = httpx.get(f"{server.url}/v2/health/ready", trust_env=False)
        assert ready.status_code == 200
        server.popen.send_signal(signal.SIGTERM)
        assert server.popen.wait(60) == 0
        failed = f"failed: {bad}: golden case 0"
        assert failed in server.stderr(failed)
        assert "Traceback" not in server.stderr()


def test_a_model_that_is_unloaded_returns_its_memory(
    launch: Launch, make_archive: MakeArchive, tmp_path: Path
) -> None:
    make_archive("wide")
    with launch(tmp_path, environment=settings(mode="explicit", max_batch=1)) as server:
        assert server.line() == "ready: "
        process = server.worker()

        sizes: dict[str, list[int]] = {"load": [], "unload": []}

        def cycle() -> None:
            for what, said in (("load", "live"), ("unload", "unloaded")):
                assert post(server, f"/v2/repository/models/wide/{what}").status_code == 200
                assert server.line() == f"{said}: wide/1"
                sizes[what].append(int(process.memory_info().rss))

        for _ in range(CYCLES):
            cycle()
        size = (tmp_path / "wide-1.pt").stat().st_size
        # One archive that is kept would be 40 sizes more. glibc may keep two: the free end of a
        # thread's arena is given back only when it is twice as large as what was freed last.
        assert max(sizes["unload"][10:]) - max(sizes["unload"][:10]) < 2.5 * size
        assert process.num_threads() < 30


ENDLESS = json.dumps(
    {"inputs": [{"name": "rounds", "datatype": "INT64", "shape": [1], "data": [1 << 60]}]}
).encode()


def test_a_call_without_end_does_not_keep_the_server(
    launch: Launch, archives: dict[str, Path]
) -> None:
    with launch(archives["slow"], environment=settings(shutdown_seconds=1)) as server:
        assert server.line() == "ready: slow/1"
        head = (
            "POST /v2/models/slow/infer HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            f"Content-Length: {len(ENDLESS)}\r\n\r\n"
        )
        with server.connect() as busy:
            busy.sendall(head.encode())
            assert busy.recv(4096).startswith(b"HTTP/1.1 100")
            busy.sendall(ENDLESS)
            # The answer to another request shows that this one's body has been read.
            assert post(server, "/v2/repository/index").status_code == 200
            server.popen.send_signal(signal.SIGTERM)
            assert server.popen.wait(60) == 0
        assert "a model still runs" in server.stderr()
