"""What stands around the application: request ids, errors as answers, and accounting.

Whatever reaches the application passes here. Connections answer small inference requests without
it (`transport/fast_path`), and use the same accounting and the same responses to errors.
"""

from __future__ import annotations

from asyncio import CancelledError

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from torchship.serve.http.client_connection import end_early, left_with
from torchship.serve.http.error_responses import answer
from torchship.serve.http.header_names import REQUEST_ID
from torchship.serve.http.origins import Origins
from torchship.serve.http.websocket_session import run_session
from torchship.serve.service.accounting import CLIENT_LEFT, RequestAccounting
from torchship.serve.service.failures import shutting_down
from torchship.serve.system.body_memory import hold_of
from torchship.serve.telemetry.records import SCOPE_KEY, SOURCE


class Middleware:
    """Gives each request its id and its record, answers for errors, accounts for the outcome."""

    def __init__(
        self,
        app: ASGIApp,
        accounting: RequestAccounting,
        origins: Origins | None = None,
        root_path: str = "",
    ) -> None:
        """Put this in front of `app`, which is asked without `root_path` where a path has it."""
        self.app = app
        self.accounting = accounting
        self.origins = origins or Origins()
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application."""
        SOURCE.set(scope.get("client"))
        if self._root_path and scope["path"].startswith(self._root_path + "/"):
            scope["path"] = scope["path"].removeprefix(self._root_path)
        if scope["type"] != "http":
            await run_session(self.app, self.accounting, scope, receive, send)
            return
        record = self.accounting.record_of(scope)
        self.accounting.trace(record)

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = left_with(receive) or message["status"]
                message["headers"] = [
                    *message["headers"],
                    *self.origins.headers(scope["headers"]),
                    (REQUEST_ID, record.request_id),
                ]
                end_early(receive)
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except ClientDisconnect:
            record.status = left_with(receive) or CLIENT_LEFT
        except CancelledError:  # the time that requests have when the server ends is over
            if record.status:
                raise
            await answer(shutting_down(), record)(scope, receive, watched)
        except Exception as error:
            if record.status:
                raise
            await answer(error, record)(scope, receive, watched)
        finally:
            hold_of(scope).release()
            self.accounting.end(scope, record)


class ErrorBoundary:
    """Answers for the errors of FastAPI's routes, before its own middleware would."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application; answer for what it raises, if it has not answered yet."""
        if scope["type"] != "http":  # a stream sends its errors as messages
            await self.app(scope, receive, send)
            return
        record = scope.get(SCOPE_KEY)
        try:
            await self.app(scope, receive, send)
        except ClientDisconnect:
            if record is not None:
                record.status = left_with(receive) or CLIENT_LEFT
        except Exception as error:
            if record is None or record.status:
                raise
            await answer(error, record)(scope, receive, send)
