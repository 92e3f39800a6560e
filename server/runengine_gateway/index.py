"""The root path: it names the service, and links the documents of its API."""

from importlib.metadata import version

from starlette.requests import Request
from starlette.responses import JSONResponse, Response


async def index(request: Request) -> Response:
    """200, without a token."""
    return JSONResponse(
        {"name": "runengine", "version": version("runengine"), "docs": "/docs", "openapi": "/openapi.json"}
    )
