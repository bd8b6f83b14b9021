"""gRPC as processes: several workers, their deaths and their end, TLS, and ports."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from queue import Queue
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from rpc import Connection, calling, outputs, refused, request
from served import launched, make
from torchship.serve.grpc import inference_pb2 as pb

trustme: Any = import_module("trustme")


def half(connection: Connection, **more: Any) -> bytes:
    message = pb.ModelInferRequest(model_name="half", raw_input_contents=[b"\x80\x3f"])
    message.inputs.add(name="x", datatype="BF16", shape=[1])
    return connection.infer(message, **more).raw_output_contents[0]


def test_two_workers_share_the_port_and_one_that_dies_comes_back(tmp_path: Path) -> None:
    archive = make(tmp_path, "half")
    with launched("--workers", 2, "--grpc-port", 0, archive) as process:
        assert process.line() == "ready: half/1"
        seen: set[int] = set()
        while len(seen) < 2:  # the kernel chooses a worker for each connection
            with calling(process) as connection:
                assert half(connection) == b"\x00\x40"
                seen.add(_worker_of(process, connection))
        victim = process.workers()[0]
        victim.send_signal(signal.SIGKILL)
        assert "ended by signal 9" in process.line()
        assert "is back" in process.line()
        for _ in range(8):
            with calling(process) as connection:
                assert half(connection, wait_for_ready=True) == b"\x00\x40"
        process.popen.terminate()
        assert process.popen.wait(60) == 0
        assert "Traceback" not in process.stderr()


def _worker_of(process: Any, connection: Connection) -> int:
    """Return the worker that has an established connection to its gRPC port."""
    port = int(process.grpc.rpartition(":")[2])
    for worker in process.workers():
        connections = (
            getattr(worker, "net_connections", None) or worker.connections
        )  # of old psutil
        for found in connections("tcp"):
            if found.status == "ESTABLISHED" and found.laddr.port == port:
                return int(worker.pid)
    raise AssertionError("nobody is connected")


def rounds(number: int) -> pb.ModelInferRequest:
    return request("lasting", rounds=np.array([number], np.int64))


def test_the_end_lets_what_runs_be_answered_and_takes_no_more(tmp_path: Path) -> None:
    archive = make(tmp_path, "lasting")
    options = ("--grpc-port", 0, "--quick-us", 0, "--shutdown-seconds", 60)
    with launched(*options, archive) as process, calling(process) as connection:
        assert process.line() == "ready: lasting/1"
        sent: Queue[pb.ModelInferRequest | None] = Queue()
        first = rounds(1)
        first.parameters["sequence_id"].int64_param = 1
        first.parameters["sequence_start"].bool_param = True
        stream = connection.stream(iter(sent.get, None))
        sent.put(first)
        assert not next(stream).error_message
        long = rounds(1_000_000)
        long.parameters["sequence_id"].int64_param = 1
        sent.put(long)
        call: Any = connection.method("ModelInfer")
        running = call.future(rounds(1_000_000))
        _until_one_waits(process)
        process.popen.terminate()
        assert not next(stream).error_message
        with pytest.raises(grpc.RpcError) as error:
            next(stream)
        assert refused(error.value) == ("UNAVAILABLE", "the server is shutting down")
        assert outputs(running.result())["h"]
        assert process.popen.wait(60) == 0
        assert "Traceback" not in process.stderr()


def _until_one_waits(process: Any) -> None:
    """Return once a request waits while another runs."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        text = httpx.get(f"{process.url}/metrics", trust_env=False, verify=False).text
        found = [x for x in text.splitlines() if x.startswith("torchship_queue_rows{")]
        if any(float(x.rpartition(" ")[2]) >= 1 for x in found):
            return
    raise AssertionError("nothing waits")


def test_what_still_runs_at_the_limit_is_told(tmp_path: Path) -> None:
    archive = make(tmp_path, "announced")
    options = ("--grpc-port", 0, "--quick-us", 0, "--shutdown-seconds", 1)
    with launched(*options, archive) as process, calling(process) as connection:
        assert process.line() == "ready: announced/1"
        call: Any = connection.method("ModelInfer")
        running = call.future(request("announced", x=np.array([[-1]], np.float32)))
        assert "a call that never ends" in process.stderr("a call that never ends")
        process.popen.terminate()
        with pytest.raises(grpc.RpcError) as error:
            running.result()
        assert refused(error.value) == ("UNAVAILABLE", "the server is shutting down")
        assert process.popen.wait(60) == 0
        assert "Traceback" not in process.stderr()


def issue(folder: Path) -> bytes:
    """Write a certificate and its key; return what trusts it."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    (folder / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    trusted: bytes = authority.cert_pem.bytes()
    return trusted


def test_tls_and_a_new_certificate_while_it_runs(tmp_path: Path) -> None:
    first = issue(tmp_path)
    files = ("--tls-cert", tmp_path / "cert.pem", "--tls-key", tmp_path / "key.pem")
    keys = tmp_path / "keys"
    keys.write_text("alice:alice-knows-this-key")
    options = ("--grpc-port", 0, *files, "--api-keys", keys, "--log-level", "info")
    with launched(*options, make(tmp_path, "half")) as process:
        assert process.line() == "ready: half/1"
        key = [("x-api-key", "alice-knows-this-key")]
        with calling(process, grpc.ssl_channel_credentials(first)) as connection:
            assert half(connection, metadata=key) == b"\x00\x40"
            second = issue(tmp_path)
            keys.write_text("bob:bob-knows-another-key")
            process.popen.send_signal(signal.SIGHUP)
            assert "were read again" in process.stderr("were read again")
            newer = [("x-api-key", "bob-knows-another-key")]
            while not _accepts(connection, newer):  # the worker is told a moment later
                pass
            with pytest.raises(grpc.RpcError) as error:
                half(connection, metadata=key)
            assert refused(error.value)[0] == "UNAUTHENTICATED"
        with calling(process, grpc.ssl_channel_credentials(second)) as connection:
            assert half(connection, metadata=newer) == b"\x00\x40"
        for wrong in (grpc.ssl_channel_credentials(first), None):
            with (
                calling(process, wrong) as connection,
                pytest.raises(grpc.RpcError) as error,
            ):
                half(connection, metadata=newer, timeout=10)
            assert refused(error.value)[0] in ("UNAVAILABLE", "DEADLINE_EXCEEDED")


def _accepts(connection: Connection, key: Any) -> bool:
    try:
        half(connection, metadata=key)
    except grpc.RpcError as error:
        assert refused(error)[0] == "UNAUTHENTICATED"
        return False
    return True


def test_a_port_that_is_taken_is_a_usage_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "torchship", "serve", str(make(tmp_path, "half"))]
        ended = subprocess.run(
            [*command, "--port", "0", "--grpc-port", str(port)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert ended.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_every_address_of_the_machine(tmp_path: Path) -> None:
    archive = make(tmp_path, "half")
    for host in ("0.0.0.0", "::1"):
        with launched("--host", host, "--grpc-port", 0, archive) as process:
            assert process.line() == "ready: half/1"
            process.grpc = process.grpc.replace("0.0.0.0", "127.0.0.1")
            with calling(process) as connection:
                assert half(connection) == b"\x00\x40"


def test_without_the_port_the_library_is_not_loaded(tmp_path: Path) -> None:
    with launched(make(tmp_path, "half")) as process:
        assert process.line() == "ready: half/1"
        with open(f"/proc/{process.worker().pid}/maps") as maps:
            assert "cygrpc" not in maps.read()
