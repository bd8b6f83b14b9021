"""Misbehaving models: endless calls, violated signatures, rows that fail."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

MakeArchive = Callable[..., Path]
LIMIT = 0.5  # seconds for a call


def ask(url: str, model: str, *values: float) -> httpx.Response:
    inputs = [{"name": "x", "datatype": "FP32", "shape": [len(values), 1], "data": list(values)}]
    return httpx.post(
        f"{url}/v2/models/{model}/infer", json={"inputs": inputs}, timeout=60, trust_env=False
    )


def doubled(answer: httpx.Response) -> list[float]:
    assert answer.status_code == 200, answer.text
    found: list[float] = answer.json()["outputs"][0]["data"]
    return found


@pytest.fixture
def hanging(make_archive: MakeArchive, launch: Any) -> Iterator[Any]:
    """A server whose models have threads of their own, and of which one may never end a call."""
    paths = [make_archive("endless"), make_archive("held")]
    with launch("--quick-us", 0, "--call-seconds", LIMIT, *paths) as process:
        assert process.line() == "ready: endless/1, held/1"
        yield process


def test_a_call_that_never_ends_takes_its_model_out_of_service(hanging: Any) -> None:
    expected = (
        503,
        {"error": f"model 'endless' is out of service: a call took longer than {LIMIT} s"},
    )
    with ThreadPoolExecutor(3) as pool:
        # The one that runs and those that wait behind it, on both ways to the model.
        asked = [pool.submit(ask, hanging.url, "endless", -1.0) for _ in range(2)]
        asked.append(pool.submit(ask, hanging.url, "endless", *[-1.0] * 200))
        answers = [future.result() for future in asked]
    assert [(answer.status_code, answer.json()) for answer in answers] == [expected] * 3
    later = ask(hanging.url, "endless", 1.0)
    assert (later.status_code, later.json()) == expected
    assert doubled(ask(hanging.url, "held", 1.0, 2.0)) == [2.0, 4.0]
    assert expected[1]["error"] in hanging.stderr(expected[1]["error"])


def test_a_server_with_a_call_that_never_ends_ends_all_the_same(hanging: Any) -> None:
    assert ask(hanging.url, "endless", -1.0).status_code == 503
    hanging.popen.terminate()
    assert hanging.popen.wait(60) == 0
    assert "terminate called" not in hanging.stderr()


def test_an_archive_whose_golden_case_never_ends_fails_and_the_others_load(
    make_archive: MakeArchive, launch: Any
) -> None:
    stalled, held = make_archive("stalled"), make_archive("held")
    with launch("--call-seconds", LIMIT, stalled, held) as process:
        assert process.line() == (
            f"failed: {stalled}: a call of golden case 0 ('forward, one step') took longer than "
            f"{LIMIT} s, the setting call_seconds"
        )
        assert doubled(ask(process.url, "held", 3.0)) == [6.0]
        assert ask(process.url, "stalled", 1.0).status_code == 503
        process.popen.terminate()
        assert process.popen.wait(60) == 0


HUNG = """
import asyncio, sys
from pathlib import Path
import torch
from torchship.script.runtime.archive import open_archive
from torchship.serve.engine.engine import Engine
from torchship.serve.errors import OutOfServiceError
from torchship.serve.engine.limits import Limits
from torchship.serve.protocol.tensors import pack

async def main():
    told = []
    engine = Engine(
        open_archive(Path(sys.argv[1])),
        Limits(call_seconds=0.2),
        hung=lambda engine, why: told.append((engine.number, why)),
    )
    await engine.start()
    rows = [torch.full((1, 1), -1.0) for _ in range(5)]
    calls = (engine.call("forward", {"x": pack(row)}) for row in rows)
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(answer) for answer in answers} == {OutOfServiceError}, answers
    assert told == [(engine.number, str(answers[0]))], told
    await asyncio.wait_for(engine.retire(), 60)
    assert not engine.join()
    print(told[0][1], flush=True)

asyncio.run(main())
"""


def test_an_out_of_service_engine_is_reported_once_and_its_thread_not_waited_for(
    make_archive: MakeArchive,
) -> None:
    command = [sys.executable, "-c", HUNG, str(make_archive("endless"))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.stdout == ("model 'endless' is out of service: a call took longer than 0.2 s\n"), (
        ended.stderr
    )
    # No success, and no abort inside LibTorch either.
    assert ended.returncode == 1
    assert "the process ends without it" in ended.stderr


def test_one_bad_row_does_not_affect_other_requests(make_archive: MakeArchive, launch: Any) -> None:
    """Connections of their own send at the same time, over and over."""
    with launch(make_archive("picky")) as process:
        assert process.line() == "ready: picky/1"
        together = threading.Barrier(8)

        def client(number: int) -> None:
            url = f"{process.url}/v2/models/picky/infer"
            with httpx.Client(trust_env=False, timeout=60) as http:
                together.wait(60)
                for turn in range(40):
                    value = 1000.0 if number == 0 else float(number + turn / 64)
                    data = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [value]}
                    answer = http.post(url, json={"inputs": [data]})
                    if number == 0:
                        assert answer.status_code == 400
                        assert answer.json()["error"].endswith("raised: a value is over 100")
                    else:
                        assert doubled(answer) == [2 * value]

        with ThreadPoolExecutor(8) as pool:
            for future in [pool.submit(client, number) for number in range(8)]:
                future.result()


def test_an_output_that_breaks_the_signature_is_no_answer(
    make_archive: MakeArchive, launch: Any
) -> None:
    with launch(make_archive("reshaped"), make_archive("positive")) as process:
        assert process.line() == "ready: reshaped/1, positive/1"
        assert doubled(ask(process.url, "reshaped", 1.0, 2.0)) == [2.0, 4.0]
        for model, value, expected, got in (
            ("reshaped", 150.0, "float32[2,1]", "float32[2]"),
            ("reshaped", 250.0, "float32[2,1]", "int64[2,1]"),
            ("positive", -1.0, "float32[2,1]", "float32[1,1]"),
        ):
            answer = ask(process.url, model, value, 1.0)
            assert answer.status_code == 400
            assert answer.json() == {"error": f"output 'y': expected {expected}, got {got}"}
