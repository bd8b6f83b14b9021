"""Names of header fields that several modules read or write, in lower case as ASGI has them."""

from __future__ import annotations

from torchship.serve.protocol import messages

HEADER_LENGTH = messages.HEADER_LENGTH.lower().encode()
REQUEST_ID = b"x-request-id"
