"""What one writes with Ray Serve alone: a deployment that loads a file and answers JSON by hand.

It checks nothing and batches nothing. `bench/ray_serve.py` compares with it. Run as a program, it
adds the application to the cluster at an address.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import ray
import torch
from ray import serve
from starlette.requests import Request


class Plain:
    def __init__(self, path: str) -> None:
        torch.set_num_threads(1)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`torch\.jit\.load` is deprecated")
            self._model = torch.jit.load(path).eval()  # type: ignore[no-untyped-call]

    async def __call__(self, request: Request) -> dict[str, list[list[float]]]:
        obs = torch.tensor((await request.json())["obs"], dtype=torch.uint8)
        zeros = torch.zeros(len(obs), 128)
        with torch.inference_mode():
            logits: torch.Tensor = self._model(obs, zeros, zeros)[0]
        return {"logits": logits.tolist()}


def main(address: str, archive: str, replicas: int) -> None:
    ray.init(address=address, log_to_driver=False)
    options: dict[str, Any] = {"num_replicas": replicas, "max_ongoing_requests": 256}
    deployment: Any = serve.deployment(**options)(Plain)
    serve.run(deployment.bind(archive), name="plain", route_prefix="/plain")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
