"""Log lines: one an event, on stderr, without values."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog

_log = structlog.get_logger()


def configure_logging() -> None:
    """One line an event on stderr: for people on a terminal, else JSON."""
    terminal = sys.stderr.isatty()
    renderer: tuple[Any, Any]
    if terminal:
        renderer = structlog.dev.ConsoleRenderer(), structlog.PrintLoggerFactory(sys.stderr)
    else:
        as_json = structlog.processors.JSONRenderer(serializer=orjson.dumps)
        renderer = as_json, structlog.BytesLoggerFactory(sys.stderr.buffer)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.ExceptionRenderer(lambda info: _frames(info[1])),
            renderer[0],
        ],
        logger_factory=renderer[1],
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_FramesFormatter(terminal))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def _frames(error: BaseException) -> str:
    """Where it was raised, and of which type, with its causes. Not what it says: the driver's errors
    quote values, and so payloads, and a refused connection quotes its URL.
    """
    lines = []
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        lines.append(f"{type(cause).__module__}.{type(cause).__qualname__}")
        frames = traceback.extract_tb(cause.__traceback__)
        lines.extend(f"  {frame.filename}:{frame.lineno} {frame.name}" for frame in frames)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return "\n".join(lines)


def log_unhandled(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """asyncio's own words quote the exception, so only its type and place go to the log."""
    error = context.get("exception")
    _log.error("unhandled in the event loop", exc_info=error if isinstance(error, BaseException) else None)


class _FramesFormatter(logging.Formatter):
    """What libraries log, in the same form as our own."""

    def __init__(self, terminal: bool) -> None:
        super().__init__("%(levelname)s %(name)s %(message)s")
        self._terminal = terminal

    def format(self, record: logging.LogRecord) -> str:
        if self._terminal:
            return super().format(record)
        event = {"logger": record.name, "event": record.getMessage(), "level": record.levelname.lower()}
        if record.exc_info and record.exc_info[1]:
            event["exception"] = _frames(record.exc_info[1])
        at = datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z")
        return json.dumps({**event, "timestamp": at})

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        return _frames(ei[1])
