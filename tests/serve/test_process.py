"""The output of the server process, and how it ends."""

import http.client
import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from torchship.script.errors import UsageError
from torchship.script.format.signing import make_key, sign
from torchship.script.format.tree import Flat
from torchship.script.runtime.archive import open_archive
from torchship.serve.process.supervisor import run
from torchship.serve.settings import Settings

MakeArchive = Callable[..., Path]
Launch = Callable[..., Any]


def get(server: Any, path: str) -> httpx.Response:
    return httpx.get(server.url + path, trust_env=False, timeout=60)


def wrong(outputs: Flat) -> Flat:
    return outputs | {"y": outputs["y"] + 0.25}


def test_a_folder_is_served(launch: Launch, make_archive: MakeArchive, tmp_path: Path) -> None:
    make_archive("memory", version="2")
    make_archive("half")
    with launch(tmp_path) as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert get(server, "/v2/health/live").status_code == 200
        assert server.line() == "ready: half/1, memory/2"
        assert get(server, "/v2/health/ready").json() == {"ready": True}
        server.popen.send_signal(signal.SIGTERM)
        assert server.line() == ""
        assert server.popen.wait(60) == 0
        assert "signatures are not checked" in server.stderr()
        assert server.stderr().count("\n") == 1


def test_an_edited_golden_case_is_refused_and_the_others_are_served(
    launch: Launch, make_archive: MakeArchive
) -> None:
    bad = make_archive("memory", edit=wrong)
    with launch(bad, make_archive("half")) as server:
        line = server.line()
        assert line.startswith(
            f"failed: {bad}: golden case 0 ('three steps'), method 'forward', step 0, output 'y': "
            "4 of 4 values differ by up to 0.25"
        )
        for path in ("/v2/health/ready", "/v2/models/memory", "/v2/models/memory/ready"):
            answer = get(server, path)
            assert answer.status_code == 503
            assert "/" not in answer.json()["error"]
        body: dict[str, list[object]] = {"inputs": []}
        answer = httpx.post(f"{server.url}/v2/models/memory/infer", json=body, trust_env=False)
        assert answer.status_code == 503
        assert get(server, "/v2/models/half/ready").status_code == 200
        assert get(server, "/v2/health/live").status_code == 200


def test_a_corrupted_archive_is_never_served(
    launch: Launch, archives: dict[str, Path], tmp_path: Path
) -> None:
    data = bytearray(archives["tiny"].read_bytes())
    # Within the weights: LibTorch would load this file without a word.
    place = data.rindex(bias_of(archives["tiny"]))
    data[place + 2] ^= 1
    broken = tmp_path / "broken.pt"
    broken.write_bytes(data)
    with launch(broken) as server:
        line = server.line()
        assert line.startswith(f"failed: {broken}: 'broken.pt': record 'data/")
        assert "damaged" in line
        assert get(server, "/v2/health/ready").status_code == 503
        assert get(server, "/v2/models/tiny").status_code == 404


def bias_of(path: Path) -> bytes:
    state = open_archive(path).load().state_dict()
    return bytes(state["layer.bias"].numpy().tobytes())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_request_in_flight_finish(
    launch: Launch, archives: dict[str, Path], number: signal.Signals
) -> None:
    body = json.dumps(
        {"inputs": [{"name": "rounds", "datatype": "INT64", "shape": [1], "data": [3]}]}
    ).encode()
    head = (
        "POST /v2/models/slow/infer HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with launch(archives["slow"]) as server:
        assert server.line() == "ready: slow/1"
        idle = http.client.HTTPConnection(*server.address)
        # The idle connection is one that the server knows: it has answered on it.
        idle.request("GET", "/v2")
        assert idle.getresponse().read()
        with server.connect() as busy, idle.sock as idle_socket:
            busy.sendall(head.encode())
            assert busy.recv(4096).startswith(b"HTTP/1.1 100")
            server.popen.send_signal(number)
            # Closing the idle connection is what the server does when it has taken the signal.
            assert idle_socket.recv(1) == b""
            busy.sendall(body)
            answer = b"".join(iter(lambda: busy.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 200")
        assert b'"outputs"' in answer
        assert server.popen.wait(60) == 0


def test_a_signal_while_archives_are_checked_ends_it(
    launch: Launch, archives: dict[str, Path]
) -> None:
    with launch(*archives.values()) as server:
        server.popen.send_signal(signal.SIGTERM)
        assert not server.line().startswith("failed")
        assert server.popen.wait(60) == 0
        assert "Traceback" not in server.stderr()


def test_only_what_is_signed_is_served_with_trusted_keys(
    launch: Launch, make_archive: MakeArchive, tmp_path: Path
) -> None:
    make_key(tmp_path / "key.pem", tmp_path / "key.pub")
    signed, unsigned = make_archive("memory"), make_archive("half")
    sign(signed, tmp_path / "key.pem")
    with launch("--trusted-keys", tmp_path / "key.pub", signed, unsigned) as server:
        line = server.line()
        assert line.startswith(f"failed: {unsigned}: ")
        assert "is not signed" in line
        assert get(server, "/v2/models/memory/ready").status_code == 200
        assert "signatures are not checked" not in server.stderr()


def test_a_usage_error_ends_it_with_exit_code_2(launch: Launch, tmp_path: Path) -> None:
    with launch(tmp_path) as server:
        assert server.popen.wait(60) == 2
        assert server.url == ""
        assert server.stderr().startswith("torchship: error: no archives to serve: expected files")
        assert server.stderr().count("\n") == 1


def test_what_is_refused_before_anything_is_served(
    archives: dict[str, Path], tmp_path: Path, own_log: None
) -> None:
    paths = (archives["half"],)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cases: list[tuple[Settings, str]] = [
            (Settings(), "no archives to serve"),
            (Settings(paths=(tmp_path / "gone.pt",)), "is not there"),
            (Settings(paths=paths, trusted_keys=tmp_path / "gone"), "cannot read the trusted keys"),
            (Settings(paths=paths, port=port), f"cannot listen on 127.0.0.1:{port}: "),
            (Settings(paths=paths, host="1.2.3.4"), "cannot listen on 1.2.3.4:8000: "),
        ]
        for settings, message in cases:
            with pytest.raises(UsageError, match=message):
                run(settings)


def test_settings_come_from_the_environment(launch: Launch, archives: dict[str, Path]) -> None:
    environment = {
        **os.environ,
        "TORCHSHIP_SERVE_PATHS": json.dumps([str(archives["half"])]),
        "TORCHSHIP_SERVE_MAX_BODY_BYTES": "10",
    }
    with launch(environment=environment) as server:
        assert server.line() == "ready: half/1"
        answer = httpx.post(f"{server.url}/v2/models/half/infer", content=b" " * 11)
        assert answer.status_code == 413
