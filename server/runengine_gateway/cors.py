"""Lets pages of other origins call the API from a browser."""

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from runengine_gateway.calls import METADATA_AS_HEADERS

# What the API reads, beyond what any page may send.
_REQUEST_HEADERS = ("authorization", "content-type", "idempotency-key", "last-event-id", "traceparent")

# What a caller may need of a response, beyond what any page may read.
_RESPONSE_HEADERS = (*sorted(METADATA_AS_HEADERS), "content-disposition", "retry-after", "www-authenticate")

# A browser asks again after so long whether it may: Chromium keeps a response no longer than two hours.
_PREFLIGHT_SECONDS = 2 * 3600


def with_cors(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """`app` with CORS for exactly these origins, without cookies: a page sends its token itself.

    It goes around SafeResponses, so that a page can read a 500 too. What BoundedHttp refuses before there is
    a request (408, 429 and 431) has no such headers, and looks like a broken connection to a page.
    """
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "HEAD", "POST", "PATCH", "DELETE"],
        allow_headers=_REQUEST_HEADERS,
        expose_headers=_RESPONSE_HEADERS,
        max_age=_PREFLIGHT_SECONDS,
    )
