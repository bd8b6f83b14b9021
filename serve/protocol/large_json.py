"""Decodes and encodes large JSON in helper processes, so that no other request waits for it.

Parsing 60 MB of JSON takes seconds and holds the GIL, so a thread would not help. Small JSON is
handled in place, which is faster than asking a helper.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from torchship.serve.errors import OverloadError, RequestError
from torchship.serve.protocol.drafts import LARGE_JSON, AnswerDraft, Body
from torchship.serve.protocol.json_helper import FRAME
from torchship.serve.protocol.messages import (
    InferRequest,
    decode_request,
    read_request,
    split_body,
)
from torchship.serve.protocol.tensors import Bytes, datatype_of, to_binary
from torchship.serve.system.body_memory import BodyHold
from torchship.serve.system.interpreter import command

MOST = 2  # helpers; each needs a core and a few times the memory of the largest body
SECONDS = 120.0  # limit for one message


class LargeJsonCodec:
    """Decodes requests and encodes answers; starts helpers when the first large message comes."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(MOST)
        self._idle: list[JsonHelper] = []

    async def decode(
        self,
        body: bytes | bytearray,
        header_length: str | None = None,
        hold: BodyHold | None = None,
    ) -> InferRequest:
        """Read a request as `decode_request` does; `hold` grows by the size of its tensors.

        Raises:
            RequestError: as `decode_request`.
            OverloadError: a helper could not be started, or failed; or `hold` has no room.
        """
        if len(body) <= LARGE_JSON:
            return decode_request(body, header_length)
        text, rest = split_body(body, header_length)
        if len(text) <= LARGE_JSON:
            return decode_request(body, header_length)
        reply, data = await self._ask({"do": "read"}, [text])
        if hold is not None:
            hold.grow(len(data))
        head = reply["head"]
        whole = memoryview(data)
        for place, start, end in reply["parts"]:
            head["inputs"][place]["data"] = whole[start:end]
        return read_request(head, rest)

    async def finish(self, draft: AnswerDraft) -> Body:
        """Return the message that a draft becomes, as `AnswerDraft.finish` does.

        Raises:
            RequestError: as `AnswerDraft.finish`.
            OverloadError: a helper could not be started, or failed.
        """
        entries: list[object] = draft.head["outputs"]  # type: ignore[assignment]
        tensors = []
        parts: list[Bytes] = []
        for tensor in draft.tensors:
            place = next(n for n, entry in enumerate(entries) if entry is tensor.entry)
            parts.append(to_binary(tensor.value))
            size = len(parts[-1])
            tensors.append((place, tensor.what, datatype_of(tensor.value), size, tensor.non_finite))
        control = {"do": "write", "head": draft.head, "tensors": tensors}
        _, text = await self._ask(control, parts)
        return draft.join(text)

    async def _ask(
        self, control: Mapping[str, object], parts: Sequence[Bytes | memoryview]
    ) -> tuple[dict[str, Any], bytearray]:
        async with self._free:
            try:
                helper = self._take()
            except OSError as error:  # out of memory, files or processes
                raise OverloadError(
                    "no helper process for large JSON can be started: try again later, or send "
                    "and ask for binary data"
                ) from error
            try:
                reply, data = await asyncio.wait_for(helper.ask(control, parts), SECONDS)
            except BaseException as error:  # nobody reads this helper's reply: do not use it again
                helper.end()
                if isinstance(error, OSError | EOFError | asyncio.TimeoutError):
                    raise OverloadError(
                        "a helper process for large JSON ended: try again later, or send and ask "
                        "for binary data"
                    ) from error
                raise
            self._idle.append(helper)
        if "error" in reply:
            raise RequestError(reply["error"])
        return reply, data

    def _take(self) -> JsonHelper:
        while self._idle:
            helper = self._idle.pop()
            if helper.alive():
                return helper
            helper.end()
        return JsonHelper()

    def close(self) -> None:
        """End the helpers."""
        while self._idle:
            self._idle.pop().end()


class JsonHelper:
    """A process that runs `json_helper`, reached through a socket; it ends when that closes."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        with theirs:
            self._process = subprocess.Popen(
                command("torchship.serve.protocol.json_helper"),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
            )

    def alive(self) -> bool:
        """Return whether the process is running."""
        return self._process.poll() is None

    async def ask(
        self, control: Mapping[str, object], parts: Sequence[Bytes | memoryview]
    ) -> tuple[dict[str, Any], bytearray]:
        """Send one message and return its answer.

        Raises:
            OSError, EOFError: the process has ended.
        """
        loop = asyncio.get_running_loop()
        text = orjson.dumps(control)
        size = sum(map(len, parts))
        await loop.sock_sendall(self._socket, FRAME.pack(len(text), size) + text)
        for part in parts:
            await loop.sock_sendall(self._socket, part)
        length, size = FRAME.unpack(await self._receive(FRAME.size))
        reply: dict[str, Any] = orjson.loads(await self._receive(length))
        return reply, await self._receive(size)

    async def _receive(self, size: int) -> bytearray:
        loop = asyncio.get_running_loop()
        data = bytearray(size)
        view = memoryview(data)
        got = 0
        while got < size:
            count = await loop.sock_recv_into(self._socket, view[got:])
            if not count:
                raise EOFError
            got += count
        return data

    def end(self) -> None:
        """End the process."""
        self._socket.close()
        self._process.kill()
        self._process.wait()
