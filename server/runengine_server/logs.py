"""Log lines: one an event, on stderr.

The engine logs exceptions without their messages, which may hold values; what nodes log stays as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from types import FrameType
from typing import Any

import orjson
import structlog

from runengine_server.log_output import LogOutput
from runengine_server.tracing import current_trace_id

_log = structlog.get_logger()


# What a worker has of its own, and what nodes call most. At INFO LangGraph quotes the errors of nodes, and
# HTTP clients the URLs of their requests, in which there may be keys.
_QUIET_LIBRARIES = ("langgraph", "httpx", "httpcore", "urllib3", "temporalio")

# Loggers whose exceptions may quote what the engine gave them.
_ENGINES_LOGGERS = ("asyncio", "asyncpg", "langchain_core", "langgraph", "runengine_server", "sqlalchemy")

_STANDARD = {*vars(logging.LogRecord("", 0, "", 0, "", (), None)), "message", "asctime", "taskName"}

# What a node is executed for, where code of nodes is executed; see log_users_code.
_fields_of_node: Callable[[], Mapping[str, object]] = dict


def configure_logging(level: str = "info") -> None:
    """Configures structlog and logging: one line an event on stderr, readable on a terminal, else JSON. A
    line that cannot be rendered or written is dropped, and the call that logs it does not fail. What is below
    `level`, or of a library and below WARNING, is not logged.
    """
    terminal = sys.stderr is not None and sys.stderr.isatty()
    if terminal:
        console = structlog.dev.ConsoleRenderer()
        render: _Renderer = lambda *event: str(console(*event)).encode("utf-8", "replace")  # noqa: E731
    else:
        render = _as_json
    least = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            _merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.ExceptionRenderer(_exception_of_line),
            _without_failing(render),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=_LineLogger,
        cache_logger_on_first_use=True,
    )
    _keep_engines_loggers()
    _join_printed_lines()
    # logging would write a record that it cannot render, with all of its values, to stderr.
    logging.raiseExceptions = False
    handler = _LineHandler(_without_failing(render))
    handler.setLevel(least)
    logging.basicConfig(level=max(least, logging.WARNING), handlers=[handler])
    _output.start()


def _keep_engines_loggers() -> None:
    """Binds the loggers of the engine's modules, so that they stay as they are when code of a user calls
    structlog.configure().
    """
    for name, module in list(sys.modules.items()):
        if name.startswith("runengine_server.") and hasattr(module, "_log"):
            module._log.bind()


def log_by_logging() -> None:
    """Has the engine log by the logger `runengine_server`, and configures nothing: for a process that is not
    the engine's own, such as that of a test. Nothing happens where configure_logging was called.
    """
    if structlog.get_config()["logger_factory"] is _LineLogger:
        return
    before = structlog.get_config() if structlog.is_configured() else None
    structlog.configure(
        processors=[
            structlog.processors.ExceptionRenderer(lambda exc_info: frames_of(exc_info[1])),
            _as_words,
        ],
        logger_factory=lambda *_: logging.getLogger("runengine_server"),
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        cache_logger_on_first_use=True,
    )
    _keep_engines_loggers()
    structlog.reset_defaults()
    if before is not None:
        structlog.configure(**before)


def _as_words(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
    exception = event.pop("exception", None)
    words = [str(event.pop("event")), *(f"{key}={value}" for key, value in event.items())]
    return " ".join(words) + (f"\n{exception}" if exception else "")


def log_users_code(level: str, fields: Callable[[], Mapping[str, object]]) -> None:
    """Has all that code of users logs come out from `level` on, with what `fields` returns in the thread and
    the context that log, whatever that code configures.
    """
    global _fields_of_node
    _fields_of_node = fields
    # For those who configure structlog by themselves.
    structlog.contextvars.merge_contextvars = _merge_contextvars  # type: ignore[assignment]
    for name in _QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.root.__class__ = _UsersRootLogger
    logging.root.setLevel(level.upper())


def _join_printed_lines() -> None:
    """With PYTHONUNBUFFERED a print of a node is two writes, the line and its end, and one of our lines may
    come between them: then neither can be read.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.write_through:
            stream.reconfigure(line_buffering=True, write_through=False)


class _UsersRootLogger(logging.RootLogger):
    """Keeps the engine's handler and its level, whatever basicConfig() or dictConfig() of a user's module or
    node would make of them: further handlers come in addition.
    """

    def setLevel(self, level: int | str) -> None:  # noqa: N802 - logging's name
        levels = [each.level for each in self.handlers if isinstance(each, _LineHandler)]
        super().setLevel(level)
        super().setLevel(min(self.level, *levels))

    def removeHandler(self, hdlr: logging.Handler) -> None:  # noqa: N802 - logging's name
        if not isinstance(hdlr, _LineHandler):
            super().removeHandler(hdlr)


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
            return orjson.dumps({**reduced, **_fields()})

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
    """Writes what logging logs as the engine's own lines."""

    def __init__(self, render: _Renderer) -> None:
        super().__init__()
        self._render = render

    def emit(self, record: logging.LogRecord) -> None:
        try:
            _output.write(self._render(None, record.levelname.lower(), _event_of(record)))
        except Exception:
            _output.write(b'{"event": "a line of a library could not be rendered", "level": "warning"}')


def _event_of(record: logging.LogRecord) -> MutableMapping[str, Any]:
    event: dict[str, Any] = {}
    if fields := _fields():
        event = {key: each for key, each in vars(record).items() if key not in _STANDARD and key[0] != "_"}
    if isinstance(record.msg, dict):  # of structlog, by way of logging
        event |= record.msg
    else:
        event["event"] = record.getMessage()
    event |= {"logger": record.name, "level": record.levelname.lower()}
    if record.exc_info and (error := record.exc_info[1]) is not None:
        is_users = fields and record.name.partition(".")[0] not in _ENGINES_LOGGERS
        event["exception"] = _words_of(error) if is_users else frames_of(error)
    at = datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z")
    return _with_fields({**event, "timestamp": at}, fields)


def _fields() -> Mapping[str, object]:
    try:
        return _fields_of_node()
    except Exception:  # a line without them is better than none
        return {}


def _with_fields(event: MutableMapping[str, Any], fields: Mapping[str, object]) -> MutableMapping[str, Any]:
    """The event with the fields. Where whoever logs has used such a name for something else, that has another
    name: a line names the run that it is of.
    """
    for key, value in fields.items():
        if event.setdefault(key, value) != value:
            event[f"logged_{key}"], event[key] = event[key], value
    return event


def _merge_contextvars(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """As that of structlog, and the fields of the node that logs."""
    if (trace_id := current_trace_id()) is not None:
        event.setdefault("trace_id", trace_id)
    return _with_fields(_structlogs_merge(logger, method, event), _fields())


_structlogs_merge = structlog.contextvars.merge_contextvars


def _exception_of_line(exc_info: Any) -> str:
    """An exception that a node logs by itself has its words."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _module_of(frame).startswith((__name__, "structlog")):
        frame = frame.f_back
    is_engines = frame is None or _module_of(frame).startswith("runengine_")
    return frames_of(exc_info[1]) if is_engines or not _fields() else _words_of(exc_info[1])


def _module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__"))


def _words_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)).rstrip()


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
