"""What one writes without TorchShip: FastAPI, pydantic, `torch.jit.load`, one call per request.

It checks nothing and batches nothing. `bench/server.py` compares with it.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Annotated

import torch
import uvicorn
from fastapi import Body, FastAPI, Request, Response
from pydantic import BaseModel


class Observations(BaseModel):
    obs: list[list[int]]


def create_app(predict: Callable[[torch.Tensor], torch.Tensor]) -> FastAPI:
    app = FastAPI()

    # `def`, as FastAPI's documentation advises for code that blocks: it runs in a thread pool.
    @app.post("/json")
    def json(observations: Observations) -> dict[str, list[list[float]]]:
        return {"logits": predict(torch.tensor(observations.obs, dtype=torch.uint8)).tolist()}

    # Those on the event loop block all others while the model runs.
    @app.post("/json-async")
    async def json_async(observations: Observations) -> dict[str, list[list[float]]]:
        return {"logits": predict(torch.tensor(observations.obs, dtype=torch.uint8)).tolist()}

    @app.post("/binary")
    def binary(body: Annotated[bytes, Body()]) -> Response:
        obs = torch.frombuffer(bytearray(body), dtype=torch.uint8)
        return Response(predict(obs.reshape(-1, 510)).numpy().tobytes())

    @app.post("/binary-async")
    async def binary_async(request: Request) -> Response:
        obs = torch.frombuffer(bytearray(await request.body()), dtype=torch.uint8)
        return Response(predict(obs.reshape(-1, 510)).numpy().tobytes())

    return app


def main(archive: str, port: int) -> None:
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.load` is deprecated")
        model = torch.jit.load(archive).eval()  # type: ignore[no-untyped-call]

    def predict(obs: torch.Tensor) -> torch.Tensor:
        zeros = torch.zeros(len(obs), 128)
        with torch.inference_mode():
            logits: torch.Tensor = model(obs, zeros, zeros)[0]
        return logits

    uvicorn.run(create_app(predict), port=port, log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
