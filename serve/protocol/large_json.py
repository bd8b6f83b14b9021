"""Large JSON: read and written by helper processes, so that nobody else has to wait for it.

To parse 60 MB of JSON takes seconds, and Python's lock is held for all of it: a thread would not
help. What is small is done on the spot, which is quicker than to ask.
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

MOST = 2  # helpers; each has a few times the memory of the largest body, and a core
SECONDS = 120.0  # for one message


class LargeJsonCodec:
    """Reads requests and writes answers; it has helpers once there was something large."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(MOST)
        self._idle: list[JsonHelper] = []

    async def decode(
        self,
        body: bytes | bytearray,
        header_length: str | None = None,
        hold: BodyHold | None = None,
    ) -> InferRequest:
        """Read a request as `decode_request` does; `hold` is told how large its tensors are.

        Raises:
            RequestError: as `decode_request`.
            OverloadError: a helper could not do it.
        """
        if len(body) <= LARGE_JSON:
            return decode_request(body, header_length)
        text, rest = split_body(body, header_length)
        if len(text) <= LARGE_JSON:
            return decode_request(body, header_length)
        said, data = await self._ask({"do": "read"}, [text])
        if hold is not None:
            hold.grow(len(data))
        head = said["head"]
        whole = memoryview(data)
        for place, start, end in said["parts"]:
            head["inputs"][place]["data"] = whole[start:end]
        return read_request(head, rest)

    async def finish(self, draft: AnswerDraft) -> Body:
        """Return the message that a draft becomes, as `AnswerDraft.finish` does.

        Raises:
            RequestError: as `AnswerDraft.finish`.
            OverloadError: a helper could not do it.
        """
        entries: list[object] = draft.head["outputs"]  # type: ignore[assignment]
        tensors = []
        parts: list[Bytes] = []
        for tensor in draft.tensors:
            place = next(n for n, entry in enumerate(entries) if entry is tensor.entry)
            parts.append(to_binary(tensor.value))
            size = len(parts[-1])
            tensors.append((place, tensor.what, datatype_of(tensor.value), size, tensor.non_finite))
        asked = {"do": "write", "head": draft.head, "tensors": tensors}
        _, text = await self._ask(asked, parts)
        return draft.join(text)

    async def _ask(
        self, control: Mapping[str, object], parts: Sequence[Bytes | memoryview]
    ) -> tuple[dict[str, Any], bytearray]:
        async with self._free:
            try:
                helper = self._take()
            except OSError as error:  # no memory, too many files or processes
                raise OverloadError(
                    "no helper process for large JSON can be started: try again later, or send "
                    "and ask for binary data"
                ) from error
            try:
                said, data = await asyncio.wait_for(helper.ask(control, parts), SECONDS)
            except BaseException as error:  # what it has still to say belongs to nobody
                helper.end()
                if isinstance(error, OSError | EOFError | asyncio.TimeoutError):
                    raise OverloadError(
                        "a helper process for large JSON ended: try again later, or send and ask "
                        "for binary data"
                    ) from error
                raise
            self._idle.append(helper)
        if "error" in said:
            raise RequestError(said["error"])
        return said, data

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
    """A process that runs `transcoder`, over a socket of its own; it ends with the socket."""

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
        """Return whether the process runs."""
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
        said: dict[str, Any] = orjson.loads(await self._receive(length))
        return said, await self._receive(size)

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
