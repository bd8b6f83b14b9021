"""The page behind Ray's proxy."""

from __future__ import annotations

import asyncio
import json

from starlette.types import Message, Scope

from torchship.serve.http.app import create_app
from torchship.serve.ray.asgi import BehindProxy
from torchship.serve.repository.repository import Repository
from torchship.serve.settings import Settings


def test_the_page_is_there_and_offers_no_verify() -> None:
    app = BehindProxy(create_app(Repository([]), Settings()))
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def ask(path: str) -> int:
        sent.clear()
        scope: Scope = {
            "type": "http", "method": "GET", "path": path, "root_path": "/models",
            "raw_path": path.encode(), "query_string": b"", "headers": [], "scheme": "http",
            "server": ("127.0.0.1", 8000), "client": ("127.0.0.1", 1),
        }  # fmt: skip
        await app(scope, receive, send)
        status: int = sent[0]["status"]
        return status

    for path, status in {
        "/models/": 200,
        "/models/ui/main.mjs": 200,
        "/models/ui/none": 404,
    }.items():
        assert asyncio.run(ask(path)) == status
    assert asyncio.run(ask("/models")) == 307
    assert (b"location", b"models/") in sent[0]["headers"]
    assert asyncio.run(ask("/models/site.json")) == 200
    assert json.loads(sent[1]["body"])["verify"] is False
