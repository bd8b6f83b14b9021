"""The helper process of `codec`: JSON to tensors' bytes and back, one message after another.

It imports no torch, so that it is small and there at once. A message on its socket is the lengths
of a JSON object and of the data behind it, then both. To read, the data is a request's JSON: the
answer is the same object with the tensors' values taken out of it, and behind it their bytes. To
write, the object is that of an answer and the data its tensors' bytes: the answer's data is text.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
from contextlib import suppress
from typing import IO, Any

import orjson

from torchship.serve.protocol.json_errors import not_json
from torchship.serve.protocol.json_values import (
    BYTES,
    NUMPY,
    Bytes,
    ValuesError,
    read_values,
    write_values,
)

FRAME = struct.Struct("<QQ")
LONGEST_HEAD = 1 << 18  # bytes of JSON without the tensors' values
MAX_RANK = 32
MAX_STRINGS = 1 << 16
NICE = 5  # what is small goes before what is large


def read(text: memoryview) -> tuple[dict[str, object], list[Bytes]]:
    """Take the values of the inputs out of a request's JSON; what is wrong with it is told."""
    try:
        head = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return {"error": not_json(error)}, []
    if not isinstance(head, dict):
        return {"error": f"expected a JSON object, got {type(head).__name__}"}, []
    inputs = head.get("inputs")
    places: list[tuple[int, int, int]] = []
    chunks: list[Bytes] = []
    end = 0
    for place, entry in enumerate(inputs if isinstance(inputs, list) else ()):
        if not isinstance(entry, dict) or not isinstance(entry.get("data"), list):
            continue
        data = entry["data"]
        entry["data"] = []  # which of what is wrong is said is for the reader of the head
        if not _is_tensor(entry):
            continue
        try:
            found = read_values(
                f"input '{entry['name']}'", entry["datatype"], tuple(entry["shape"]), data
            )
        except ValuesError as error:
            return {"error": str(error)}, []
        if isinstance(found, list):
            found = b"".join([struct.pack("<I", len(item)) + item for item in found])
        chunks.append(found)
        places.append((place, end, end + len(found)))
        end += len(found)
    try:
        size = len(orjson.dumps(head))
    except orjson.JSONEncodeError:  # it writes less deep JSON than it reads
        return {"error": "the request's JSON is nested too deeply"}, []
    if size > LONGEST_HEAD:
        expected = f"expected at most {LONGEST_HEAD} bytes of JSON besides the tensors' data"
        return {"error": f"the request's head is too long: {expected}"}, []
    return {"head": head, "parts": places}, chunks


def _is_tensor(entry: dict[str, Any]) -> bool:
    """Return whether an input has a name, a datatype and a shape that its reader will accept."""
    shape, datatype = entry.get("shape"), entry.get("datatype")
    parameters = entry.get("parameters") or {}
    return (
        isinstance(entry.get("name"), str)
        and isinstance(datatype, str)
        and (datatype in NUMPY or datatype == BYTES)
        and isinstance(shape, list)
        and len(shape) <= MAX_RANK
        and all(type(size) is int and size >= 0 for size in shape)
        and isinstance(parameters, dict)
        and "binary_data_size" not in parameters
        and not (datatype == BYTES and len(entry["data"]) > MAX_STRINGS)
    )


def write(control: dict[str, Any], data: memoryview) -> tuple[dict[str, object], list[Bytes]]:
    """Put the values of the outputs into an answer's JSON."""
    head = control["head"]
    start = 0
    for place, what, datatype, size, non_finite in control["tensors"]:
        try:
            values = write_values(what, datatype, data[start : start + size], non_finite)
        except ValuesError as error:
            return {"error": str(error)}, []
        head["outputs"][place]["data"] = values
        start += size
    return {}, [orjson.dumps(head, option=orjson.OPT_SERIALIZE_NUMPY)]


def serve(connection: socket.socket) -> None:
    """Answer messages until the other side closes.

    Raises:
        EOFError, ConnectionError: it has.
    """
    with connection.makefile("rb") as stream:
        while True:
            length, size = FRAME.unpack(_exactly(stream, FRAME.size))
            control = orjson.loads(_exactly(stream, length))
            data = memoryview(_exactly(stream, size))
            if control["do"] == "read":
                said, chunks = read(data)
            else:
                said, chunks = write(control, data)
            text = orjson.dumps(said)
            connection.sendall(FRAME.pack(len(text), sum(map(len, chunks))) + text)
            for chunk in chunks:
                connection.sendall(chunk)
            del data, said, chunks  # while it waits for the next


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def main() -> None:
    """Serve the socket that is standard input; signals are for who started this."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.nice(NICE)
    with socket.socket(fileno=0) as connection, suppress(EOFError, ConnectionError):
        serve(connection)
