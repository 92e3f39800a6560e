"""Log lines: one an event, on stderr. Exceptions are logged without their messages, which may hold values."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog

from runengine_server.log_output import LogOutput

_log = structlog.get_logger()


def configure_logging() -> None:
    """Configures structlog and logging: one line an event on stderr, readable on a terminal, else JSON. A
    line that cannot be rendered or written is dropped, and the call that logs it does not fail.
    """
    terminal = sys.stderr is not None and sys.stderr.isatty()
    if terminal:
        console = structlog.dev.ConsoleRenderer()
        render: _Renderer = lambda *event: str(console(*event)).encode("utf-8", "replace")  # noqa: E731
    else:
        render = _as_json
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.ExceptionRenderer(lambda info: frames_of(info[1])),
            _without_failing(render),
        ],
        logger_factory=_LineLogger,
        cache_logger_on_first_use=True,
    )
    # logging would write a record that it cannot render, with all of its values, to stderr.
    logging.raiseExceptions = False
    handler = _LineHandler()
    handler.setFormatter(_FramesFormatter(terminal))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    _output.start()


def flush() -> None:
    """Returns once all lines are written, after a second at most: for a process about to end."""
    _output.flush()


def print_error(line: str) -> None:
    """Prints a line on stderr for whoever started the process, and does nothing where that cannot be done."""
    flush()
    with contextlib.suppress(OSError, AttributeError):  # AttributeError where there is no stderr at all
        sys.stderr.write(line + "\n")


_Renderer = Callable[[Any, str, MutableMapping[str, Any]], bytes]


def _as_json(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> bytes:
    return orjson.dumps(event, default=repr)


def _without_failing(render: _Renderer) -> _Renderer:
    """Renders an event that `render` fails on, such as one with a lone surrogate or a number of a hundred
    digits, by its name alone.
    """

    def rendered(logger: Any, method: str, event: MutableMapping[str, Any]) -> bytes:
        try:
            return render(logger, method, event)
        except Exception as error:
            reduced = {
                "event": ascii(event.get("event")),
                "level": method,
                "not_rendered": type(error).__name__,
            }
            return orjson.dumps(reduced)

    return rendered


def _dropped_line(count: int) -> bytes:
    at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    event = {"event": "lines of this log were dropped", "lines": count, "level": "warning", "timestamp": at}
    return orjson.dumps(event)


# Where stderr was closed from the start, descriptor 2 may be a socket by now.
_output = LogOutput(2 if sys.stderr is not None else os.open(os.devnull, os.O_WRONLY), _dropped_line)


class _LineLogger:
    """Where structlog sends a rendered line, whatever its level."""

    def __init__(self, *_arguments: Any) -> None:
        self.msg = self.debug = self.info = self.warning = self.error = self.critical = _output.write


class _LineHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            _output.write(self.format(record).encode("utf-8", "replace"))
        except Exception:
            _output.write(b'{"event": "a line of a library could not be rendered", "level": "warning"}')


def frames_of(error: BaseException) -> str:
    """The type and the frames of an error and of its causes, without their messages: the driver's errors
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
    """The event loop's exception handler. asyncio's own message quotes the exception, so only its type and
    frames are logged.
    """
    error = context.get("exception")
    _log.error("unhandled in the event loop", exc_info=error if isinstance(error, BaseException) else None)


class _FramesFormatter(logging.Formatter):
    """Renders what libraries log as the engine's own lines."""

    def __init__(self, terminal: bool) -> None:
        super().__init__("%(levelname)s %(name)s %(message)s")
        self._terminal = terminal

    def format(self, record: logging.LogRecord) -> str:
        if self._terminal:
            return super().format(record)
        event = {"logger": record.name, "event": record.getMessage(), "level": record.levelname.lower()}
        if record.exc_info and record.exc_info[1]:
            event["exception"] = frames_of(record.exc_info[1])
        at = datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z")
        return json.dumps({**event, "timestamp": at})

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        return frames_of(ei[1])
