"""Sets the headers of every response, and turns an exception into a 500 that reveals nothing."""

import logging
from collections.abc import Iterable

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runengine_gateway.problems import internal

_CACHE_CONTROL = b"cache-control"

# Not structlog: its default traceback shows local variables, and with them the headers and the token.
_log = logging.getLogger(__name__)


def _with_safe_headers(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    found = [*headers, (b"x-content-type-options", b"nosniff")]
    # The files of the console, which belong to no tenant, say otherwise.
    if not any(name == _CACHE_CONTROL for name, _ in found):
        found.append((_CACHE_CONTROL, b"no-store"))
    return found


class SafeResponses:
    """ASGI middleware: sets the headers of every response, and returns 500 for any exception."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Cancellation passes through. A response that has begun ends there, and the connection is closed."""
        started = False

        async def send_safely(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": _with_safe_headers(message["headers"])}
            elif scope["method"] == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        try:
            await self._app(scope, receive, send_safely)
        except ClientDisconnect:
            return
        except Exception:
            _log.exception("%s %s failed", scope["method"], scope["path"])
            if not started:
                await internal().response()(scope, receive, send_safely)
