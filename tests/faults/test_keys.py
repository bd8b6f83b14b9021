"""Files of keys and certificates that are edited or damaged while the server runs."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from torchship.script.format.signing import make_key, sign
from torchship.serve.process.credentials import read_credentials
from torchship.serve.process.messages import Credentials
from torchship.serve.settings import Settings

trustme: Any = import_module("trustme")

MakeArchive = Callable[..., Path]
STEP = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
OLD, NEW = "the-old-key-of-alice", "the-new-key-of-alice"


def status(server: Any, key: str) -> int:
    """Ask on a new connection, which may come to any worker."""
    headers = {"X-API-Key": key}
    return httpx.get(f"{server.url}/v2", headers=headers, trust_env=False, timeout=60).status_code


def statuses(server: Any, key: str) -> set[int]:
    return {status(server, key) for _ in range(12)}


def reread(server: Any, said: str) -> None:
    """Have the server read its files again, and wait for what it says of it."""
    before = server.stderr().count(said)
    server.popen.send_signal(signal.SIGHUP)
    while server.stderr().count(said) == before:
        assert server.popen.poll() is None


def replaced(server: Any) -> None:
    """Kill a worker and wait for the one that takes its place."""
    server.workers()[0].kill()
    assert "ended by signal 9; starting another" in server.line()
    assert server.line().endswith(" is back")


@pytest.mark.parametrize("workers", [1, 2])
def test_edited_keys_count_when_the_server_is_asked_to_read_them(
    launch: Any, archives: dict[str, Path], tmp_path: Path, workers: int
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"alice:{OLD}\n")
    with launch("--workers", workers, "--api-keys", keys, archives["half"]) as server:
        assert server.line() == "ready: half/1"
        keys.write_text(f"alice:{NEW}\n")
        replaced(server)
        assert (statuses(server, OLD), statuses(server, NEW)) == ({200}, {401})
        reread(server, "keys and certificates were read again")
        while status(server, NEW) != 200:  # the signal has only just come
            pass
        while status(server, OLD) != 401:
            pass
        keys.write_text("nothing that is a key")
        reread(server, "keys and certificates stay as they are")
        replaced(server)
        assert (statuses(server, OLD), statuses(server, NEW)) == ({401}, {200})
        keys.unlink()
        reread(server, "keys and certificates stay as they are")
        assert NEW not in server.stderr()
        assert statuses(server, NEW) == {200}


def test_what_a_key_has_used_of_its_rate_stays_used(
    launch: Any, archives: dict[str, Path], tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"bob:some-other-key-of-bob:5\nalice:{OLD}:0.001\n")
    with launch("--api-keys", keys, archives["half"]) as server:
        assert server.line() == "ready: half/1"
        assert [status(server, OLD) for _ in range(2)] == [200, 429]
        keys.write_text(f"alice:{NEW}:0.001\ncarol:a-key-that-is-carols:0.001\n")
        reread(server, "keys and certificates were read again")
        while status(server, NEW) != 429:
            pass
        assert [status(server, "a-key-that-is-carols") for _ in range(2)] == [200, 429]


def certify(authority: Any, folder: Path, name: str) -> None:
    issued = authority.issue_cert("127.0.0.1", common_name=name)
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    for number, blob in enumerate(issued.cert_chain_pems):
        blob.write_to_path(str(folder / "cert.pem"), append=number > 0)


def common_name(server: Any, context: ssl.SSLContext) -> str:
    host, port = server.url.removeprefix("https://").split(":")
    with (
        socket.create_connection((host, int(port)), 60) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        subject: Any = (secure.getpeercert() or {})["subject"]
        return next(str(value) for ((kind, value),) in subject if kind == "commonName")


def test_a_renewed_certificate_is_used_for_new_connections(
    launch: Any, archives: dict[str, Path], tmp_path: Path
) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context()
    authority.configure_trust(context)
    certify(authority, tmp_path, "old.example")
    options = ("--tls-cert", tmp_path / "cert.pem", "--tls-key", tmp_path / "key.pem")
    with launch("--workers", 2, *options, archives["half"]) as server:
        assert server.line() == "ready: half/1"
        with httpx.Client(base_url=server.url, verify=context, trust_env=False) as client:
            assert client.get("/v2").status_code == 200
            certify(authority, tmp_path, "new.example")
            replaced(server)
            assert {common_name(server, context) for _ in range(6)} == {"old.example"}
            reread(server, "keys and certificates were read again")
            while common_name(server, context) != "new.example":
                pass
            (tmp_path / "key.pem").write_text("no key")
            reread(server, "keys and certificates stay as they are")
            replaced(server)
            assert {common_name(server, context) for _ in range(6)} == {"new.example"}
        assert "Traceback" not in server.stderr()


def test_keys_that_archives_are_signed_with_can_be_added(
    launch: Any, make_archive: MakeArchive, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        make_key(tmp_path / f"{name}.pem", tmp_path / f"{name}.pub")
    trusted = tmp_path / "trusted"
    trusted.write_bytes((tmp_path / "a.pub").read_bytes())
    (tmp_path / "models").mkdir()
    first = make_archive("half", file="models/half.pt")
    sign(first, tmp_path / "a.pem")
    options = ("--mode", "explicit", "--load", "half", "--trusted-keys", trusted)
    with launch(*options, tmp_path / "models") as server:
        assert server.line() == "ready: half/1"
        sign(make_archive("memory", file="models/memory.pt"), tmp_path / "b.pem")
        url = f"{server.url}/v2/repository/models/memory/load"
        assert httpx.post(url, trust_env=False, timeout=60).status_code == 400
        trusted.write_bytes(trusted.read_bytes() + (tmp_path / "b.pub").read_bytes())
        reread(server, "keys and certificates were read again")
        while httpx.post(url, trust_env=False, timeout=60).status_code != 200:
            pass


def test_a_key_keeps_its_slot_for_as_long_as_it_has_a_rate(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    settings = Settings(api_keys=keys)

    known: Credentials | None = None

    def slots(*names: str) -> dict[str, int | None]:
        nonlocal known
        keys.write_text(
            "".join(f"{n}:the-long-key-of-{n}:5\n" for n in names) + "z:this-has-no-rate-\n"
        )
        known = read_credentials(settings, known)
        return {key.name: key.slot for key in known.api_keys or ()}

    assert slots("a", "b") == {"a": 0, "b": 1, "z": None}
    assert slots("b", "c") == {"b": 1, "c": 0, "z": None}
    assert slots("d", "c", "b") == {"b": 1, "c": 0, "d": 2, "z": None}


def test_a_rate_that_is_lowered_does_not_shut_its_key_out(
    launch: Any, archives: dict[str, Path], tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"alice:{OLD}:50\n")
    with launch("--api-keys", keys, archives["half"]) as server:
        assert server.line() == "ready: half/1"
        with httpx.Client(headers={"X-API-Key": OLD}, trust_env=False, timeout=60) as client:
            while client.get(f"{server.url}/v2").status_code == 200:
                pass
            keys.write_text(f"alice:{OLD}:0.1\n")
            reread(server, "keys and certificates were read again")
            while "0.1 requests" not in (answer := client.get(f"{server.url}/v2")).text:
                pass
        assert int(answer.headers["Retry-After"]) <= 10


def test_keys_that_the_disk_does_not_give_hold_nothing_up(
    launch: Any, archives: dict[str, Path], tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"alice:{OLD}\n")
    with launch("--api-keys", keys, archives["half"]) as server:
        assert server.line() == "ready: half/1"
        keys.unlink()
        os.mkfifo(keys)
        server.popen.send_signal(signal.SIGHUP)
        with open(keys, "w"):  # somebody reads it, and gets nothing
            replaced(server)
            assert statuses(server, OLD) == {200}
            good = tmp_path / "good"
            good.write_text(f"alice:{NEW}\n")
            good.rename(keys)
            reread(server, "keys and certificates were read again")
            while status(server, NEW) != 200:
                pass
        assert status(server, OLD) == 401
        keys.unlink()
        os.mkfifo(keys)
        server.popen.send_signal(signal.SIGHUP)
        with open(keys, "w"):
            server.popen.terminate()
            assert server.popen.wait(60) == 0


def test_a_stream_is_refused_when_its_key_is_taken_away(
    launch: Any, archives: dict[str, Path], tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"alice:{OLD}\n")
    with launch("--api-keys", keys, archives["memory"]) as server:
        assert server.line() == "ready: memory/1"
        url = f"{server.url.replace('http', 'ws', 1)}/v2/models/memory/stream"
        with connect(url, proxy=None, additional_headers={"X-API-Key": OLD}) as stream:
            stream.send(json.dumps(STEP))
            assert "outputs" in json.loads(stream.recv())
            keys.write_text(f"alice:{NEW}\n")
            reread(server, "keys and certificates were read again")
            while status(server, OLD) != 401:
                pass
            stream.send(json.dumps(STEP))
            assert json.loads(stream.recv()) == {"error": "the API key is unknown"}
