"""A request that is run in parts gets the same answer, whatever the sizes."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.sync.client import connect

from torchship.script.format.manifest import Method
from torchship.script.format.tree import Flat
from torchship.script.runtime.archive import open_archive
from torchship.script.runtime.program import Program
from torchship.serve.client.client import Client

NAMES = ("tiny", "memory", "layered", "held", "exact")


class Served:
    """A server whose calls take at most so many rows, and the same archives without it."""

    def __init__(self, url: str, most: int, paths: dict[str, Path]) -> None:
        self.url = url
        self.most = most
        self.http = httpx.Client(base_url=url, trust_env=False, timeout=60)
        self.client = Client(url)
        self.programs: dict[str, Program] = {}
        for name, path in paths.items():
            self.programs[name] = open_archive(path).program()

    def infer(self, name: str, message: dict[str, Any]) -> Flat:
        answer = self.http.post(f"/v2/models/{name}/infer", json=message)
        assert answer.status_code == 200, answer.text
        return outputs_of(answer.json())


def outputs_of(answer: Any) -> Flat:
    assert "outputs" in answer, answer
    return {
        output["name"]: torch.tensor(output["data"]).reshape(output["shape"])
        for output in answer["outputs"]
    }


@pytest.fixture(
    scope="module", params=[["--max-batch", 1], ["--max-batch", 5], ["--max-batch-bytes", 40]]
)
def served(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    make_in: Callable[..., Path],
    launch: Any,
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("parts")
    paths = {name: make_in(folder, name) for name in NAMES}
    with launch(*request.param, *paths.values()) as process:
        assert process.line().startswith("ready: ")
        most = request.param[1] if request.param[0] == "--max-batch" else 5
        made = Served(process.url, most, paths)
        with made.http, made.client:
            yield made


def same(answer: Flat, expected: Flat, signature: Method) -> None:
    assert answer.keys() == expected.keys()
    for name, value in expected.items():
        tolerance = signature.tolerances[name]
        assert answer[name].shape == value.shape
        torch.testing.assert_close(
            answer[name].to(value.dtype), value, atol=tolerance.atol, rtol=tolerance.rtol
        )


def inputs_of(name: str, rows: int, state: bool, seed: int) -> Flat:
    """Return inputs of `forward`; the state is left out or not."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    if name == "tiny":
        return {"obs": torch.randint(256, (rows, 510), generator=generator).byte()}
    if name == "memory":
        return {"x": noise(rows, 2)} | ({"h": noise(rows, 2)} if state else {})
    if name == "layered":
        inputs = {"x": noise(rows, 3), "scale": torch.tensor(0.5, dtype=torch.float64)}
        return inputs | ({"h": noise(2, rows, 3)} if state else {})
    if name == "held":
        return {"x": noise(rows, 1)}
    return {  # which has no batch, and runs whole
        **{
            key: noise(rows).to(dtype)
            for key, dtype in (("f", torch.float32), ("d", torch.float64))
        },
        **{"i": torch.arange(rows), "u": torch.arange(rows).byte(), "b": torch.arange(rows) > 1},
    }


def wire(inputs: Flat) -> list[dict[str, Any]]:
    kinds = {torch.uint8: "UINT8", torch.float32: "FP32", torch.float64: "FP64"}
    return [
        {
            "name": name,
            "datatype": kinds[value.dtype],
            "shape": list(value.shape) or [1],
            "data": value.reshape(-1).tolist(),
        }
        for name, value in inputs.items()
    ]


SEEDS = st.integers(0, 1000)


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(NAMES),
    share=st.floats(0, 1),
    state=st.booleans(),
    binary=st.booleans(),
    seed=SEEDS,
)
def test_a_request(
    served: Served, name: str, share: float, state: bool, binary: bool, seed: int
) -> None:
    rows = 1 + round(share * 3 * served.most)
    inputs = inputs_of(name, rows, state, seed)
    program = served.programs[name]
    signature = program.method("forward")
    answer = served.client.infer(name, signature, inputs, binary=binary)
    same(answer, program.call("forward", inputs), signature)


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(["tiny", "held", "memory"]), st.floats(0, 1), SEEDS)
def test_a_raw_request(served: Served, name: str, share: float, seed: int) -> None:
    rows = 1 + round(share * 3 * served.most)
    (value,) = (inputs := inputs_of(name, rows, False, seed)).values()
    headers = {"Inference-Header-Content-Length": "0"}
    body = value.numpy().tobytes()
    answer = served.http.post(f"/v2/models/{name}/infer", content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    length = int(answer.headers["Inference-Header-Content-Length"])
    head = json.loads(answer.content[:length])
    program = served.programs[name]
    expected = program.call("forward", inputs)
    place = length
    found: Flat = {}
    for output in head["outputs"]:
        end = place + output["parameters"]["binary_data_size"]
        data = bytearray(answer.content[place:end])
        dtype = expected[output["name"]].dtype
        found[output["name"]] = torch.frombuffer(data, dtype=dtype).reshape(output["shape"])
        place = end
    same(found, expected, program.method("forward"))


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(["memory", "layered"]), st.floats(0, 1), st.booleans(), SEEDS)
def test_a_sequence_and_a_stream(
    served: Served, name: str, share: float, state: bool, seed: int
) -> None:
    rows = 1 + round(share * 3 * served.most)
    program = served.programs[name]
    signature = program.method("forward")
    steps = [inputs_of(name, rows, state and number == 0, seed + number) for number in range(3)]
    expected: list[Flat] = []
    for number, step in enumerate(steps):
        carried = {"h": expected[-1]["h"]} if number else {}
        expected.append(program.call("forward", step | carried))

    for number, (step, wanted) in enumerate(zip(steps, expected, strict=True)):
        parameters = {
            "sequence_id": 7,
            "sequence_start": number == 0,
            "sequence_end": number == len(steps) - 1,
        }
        same(
            served.infer(name, {"inputs": wire(step), "parameters": parameters}), wanted, signature
        )

    url = served.url.replace("http", "ws", 1)
    with connect(f"{url}/v2/models/{name}/stream", proxy=None) as socket:
        for step, wanted in zip(steps, expected, strict=True):
            socket.send(json.dumps({"inputs": wire(step)}))
            same(outputs_of(json.loads(socket.recv())), wanted, signature)
