"""The server's log on stderr: one formatter for our lines and uvicorn's.

Modules log with the standard library and put structured fields into `extra`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import TextIO

import orjson
import structlog
from starlette.types import Scope

from torchship.serve.settings import AccessLog, LogFormat, LogLevel
from torchship.serve.telemetry.records import Record

log = logging.getLogger("torchship.access")

AccessLine = Callable[[Scope, Record, float], None]
"""Called with a request that has ended, and its duration in seconds."""

LONGEST_PATH = 256  # characters of a path in a log line; the rest is cut
PROBES = "/v2/health/"


def configure_logging(form: LogFormat, level: LogLevel, stream: TextIO | None = None) -> None:
    """Send all logging to `stream` (default: stderr) in one format."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    stream = stream or sys.stderr
    last: list[structlog.typing.Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta
    ]
    if form == "json":
        last.append(structlog.processors.JSONRenderer(serializer=_json))
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=stream.isatty(),
            pad_event_to=0,
            exception_formatter=structlog.dev.plain_traceback,
        )
        last.append(renderer)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last)
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def _json(event: object, **_: object) -> str:
    return orjson.dumps(event, default=repr).decode()


def access_line(which: AccessLog) -> AccessLine | None:
    """Return the function that writes the access log; None to write none.

    `errors` logs failed requests only. A health probe that answers "not ready" is not a failure.
    """
    return {"none": None, "errors": _line_of_error, "all": _line}[which]


def _line_of_error(scope: Scope, record: Record, seconds: float) -> None:
    if record.status >= 400 and not scope["path"].startswith(PROBES):
        _line(scope, record, seconds)


def _line(scope: Scope, record: Record, seconds: float) -> None:
    level = logging.WARNING if record.status >= 500 else logging.INFO
    if not log.isEnabledFor(level):
        return
    client = scope.get("client")
    # Keep the path percent-encoded: a decoded one could hold control characters for a terminal.
    path: bytes = scope.get("raw_path") or scope["path"].encode("utf-8", "surrogateescape")
    log.log(
        level,
        "request",
        extra={
            "method": scope.get("method", "WEBSOCKET"),
            "path": path.decode("ascii", "backslashreplace")[:LONGEST_PATH],
            "status": record.status,
            "seconds": round(seconds, 6),
            "model": record.model,
            "version": record.version,
            "client": f"{client[0]}:{client[1]}" if client else "",
            "request_id": record.request_id.decode("ascii"),
        },
    )
