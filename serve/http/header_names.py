"""Names of header fields that several modules read or write, in lower case as ASGI has them."""

from __future__ import annotations

from torchship.serve.protocol import messages
from torchship.serve.service.accounting import REQUEST_ID as REQUEST_ID

HEADER_LENGTH = messages.HEADER_LENGTH.lower().encode()
