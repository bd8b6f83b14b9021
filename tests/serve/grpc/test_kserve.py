"""KServe's own gRPC client, as it is, in a process of its own: its messages have Triton's names."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

TALK = """
import asyncio, json, sys, warnings
warnings.simplefilter("ignore")
import grpc, kserve, numpy as np

def tensor(name, array, datatype, binary):
    made = kserve.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made

async def main(address):
    found = {}
    async with kserve.InferenceGRPCClient(address) as client:
        found["health"] = [
            await client.is_server_live(), await client.is_server_ready(),
            await client.is_model_ready("tiny"), await client.is_model_ready("nobody"),
        ]
        obs = np.arange(2 * 510, dtype=np.uint8).reshape(2, 510)
        for binary in (False, True):
            asked = kserve.InferRequest("tiny", [tensor("obs", obs, "UINT8", binary)], "seven")
            answer = await client.infer(asked)
            logits = answer.outputs[0].as_numpy()
            found[f"logits {binary}"] = logits.tobytes().hex()
            found[f"said {binary}"] = [answer.id, answer.model_name, answer.model_version]
        ones = np.ones(3, np.float32)
        names = ("pair.0", "pair.1", "named.left", "many.0")
        inputs = [tensor(name, ones, "FP32", True) for name in names]
        inputs.append(tensor("scale", np.array([0.25]), "FP64", True))
        inputs.append(tensor("times", np.array([3]), "INT64", True))
        text = np.array(["gr\\u00fc\\u00dfe".encode()], dtype=np.object_)
        inputs.append(tensor("text", text, "BYTES", True))
        answer = await client.infer(kserve.InferRequest("nested", inputs))
        found["nested"] = {o.name: o.as_numpy().tolist() for o in answer.outputs}
        steps = []
        for number in range(3):
            parameters = {"sequence_id": "kserve", "sequence_start": number == 0}
            x = tensor("x", np.ones((1, 2), np.float32), "FP32", False)
            asked = kserve.InferRequest("memory", [x], parameters=parameters)
            outputs = (await client.infer(asked)).outputs
            steps.append(next(o for o in outputs if o.name == "y").as_numpy()[0, 0].item())
        found["steps"] = steps
        try:
            await client.infer(kserve.InferRequest("tiny", [tensor("no", obs, "UINT8", True)]))
        except grpc.RpcError as error:
            found["error"] = [error.code().name, error.details()]
    print(json.dumps(found))

asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def found(grpc_server: Any) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", TALK, grpc_server.grpc],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_health(found: Any) -> None:
    assert found["health"] == [True, True, True, False]


def test_infer_with_typed_and_raw_contents(found: Any, reference: Any) -> None:
    obs = np.arange(2 * 510, dtype=np.uint8).reshape(2, 510)
    logits = reference("tiny", obs=obs)["logits"].numpy().tobytes().hex()
    for binary in (False, True):
        assert found[f"logits {binary}"] == logits
        assert found[f"said {binary}"] == ["seven", "tiny", "9"]
    assert found["nested"] == {"total": [5.25] * 3, "greets": [True]}


def test_a_sequence(found: Any) -> None:
    assert found["steps"] == pytest.approx(np.tanh([1, 1.5, 1.75]))


def test_an_error_reaches_the_client(found: Any) -> None:
    assert found["error"][0] == "INVALID_ARGUMENT"
    assert "unknown input 'no'" in found["error"][1]
