"""A WebSocket from its handshake on: its id, what becomes of a refusal, an account of messages.

A message that is answered is a request like any other: it is counted, logged and traced under the
id of its handshake. The handshake itself is counted only if it was refused.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from torchship.serve.telemetry.records import SCOPE_KEY, Record

ACCOUNT_KEY = "torchship.account"
"""Where a WebSocket's account is in its ASGI scope."""

REQUEST_ID = b"x-request-id"
UPGRADED, FORBIDDEN, CLIENT_LEFT = 101, 403, 499

Begin = Callable[[bytes], Record]
"""Called with a request's id when it comes."""
Ended = Callable[[Scope, Record], None]
"""Called with a record when it is complete."""


class Account:
    """What is told of one WebSocket's messages, and to whom."""

    def __init__(
        self, scope: Scope, id: bytes, gone: Callable[[], bool], begin: Begin, ended: Ended
    ) -> None:
        self.gone = gone
        """Whether the client has left."""
        self._scope = scope
        self._id = id
        self._begin = begin
        self._ended = ended

    @contextmanager
    def message(self) -> Iterator[Record]:
        """Have a record for one message, of which the block says what became of it."""
        record = self._begin(self._id)
        try:
            yield record
        finally:
            record.status = CLIENT_LEFT if self.gone() else record.status or CLIENT_LEFT
            self._ended(self._scope, record)


def account_of(connection: HTTPConnection) -> Account:
    """Return the account of a WebSocket; one that tells nobody where none was opened."""
    known: Account | None = connection.scope.get(ACCOUNT_KEY)
    nobody = Account(connection.scope, b"", lambda: False, Record, lambda *_: None)
    return nobody if known is None else known


async def shake_hands(
    app: ASGIApp,
    account: Account,
    record: Record,
    answer: Callable[[Exception, Record], Response],
    connection: tuple[Scope, Receive, Send],
) -> None:
    """Run the application for a WebSocket; `record` is complete when it was refused or has ended.

    An error before the handshake's end is answered as that of any request is.
    """
    scope, receive, send = connection
    scope[SCOPE_KEY], scope[ACCOUNT_KEY] = record, account

    async def watched(message: Message) -> None:
        kind = message["type"]
        if kind in ("websocket.accept", "websocket.http.response.start"):
            record.status = message.get("status", UPGRADED)
            headers = message.get("headers") or ()
            message["headers"] = [*headers, (REQUEST_ID, record.request_id)]
        elif kind == "websocket.close" and not record.status:
            record.status = FORBIDDEN
        await send(message)

    try:
        await app(scope, receive, watched)
    except CancelledError:
        raise
    except Exception as error:
        if record.status:
            raise
        await answer(error, record)(scope, receive, watched)
    finally:
        record.status = record.status or CLIENT_LEFT
