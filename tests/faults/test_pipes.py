"""Standard output or error without a reader: closed, gone, or never read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from served import Process
from torchship.serve.system.standard_streams import NonBlockingStream

MakeArchive = Callable[..., Path]
ROW = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}
WRONG = {"inputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [1]}]}


def post(server: Process, body: object = ROW, **said: Any) -> httpx.Response:
    path = f"{server.url}/v2/models/logarithm/infer"
    return httpx.post(path, json=body, trust_env=False, timeout=60, **said)


def versions(server: Process) -> list[str]:
    answer = httpx.get(f"{server.url}/v2/models/logarithm", trust_env=False, timeout=60)
    found: list[str] = answer.json().get("versions", [])
    return found


def ended_well(server: Process) -> bool:
    server.popen.send_signal(signal.SIGTERM)
    return server.popen.wait(60) == 0


def test_a_reader_of_stdout_that_goes_takes_nothing_with_it(
    launch: Any, make_archive: MakeArchive, tmp_path: Path
) -> None:
    """Loading, polling and the replacement of a dead worker go on."""
    make_archive("logarithm")
    with launch("--mode", "poll", "--poll-seconds", 0.1, tmp_path) as server:
        assert server.popen.stdout is not None
        server.popen.stdout.close()  # as `| head -1` does
        while versions(server) != ["1"]:
            pass
        for version in ("2", "3"):
            make_archive("logarithm", version=version)
            while version not in versions(server):
                pass
        server.worker().kill()
        assert versions(server) == ["3", "2", "1"] or post(server).status_code == 200
        assert post(server).status_code == 200
        assert ended_well(server)
        assert "BrokenPipe" not in server.stderr()


def test_standard_error_that_nobody_reads_does_not_stop_the_answers(
    archives: dict[str, Path],
) -> None:
    command = [sys.executable, "-m", "torchship", "serve", "--port", "0"]
    said, told = os.pipe()
    with subprocess.Popen(
        [*command, archives["logarithm"]], stdout=subprocess.PIPE, stderr=told, text=True
    ) as popen:
        os.close(told)
        server = Process(popen)
        server.url = server.line().removeprefix("listening on ")
        assert server.line() == "ready: logarithm/1"
        with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as client:
            for _ in range(2000):  # each of which is logged
                assert client.post("/v2/models/logarithm/infer", json=WRONG).status_code == 400
            assert client.post("/v2/models/logarithm/infer", json=ROW).status_code == 200
        assert ended_well(server)
        with open(said) as text:
            assert text.read().count("status=400") > 100


def test_standard_output_that_nobody_reads_does_not_stop_the_changes(
    launch: Any, make_archive: MakeArchive, tmp_path: Path
) -> None:
    make_archive("logarithm", version="v" * 200)
    with launch("--mode", "explicit", "--max-batch", 1, tmp_path) as server:
        for _ in range(200):  # more lines than a pipe holds
            for what in ("load", "unload"):
                url = f"{server.url}/v2/repository/models/logarithm/{what}"
                assert httpx.post(url, trust_env=False, timeout=60).status_code == 200
        assert ended_well(server)


def test_closed_standard_streams_are_no_sockets(archives: dict[str, Path], free_port: int) -> None:
    """What is printed must not end in a connection that got the number of a closed stream."""
    start = "import os, sys; os.closerange(0, 3); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-m", "torchship", "serve", "--port", str(free_port)]
    with subprocess.Popen(
        [sys.executable, "-c", start, *command, str(archives["logarithm"])], text=True
    ) as popen:
        server = Process(popen, f"http://127.0.0.1:{free_port}")
        try:
            answer = None
            while answer is None or answer.status_code in (404, 503):
                try:
                    answer = post(server)
                except httpx.TransportError:
                    assert popen.poll() is None
            assert answer.status_code == 200
            with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as client:
                for _ in range(100):
                    refused = client.post("/v2/models/logarithm/infer", json=WRONG)
                    assert refused.json()["error"].startswith("unknown input 'y'")
        finally:
            assert ended_well(server)


def test_what_is_not_read_in_time_is_counted_and_the_rest_is_whole() -> None:
    reader, writer = os.pipe()
    output = NonBlockingStream(writer, most=1000)
    line = "x" * 99 + "\n"
    pipe = 1 << 16
    for _ in range(pipe // 100 + 100):
        print(line, end="", file=output)
        output.drain(0.001)
    assert not output.drain(0.01), "the pipe is full"
    read = b""
    while not output.drain(0.01):
        read += os.read(reader, 4096)
    print("last", file=output)
    assert output.drain(60)
    os.close(writer)
    with open(reader, "rb") as rest:
        lines = (read + rest.read()).decode().splitlines()
    assert lines[-1] == "last"
    assert lines[-2].endswith("more texts were lost: nobody read this stream in time)")
    assert set(lines[:-2]) == {line.strip()}


def test_a_stream_whose_reader_is_gone_raises_nothing() -> None:
    reader, writer = os.pipe()
    output = NonBlockingStream(writer)
    os.close(reader)
    for _ in range(3):
        assert output.write("lost\n") == 5
        assert output.drain(60)
    os.close(writer)
