"""The root path, which names the service and its pages; and the pages' addresses as people also type them."""

from importlib.metadata import version

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from runengine_gateway.routes import Endpoint


async def index(request: Request) -> Response:
    """200, without a token."""
    pages = {"console": "/console", "docs": "/docs", "openapi": "/openapi.json"}
    return JSONResponse({"name": "runengine", "version": version("runengine"), **pages})


def with_slash(page: str) -> dict[str, dict[str, Endpoint]]:
    """The endpoint at the page's path and a slash, which leads to the page."""

    async def redirect(request: Request) -> Response:
        # Relative, since a proxy may serve the page below a path of its own.
        return RedirectResponse(f"..{page}", 308)

    return {f"{page}/": {"GET": redirect}}
