"""Sets the headers of every response, and turns an exception into a 500 that reveals nothing."""

import logging

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runengine_gateway.problems import internal

_ALWAYS = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]

# Not structlog: its default traceback shows local variables, and with them the headers and the token.
_log = logging.getLogger(__name__)


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
                message = {**message, "headers": [*message["headers"], *_ALWAYS]}
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
