"""TLS and CORS."""

from __future__ import annotations

import json
import select
import socket
import ssl
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from torchship.script.errors import UsageError
from torchship.script.runtime.archive import open_archive
from torchship.serve.client.client import Client
from torchship.serve.errors import ServerError
from torchship.serve.process.credentials import read_credentials
from torchship.serve.settings import Settings
from wire import post

trustme: Any = import_module("trustme")

Launch = Callable[..., Any]

BODY = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}]}'
PATH = "/v2/models/logarithm/infer"
PAGE = "https://page.example"


def certified(folder: Path) -> tuple[Path, Path, ssl.SSLContext]:
    """Return a certificate of this machine, its key, and what trusts it."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    cert, key = folder / "cert.pem", folder / "key.pem"
    issued.private_key_pem.write_to_path(str(key))
    for blob in issued.cert_chain_pems:
        blob.write_to_path(str(cert), append=True)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return cert, key, trusting


def test_over_tls_the_client_verifies_the_server(
    launch: Launch, archives: dict[str, Path], tmp_path: Path
) -> None:
    cert, key, trusting = certified(tmp_path)
    with launch("--tls-cert", cert, "--tls-key", key, archives["logarithm"]) as server:
        assert server.url.startswith("https://127.0.0.1:")
        assert server.line() == "ready: logarithm/1"
        answered = httpx.post(server.url + PATH, content=BODY, verify=trusting, trust_env=False)
        assert answered.json()["outputs"][0]["data"] == [0]
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(server.url + "/v2", trust_env=False)
        plain = server.url.replace("https:", "http:")
        with pytest.raises(httpx.TransportError):
            httpx.get(plain + "/v2", trust_env=False)
        # `verify` reaches the server with nothing but its certificate.
        verify = f"{server.url}/v2/models/logarithm/verify?runtime=http"
        lines = httpx.post(verify, verify=trusting, trust_env=False, timeout=120).text.splitlines()
        assert json.loads(lines[-1]) == {
            "event": "verdict",
            "agreed": True,
            "first_difference": "",
            "note": "",
        }
        other = tmp_path / "other.pem"
        trustme.CA().issue_cert("127.0.0.1").cert_chain_pems[0].write_to_path(str(other))
        signature = open_archive(archives["logarithm"]).require_manifest().methods["forward"]
        with (
            Client(server.url, certificate=other) as client,
            pytest.raises(ServerError, match="CERTIFICATE_VERIFY_FAILED"),
        ):
            client.infer("logarithm", signature, {"x": torch.ones(1)})
        with pytest.raises(UsageError, match=r"cannot use the certificate '.*none.pem'"):
            Client(server.url, certificate=tmp_path / "none.pem")


def test_two_abandoned_requests_over_tls_hold_no_memory(
    launch: Launch, make_archive: Any, tmp_path: Path
) -> None:
    """The end of a connection is seen while the second waits for the answer to the first."""
    cert, key, trusting = certified(tmp_path)
    trusting.maximum_version = ssl.TLSVersion.TLSv1_2  # sends nothing between handshake and answer
    explicit = ("--mode", "explicit", "--load", "held", "--quick-us", 0)
    folder = make_archive("held").parent
    with launch(*explicit, "--tls-cert", cert, "--tls-key", key, folder) as server:
        assert server.line() == "ready: held/1"
        host = server.url.removeprefix("https://").split(":")[0]
        address = (host, int(server.url.rpartition(":")[2]))
        plain = socket.create_connection(address)
        with trusting.wrap_socket(plain, server_hostname=host) as connection:
            x = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[300000]}]}'
            connection.sendall(post("held", x) * 2)
            assert not select.select([connection], [], [], 0.1)[0]  # it is being answered
        unload = "/v2/repository/models/held/unload"
        with httpx.Client(base_url=server.url, verify=trusting, trust_env=False) as client:
            assert client.post(unload).status_code == 200
            assert select.select([server.popen.stdout], [], [], 30)[0]
            assert server.line() == "unloaded: held/1"
            counted = client.get("/metrics").text
        assert 'torchship_requests_total{code="499",model="held"' in counted


def test_certificates_that_cannot_be_used_are_usage_errors(tmp_path: Path) -> None:
    one, other = (trustme.CA().issue_cert("a.example") for _ in range(2))
    cert, key, wrong = (tmp_path / name for name in ("cert.pem", "key.pem", "wrong.pem"))
    one.cert_chain_pems[0].write_to_path(str(cert))
    one.private_key_pem.write_to_path(str(key))
    other.private_key_pem.write_to_path(str(wrong))
    read_credentials(Settings(tls_cert=cert, tls_key=key))
    cases = [
        (Settings(tls_key=key), "--tls-key was given without --tls-cert"),
        (Settings(tls_cert=cert), "cannot use the certificate and key of '.*cert.pem': "),
        (Settings(tls_cert=cert, tls_key=wrong), "'.*cert.pem' and '.*wrong.pem': .*MISMATCH"),
        (Settings(tls_cert=tmp_path / "gone", tls_key=key), "No such file"),
    ]
    for settings, message in cases:
        with pytest.raises(UsageError, match=message):
            read_credentials(settings)


def preflight(url: str, origin: str = PAGE) -> httpx.Response:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    return httpx.request("OPTIONS", url + PATH, headers=headers, trust_env=False)


def test_a_page_may_ask_only_if_its_origin_was_allowed(
    launch: Launch, archives: dict[str, Path], tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("page:0123456789abcdef")
    options = ["--cors-origin", PAGE, "--cors-origin", "https://other.example"]
    with launch(*options, "--api-keys", keys, archives["logarithm"]) as server:
        assert server.line() == "ready: logarithm/1"
        allowed = preflight(server.url)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == PAGE
        assert "authorization" in allowed.headers["access-control-allow-headers"]
        assert preflight(server.url, "https://evil.example").status_code == 400
        headers = {"Origin": PAGE, "Authorization": "Bearer 0123456789abcdef"}
        for sent, status in ((headers, 200), ({"Origin": PAGE}, 401)):
            answered = httpx.post(server.url + PATH, content=BODY, headers=sent, trust_env=False)
            assert answered.status_code == status
            assert answered.headers["access-control-allow-origin"] == PAGE


def test_without_the_option_there_is_no_cors(server: Any) -> None:
    assert preflight(server.url).status_code == 405
    answered = httpx.get(server.url + "/v2", headers={"Origin": PAGE}, trust_env=False)
    assert "access-control-allow-origin" not in answered.headers
