"""A WebSocket from its handshake on: its id, what becomes of a refusal, an account of messages.

A message that is answered is a request like any other: it is counted, logged and traced under the
id of its handshake. The handshake itself is counted only if it was refused.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from torchship.serve.http.client_connection import has_left, left_with
from torchship.serve.http.error_responses import answer
from torchship.serve.http.header_names import REQUEST_ID
from torchship.serve.service.accounting import CLIENT_LEFT, UPGRADED, RequestAccounting
from torchship.serve.service.failures import shutting_down
from torchship.serve.telemetry.records import SCOPE_KEY, Record

ACCOUNT_KEY = "torchship.account"
"""Where a WebSocket's account is in its ASGI scope."""

FORBIDDEN = 403
SERVICE_RESTART = 1012  # of a WebSocket; what uvicorn says when the server ends


class Account:
    """Accounts for the messages of one WebSocket."""

    def __init__(
        self, accounting: RequestAccounting, scope: Scope, request_id: bytes, receive: Receive
    ) -> None:
        self._accounting = accounting
        self._scope = scope
        self._request_id = request_id
        self._receive = receive

    def gone(self) -> bool:
        """Return whether the client has left."""
        return has_left(self._receive)

    @contextmanager
    def message(self) -> Iterator[Record]:
        """Have a record for one message, of which the block says what became of it."""
        record = self._accounting.begin_message(self._request_id)
        try:
            yield record
        finally:
            record.status = CLIENT_LEFT if self.gone() else record.status or CLIENT_LEFT
            self._accounting.end(self._scope, record)


def account_of(connection: HTTPConnection) -> Account:
    """Return the account of a WebSocket."""
    account: Account = connection.scope[ACCOUNT_KEY]
    return account


async def run_session(
    app: ASGIApp, accounting: RequestAccounting, scope: Scope, receive: Receive, send: Send
) -> None:
    """Run the application for a WebSocket, and account for its handshake.

    An error before the handshake's end is answered as that of any request is.
    """
    record = accounting.begin(scope["headers"])
    scope[SCOPE_KEY] = record
    scope[ACCOUNT_KEY] = Account(accounting, scope, record.request_id, receive)

    async def watched(message: Message) -> None:
        kind = message["type"]
        if kind in ("websocket.accept", "websocket.http.response.start"):
            record.status = left_with(receive) or message.get("status", UPGRADED)
            headers = message.get("headers") or ()
            message["headers"] = [*headers, (REQUEST_ID, record.request_id)]
        elif kind == "websocket.close" and not record.status:
            record.status = left_with(receive) or FORBIDDEN
        await send(message)

    try:
        await app(scope, receive, watched)
    except CancelledError:  # the time that streams have when the server ends is over
        if record.status:
            await send({"type": "websocket.close", "code": SERVICE_RESTART})
        else:
            await answer(shutting_down(), record)(scope, receive, watched)
    except Exception as error:
        if record.status:
            raise
        await answer(error, record)(scope, receive, watched)
    finally:
        record.status = record.status or CLIENT_LEFT
        accounting.end(scope, record)
