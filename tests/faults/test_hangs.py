"""Processes that hang: in a model on the event loop, anywhere else, while the server ends."""

from __future__ import annotations

import signal
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest

from served import Process

psutil: Any = import_module("psutil")  # it has no types

FOREVER = 1e9  # rounds


def ask(server: Process, model: str, value: float) -> httpx.Response:
    """Ask on a new connection, which may come to any worker."""
    x = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [value]}
    url = f"{server.url}/v2/models/{model}/infer"
    return httpx.post(url, json={"inputs": [x]}, trust_env=False, timeout=60)


def get(server: Process, path: str) -> httpx.Response:
    return httpx.get(server.url + path, trust_env=False, timeout=60)


def hang(server: Process) -> threading.Thread:
    """Ask for what never ends."""

    def never() -> None:
        try:
            ask(server, "held", FOREVER)
        except httpx.TransportError:  # the worker was ended
            return

    thread = threading.Thread(target=never, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("workers", [1, 2])
def test_a_quick_model_that_never_ends_is_out_of_service_and_nothing_else(
    launch: Any, make_archive: Any, workers: int
) -> None:
    archives = make_archive("held"), make_archive("picky")
    options = ("--workers", workers, "--call-seconds", 1.5)
    with launch(*options, *archives) as server:
        assert server.line() == "ready: held/1, picky/1"
        assert get(server, "/v2/health/ready").status_code == 200
        hung = hang(server)
        why = "a call took longer than 1.5 s on the event loop"
        seen = [server.line() for _ in range(2 if workers == 1 else 3)]
        number = next(line.split()[1] for line in seen if "was ended" in line)
        assert f"worker {number} was ended: {why}; starting another" in seen
        assert f"worker {number} is back" in seen
        hung.join(60)
        assert not hung.is_alive()
        message = f"model 'held' is out of service: {why}"
        for _ in range(8):
            assert ask(server, "picky", 1.0).json()["outputs"][0]["data"] == [2.0]
            refused = ask(server, "held", 1.0)
            assert (refused.status_code, refused.json()) == (503, {"error": message})
            assert get(server, "/v2/health/ready").status_code == 503
            assert get(server, "/v2/health/live").status_code == 200
            assert get(server, "/v2/models/held/ready").status_code == 503
            index = httpx.post(f"{server.url}/v2/repository/index", trust_env=False).json()
            assert index[0] == {
                "name": "held", "version": "1", "state": "UNAVAILABLE", "reason": message,
            }  # fmt: skip
        assert message in server.stderr(message)
        assert server.popen.poll() is None


def test_a_model_out_of_service_comes_back_when_it_is_loaded_anew(
    launch: Any, make_archive: Any, tmp_path: Path
) -> None:
    make_archive("held")
    options = ("--mode", "explicit", "--load", "held", "--call-seconds", 1.5)
    with launch(*options, tmp_path) as server:
        assert server.line() == "ready: held/1"
        hang(server)
        assert "was ended" in server.line()
        assert server.line() == "worker 0 is back"
        assert ask(server, "held", 1.0).status_code == 503
        url = f"{server.url}/v2/repository/models/held/load"
        assert httpx.post(url, trust_env=False, timeout=60).status_code == 200
        assert ask(server, "held", 1.0).status_code == 200
        server.worker().kill()
        assert server.line() == "live: held/1"
        assert "ended by signal 9" in server.line()
        assert server.line() == "worker 0 is back"
        assert ask(server, "held", 1.0).status_code == 200, "it is not held against it for ever"


@pytest.mark.parametrize("model", ["held", "lasting"])
def test_the_server_ends_in_time_whatever_hangs(launch: Any, make_archive: Any, model: str) -> None:
    archives = make_archive("held"), make_archive("lasting")
    options = ("--shutdown-seconds", 1, "--call-seconds", 3000, "--stall-seconds", 3000)
    with launch(*options, *archives) as server:
        assert server.line() == "ready: held/1, lasting/1"
        workers = server.workers()
        assert len(workers) == 1
        if model == "held":
            hang(server)
            pulse = httpx.Client(base_url=server.url, trust_env=False, timeout=1)
            with pulse, pytest.raises(httpx.TimeoutException):
                while pulse.get("/v2/health/live"):  # until the event loop has it
                    pass
        server.popen.send_signal(signal.SIGTERM)
        assert server.popen.wait(60) == 0
        assert not any(worker.is_running() for worker in workers)


def test_a_process_that_stands_still_is_replaced(launch: Any, archives: dict[str, Path]) -> None:
    with launch("--stall-seconds", 1.5, archives["logarithm"]) as server:
        assert server.line() == "ready: logarithm/1"
        server.worker().send_signal(signal.SIGSTOP)
        expected = "worker 0 was ended: it answered nobody for 1.5 s; starting another"
        assert server.line() == expected
        # Whoever connects meanwhile waits for the next worker.
        assert get(server, "/v2/health/live").status_code == 200
        assert server.line() == "worker 0 is back"
        assert get(server, "/v2/health/ready").status_code == 200


def test_a_worker_that_hangs_ends_though_nobody_watches_it(launch: Any, make_archive: Any) -> None:
    options = ("--stall-seconds", 1, "--call-seconds", 3000)
    with launch(*options, make_archive("held")) as server:
        assert server.line() == "ready: held/1"
        worker = server.worker()
        server.popen.send_signal(signal.SIGSTOP)  # the watchdog itself
        hang(server)
        pulse = httpx.Client(base_url=server.url, trust_env=False, timeout=1)
        with pulse, pytest.raises(httpx.TimeoutException):
            while pulse.get("/v2/health/live"):  # until the event loop has it
                pass
        server.popen.kill()
        psutil.wait_procs([worker], timeout=60)
        assert not worker.is_running()
