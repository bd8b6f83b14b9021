"""Workers that die, while loading or afterwards, and their metrics."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from served import Process

psutil: Any = import_module("psutil")  # it has no types

MakeArchive = Callable[..., Path]
ONES = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 1]}]}
NURSERY = "torchship.serve.process.fork_server"
ASKED = 12  # on connections of their own, which come to either of two workers


def ask(server: Process, path: str, body: object = None) -> httpx.Response:
    return httpx.post(f"{server.url}/v2/{path}", json=body, trust_env=False, timeout=60)


def statuses(server: Process, path: str, body: object = None) -> set[int]:
    return {ask(server, path, body).status_code for _ in range(ASKED)}


def printed(server: Process, times: int) -> None:
    """Wait until the model has printed its golden case's text so many times."""
    while server.stderr().count("slowly: slowly") < times:
        assert server.popen.poll() is None


def text(said: str) -> dict[str, object]:
    return {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": [said]}]}


def test_an_archive_that_workers_die_of_is_put_away_and_the_others_are_served(
    launch: Any, make_archive: MakeArchive
) -> None:
    slowly = make_archive("slowly")
    with launch("--loads", 1, make_archive("logarithm"), slowly) as server:
        for deaths in (1, 2):
            printed(server, deaths)
            server.worker().kill()
            assert server.line().startswith("worker 0 ended by signal 9; starting another")
        why = "a process ended by signal 9 twice while it loaded the archive"
        reason = f"model 'slowly' is out of service: {why}"
        assert server.line() == f"failed: {slowly}: {reason}"
        assert ask(server, "models/logarithm/infer", ONES).status_code == 200
        refused = ask(server, "models/slowly/infer", text("a"))
        assert (refused.status_code, refused.json()) == (503, {"error": reason})


def load(server: Process, answers: list[httpx.Response]) -> threading.Thread:
    def asked() -> None:
        with suppress(httpx.TransportError):  # the one that was asked may die
            answers.append(ask(server, "repository/models/slowly/load"))

    thread = threading.Thread(target=asked)
    thread.start()
    return thread


def test_a_worker_that_dies_in_a_load_makes_it_when_it_is_back(
    launch: Any, make_archive: MakeArchive, tmp_path: Path
) -> None:
    make_archive("slowly")
    with launch("--workers", 2, "--mode", "explicit", tmp_path) as server:
        assert server.line() == "ready: "
        answers: list[httpx.Response] = []
        loading = load(server, answers)
        printed(server, 2)
        server.workers()[0].kill()
        loading.join(60)
        assert not answers or answers[0].status_code == 200
        while statuses(server, "models/slowly/infer", text("a")) != {200}:
            pass


def test_a_load_that_workers_die_of_leaves_the_model_in_none(
    launch: Any, make_archive: MakeArchive, tmp_path: Path
) -> None:
    make_archive("slowly")
    with launch("--workers", 2, "--mode", "explicit", tmp_path) as server:
        assert server.line() == "ready: "
        answers: list[httpx.Response] = []
        loading = load(server, answers)
        for deaths in (1, 2):
            printed(server, 1 + deaths)
            newest = max(server.workers(), key=lambda process: process.create_time())
            newest.kill()
            while newest.is_running():
                pass
        loading.join(60)
        assert not answers or "a process ended" in answers[0].text
        while statuses(server, "models/slowly/infer", text("a")) - {404, 503}:
            pass
        assert statuses(server, "models/slowly/infer", text("a")) <= {404, 503}


def test_a_file_that_was_changed_is_not_served_beside_the_old_one(
    launch: Any, make_archive: MakeArchive
) -> None:
    path = make_archive("positive")
    with launch("--workers", 2, path) as server:
        assert server.line() == "ready: positive/1"
        x = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}
        old = ask(server, "models/positive/infer", {"inputs": [x]}).content
        other = make_archive(
            "positive", file="other.pt", edit=lambda flat: flat | {"y": flat["y"] * (1 + 1e-7)}
        )
        assert other.read_bytes() != path.read_bytes()
        os.replace(other, path)
        server.workers()[0].kill()
        assert "ended by signal 9" in server.line()
        assert "is back" in server.line()
        answers = [ask(server, "models/positive/infer", {"inputs": [x]}) for _ in range(ASKED)]
        assert {answer.status_code for answer in answers} == {200, 503}
        assert {answer.content for answer in answers if answer.status_code == 200} == {old}
        reason = "has changed since the other workers loaded it"
        assert reason in server.stderr(reason)


def counted(server: Process) -> float:
    figures = httpx.get(f"{server.url}/metrics", trust_env=False, timeout=60).text
    return sum(
        sample.value
        for family in text_string_to_metric_families(figures)
        for sample in family.samples
        if sample.name == "torchship_requests_total" and sample.labels["model"] == "logarithm"
    )


def test_what_a_dead_worker_had_counted_still_counts(
    launch: Any, archives: dict[str, Path]
) -> None:
    with launch("--workers", 2, archives["logarithm"]) as server:
        assert server.line() == "ready: logarithm/1"
        for _ in range(ASKED):
            assert ask(server, "models/logarithm/infer", ONES).status_code == 200
        assert counted(server) == ASKED
        for worker in server.workers():
            worker.kill()
            assert "ended by signal 9" in server.line()
            assert "is back" in server.line()
        assert counted(server) == ASKED


def test_two_workers_share_what_they_have_imported(launch: Any, archives: dict[str, Path]) -> None:
    """The supervisor has no torch, and the process that started the workers ends."""
    with launch("--workers", 2, archives["tiny"], archives["memory"], "--state", "none") as server:
        assert server.line() == "ready: tiny/1, memory/1"
        supervisor = psutil.Process(server.popen.pid)
        workers = server.workers()
        assert len(workers) == 2
        others = [p for p in supervisor.children(recursive=True) if p not in workers]
        psutil.wait_procs(others, timeout=60)
        assert not any(process.is_running() for process in others)
        files = {Path(mapped.path).name for mapped in supervisor.memory_maps()}
        assert not {name for name in files if name.startswith("libtorch")}
        # Of some 300 MB each: what they have imported is in the memory of both.
        for process in (supervisor, *workers):
            assert process.memory_full_info().uss < 60e6
        server.workers()[0].kill()
        assert "ended by signal 9" in server.line()
        assert "is back" in server.line()


def test_a_file_whose_name_is_not_utf_8_is_served(launch: Any, make_archive: MakeArchive) -> None:
    path = make_archive("logarithm", file=os.fsdecode(b"m\xff.pt"))
    with launch("--sequence-idle-seconds", "inf", path) as server:
        assert server.line() == "ready: logarithm/1"
        assert ask(server, "models/logarithm/infer", ONES).status_code == 200


def test_a_refusal_that_is_not_utf_8_is_shown(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"m\xff.pt")
    refused = subprocess.run(
        [sys.executable, "-m", "torchship", "serve", path],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert refused.returncode == 2
    assert "m\\udcff.pt' is not there" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_server_ends_whose_start_of_a_worker_hangs(archives: dict[str, Path]) -> None:
    command = [sys.executable, "-m", "torchship", "serve", "--port", "0", "--shutdown-seconds", "1"]
    with subprocess.Popen([*command, archives["logarithm"]]) as popen:
        supervisor = psutil.Process(popen.pid)
        starting: list[Any] = []
        while not starting:
            assert popen.poll() is None
            starting = [p for p in supervisor.children() if NURSERY in p.cmdline()]
        starting[0].suspend()
        try:
            popen.terminate()
            assert popen.wait(60) == 0
            assert not starting[0].is_running()
        finally:
            popen.kill()
            for process in filter(psutil.Process.is_running, starting):
                process.kill()


def test_what_a_dead_worker_had_started_leaves_no_process(
    launch: Any, archives: dict[str, Path]
) -> None:
    large = [0.0001] * 100_000
    x = {"name": "x", "datatype": "FP32", "shape": [len(large)], "data": large}
    with launch(archives["logarithm"]) as server:
        assert server.line() == "ready: logarithm/1"
        assert ask(server, "models/logarithm/infer", {"inputs": [x]}).status_code == 200
        worker = server.worker()
        (helper,) = worker.children()
        worker.kill()
        assert "ended by signal 9" in server.line()
        assert "is back" in server.line()
        while psutil.pid_exists(helper.pid):
            assert server.popen.poll() is None


def test_the_address_is_printed_whichever_worker_listens_first(archives: dict[str, Path]) -> None:
    command = [sys.executable, "-m", "torchship", "serve", "--port", "0"]
    command.append(str(archives["logarithm"]))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as popen:
        server = Process(popen)
        try:
            while not (workers := server.workers()):
                assert popen.poll() is None
            workers[0].kill()
            assert server.line() == "worker 0 ended by signal 9; starting another"
            server.url = server.line().removeprefix("listening on ")
            assert server.line() == "ready: logarithm/1"
            assert ask(server, "models/logarithm/infer", ONES).status_code == 200
        finally:
            popen.terminate()


def test_a_wish_to_end_before_there_is_a_worker_is_no_wish_to_wait(
    archives: dict[str, Path],
) -> None:
    """A worker hears a signal also if it comes as soon as the worker is born."""
    said = "--port", "0", "--shutdown-seconds", "300", archives["logarithm"]
    with subprocess.Popen([sys.executable, "-m", "torchship", "serve", *said]) as popen:
        supervisor = psutil.Process(popen.pid)
        while not any(NURSERY in process.cmdline() for process in supervisor.children()):
            assert popen.poll() is None
        try:
            popen.terminate()
            assert popen.wait(60) == 0
        finally:
            popen.kill()
