"""The headers of requests that a connection may answer by itself."""

from __future__ import annotations

from functools import lru_cache

from torchship.serve.http.body import announced_length
from torchship.serve.http.header_names import HEADER_LENGTH, REQUEST_ID
from torchship.serve.http.targets import infer_target
from torchship.serve.protocol.compression import OFFERED
from torchship.serve.service.inference import Target
from torchship.serve.transport.framing import VALID_HOST

Headers = list[tuple[bytes, bytes]]

LONGEST_TARGET = 1 << 10  # bytes; those seen are remembered

# What a request with one of these asks for is done in the application.
UNUSUAL = frozenset(
    {
        *(b"authorization", b"x-api-key", b"origin", b"content-encoding", b"transfer-encoding"),
        *(b"expect", b"upgrade", b"connection", b"traceparent"),
    }
)

NOTED = UNUSUAL | {b"host", b"content-length", HEADER_LENGTH, REQUEST_ID, b"accept-encoding"}


@lru_cache(maxsize=256)
def target_of(url: bytes, root_path: bytes = b"") -> Target | None:
    """Return the model and version that a request's target names, if it is an ordinary one.

    It may begin with `root_path`.
    """
    if root_path and url.startswith(root_path + b"/"):
        url = url.removeprefix(root_path)
    if not url.isascii() or not url.startswith(b"/") or b"%" in url or b"?" in url or b"#" in url:
        return None
    return infer_target(url.decode())


def note(headers: Headers, largest: int) -> tuple[str | None, Headers] | None:
    """Return the header length and the headers that give an id; None if any header is unusual.

    A body without a length is unusual too, and so is one of more than `largest` bytes, and a header
    without exactly one `Host`.
    """
    announced = b""
    hosts = 0
    header_length = None
    identified = []
    for name, value in headers:
        if name not in NOTED:
            continue
        if name == b"host":
            hosts += 1 if VALID_HOST(value) else 2
        elif name == b"content-length":
            announced = value
        elif name == HEADER_LENGTH:
            header_length = value.decode("latin-1")
        elif name == REQUEST_ID:
            identified.append((name, value))
        elif name == b"accept-encoding":
            if value in OFFERED:
                return None
        elif name != b"connection" or value != b"keep-alive":
            return None
    if not announced.isdigit() or announced_length(announced) > largest:
        return None
    if header_length == "0" or hosts != 1:
        return None
    return header_length, identified
