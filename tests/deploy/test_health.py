"""The image's health check, asked of real servers."""

from __future__ import annotations

import socket
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from served import launched, make

trustme: Any = import_module("trustme")  # it has no types

HEALTH = Path(__file__).resolve().parents[2] / "deploy" / "image" / "health.py"


def health(*arguments: str, **environment: object) -> subprocess.CompletedProcess[str]:
    """Run it as the image does: with Python's standard library only."""
    return subprocess.run(
        [sys.executable, "-I", "-S", str(HEALTH), *arguments],
        env={name: str(value) for name, value in environment.items()},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("tls", [False, True])
def test_a_ready_server_is_healthy(tmp_path: Path, tls: bool) -> None:
    make(tmp_path, "tiny")
    cert = tmp_path / "cert.pem"  # with its key
    trustme.CA().issue_cert("models.example").private_key_and_cert_chain_pem.write_to_path(cert)
    options = ("--tls-cert", cert) if tls else ()
    with launched(*options, tmp_path) as server:
        assert server.line() == "ready: tiny/1"
        port = server.url.rpartition(":")[2]
        given: dict[str, object] = {"TORCHSHIP_SERVE_TLS_CERT": cert} if tls else {}
        # A proxy of the container's environment is not asked for an address of its own.
        given["http_proxy"] = given["https_proxy"] = "http://127.0.0.1:9"
        done = health(TORCHSHIP_SERVE_PORT=port, **given)
        assert (done.returncode, done.stderr) == (0, "")


def test_a_server_that_refused_an_archive_is_not(tmp_path: Path) -> None:
    (tmp_path / "broken.pt").write_bytes(b"PK\x03\x04 no archive")
    with launched(tmp_path) as server:
        assert server.line().startswith("failed: ")
        done = health(f"{server.url}/v2/health/ready")
    assert done.returncode == 1
    assert done.stderr.endswith("HTTP Error 503: Service Unavailable\n")


def test_nobody_who_listens_and_an_answer_that_is_none_are_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        asking = subprocess.Popen(
            [sys.executable, "-I", "-S", HEALTH, f"http://127.0.0.1:{port}"],
            stderr=subprocess.PIPE,
            text=True,
        )
        connection, _ = listening.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"SSH-2.0-other\r\n")
        assert asking.communicate()[1].count("\n") == 1
        assert asking.returncode == 1
    gone = health(TORCHSHIP_SERVE_PORT=port)
    assert gone.returncode == 1
    assert gone.stderr.count("\n") == 1


@pytest.mark.parametrize("port", ["tcp://10.0.0.1:8000", "", "http"])
def test_a_port_that_is_none_is_one_line(port: str) -> None:
    done = health(TORCHSHIP_SERVE_PORT=port)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
