"""Encoding an answer must not keep the event loop from other requests."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from torchship.script.runtime.archive import open_archive
from torchship.serve.protocol.drafts import LARGE_JSON
from torchship.serve.protocol.large_json import LargeJsonCodec
from torchship.serve.protocol.messages import InferRequest
from torchship.serve.protocol.output_encoding import encode_answer
from torchship.serve.protocol.request_header import WantedOutput
from torchship.serve.protocol.tensors import pack

LARGE = LARGE_JSON // 4 + 1  # float32 values whose classes are not ranked on the event loop


@pytest.mark.parametrize(("count", "on_loop"), [(3, True), (LARGE, False)])
def test_many_classes_are_ranked_in_a_thread(
    archives: dict[str, Path], count: int, on_loop: bool
) -> None:
    manifest = open_archive(archives["logarithm"]).require_manifest()
    request = InferRequest({}, (WantedOutput("output", classes=1),))
    outputs = {"output": pack(torch.arange(count, dtype=torch.float32))}
    may_run = threading.Event()

    async def check() -> None:
        executor = ThreadPoolExecutor(1)
        executor.submit(may_run.wait)  # what is to run in a thread waits behind this
        asyncio.get_running_loop().set_default_executor(executor)
        answer = asyncio.ensure_future(encode_answer(LargeJsonCodec(), manifest, request, outputs))
        for _ in range(8):
            await asyncio.sleep(0)
        is_done = answer.done()
        may_run.set()
        body, _ = await answer
        assert is_done is on_loop
        assert b'"%d.000000:%d"' % (count - 1, count - 1) in bytes(body)

    asyncio.run(check())
