"""The helper process of `large_json`: converts JSON to tensor bytes and back, message by message.

It does not import torch, so that it is small and starts quickly. A message on its socket consists
of two lengths, a JSON object and binary data. For `read`, the data is a request's JSON; the reply
holds the same object without the tensors' values, and their bytes as data. For `write`, the object
is an answer without its tensors' values and the data is their bytes; the reply's data is JSON text.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
from contextlib import suppress
from typing import IO, Any

import orjson

from torchship.serve.protocol.json_values import (
    BYTES,
    NUMPY,
    Bytes,
    ValuesError,
    parse_object,
    read_values,
    write_values,
)

FRAME = struct.Struct("<QQ")
LONGEST_HEAD = 1 << 18  # bytes of a request's JSON without the tensors' values
MAX_RANK = 32
MAX_STRINGS = 1 << 16
NICE = 5  # small requests have priority over large ones


def read(text: memoryview) -> tuple[dict[str, object], list[Bytes]]:
    """Return a request's JSON without the inputs' values, and those as bytes; or an error."""
    try:
        head = parse_object(text)
    except ValuesError as error:
        return {"error": str(error)}, []
    inputs = head.get("inputs")
    places: list[tuple[int, int, int]] = []
    chunks: list[Bytes] = []
    end = 0
    for place, entry in enumerate(inputs if isinstance(inputs, list) else ()):
        if not isinstance(entry, dict) or not isinstance(entry.get("data"), list):
            continue
        data = entry["data"]
        entry["data"] = []  # errors in the rest of the entry are reported by the reader of the head
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
    except orjson.JSONEncodeError:  # orjson reads deeper nesting than it writes
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
    """Return an answer's JSON with the values of its outputs; or an error."""
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
    """Answer messages until the server closes the socket.

    Raises:
        EOFError, ConnectionError: the server closed the socket.
    """
    with connection.makefile("rb") as stream:
        while True:
            length, size = FRAME.unpack(_exactly(stream, FRAME.size))
            control = orjson.loads(_exactly(stream, length))
            data = memoryview(_exactly(stream, size))
            if control["do"] == "read":
                reply, chunks = read(data)
            else:
                reply, chunks = write(control, data)
            text = orjson.dumps(reply)
            connection.sendall(FRAME.pack(len(text), sum(map(len, chunks))) + text)
            for chunk in chunks:
                connection.sendall(chunk)
            del data, reply, chunks  # free the memory while waiting for the next message


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def main() -> None:
    """Serve the socket on standard input; the server that started this handles the signals."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.nice(NICE)
    with socket.socket(fileno=0) as connection, suppress(EOFError, ConnectionError):
        serve(connection)
