"""Serves the console: the page at `/console`, and the files that it is made of."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from runengine_gateway.problems import problem
from runengine_gateway.routes import Endpoint

_MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}

# No script but its own files, no string that becomes markup, nothing of another host.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; frame-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)

# Artifacts are shown within this page. Its origin is opaque, so neither the API nor the console's token is in
# its reach; no script of an artifact runs, since only the page's own has the hash; and it loads nothing.
_PREVIEW = "preview.html"
_PREVIEW_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'sha256-{hash}'; style-src 'unsafe-inline'; "
    "img-src data:; font-src data:; media-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'"
)

_PAGE = "index.html"

_HEADERS = {
    "cache-control": "no-cache",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
}


class _File:
    """One file, with its headers. It is read once, when the gateway starts."""

    def __init__(self, name: str, content: bytes, modules: Sequence[str]) -> None:
        self._content = content
        self._etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        self._media_type = _MEDIA_TYPES[name.rpartition(".")[2]]
        self._headers = {**_HEADERS, "etag": self._etag, "content-security-policy": _POLICY}
        if name == _PREVIEW:
            self._headers["content-security-policy"] = _PREVIEW_POLICY.format(hash=_script_hash(content))
        elif name == _PAGE:
            self._headers["cross-origin-opener-policy"] = "same-origin"
            # Found one by one, each import would be a round trip more before the first view.
            self._headers["link"] = ", ".join(f"<console/{each}>; rel=modulepreload" for each in modules)

    def response(self, request: Request) -> Response:
        """200, or 304 for a caller that has this version."""
        known = request.headers.get("if-none-match", "").split(",")
        if self._etag in (each.strip().removeprefix("W/") for each in known):
            return Response(status_code=304, headers=self._headers)
        return Response(self._content, headers=self._headers, media_type=self._media_type)


def _script_hash(page: bytes) -> str:
    script = page.partition(b"<script>")[2].partition(b"</script>")[0]
    return base64.b64encode(hashlib.sha256(script).digest()).decode("ascii")


def console_files() -> Mapping[str, bytes]:
    """The files of the console by their names."""
    folder = files("runengine_gateway").joinpath("console")
    return {each.name: each.read_bytes() for each in sorted(folder.iterdir(), key=lambda each: each.name)}


def console_endpoints() -> dict[str, dict[str, Endpoint]]:
    """The endpoints by path and method, none of which needs a token: what the page shows it asks the API for,
    with the token of whoever sits before it.
    """
    contents = console_files()
    modules = [name for name in contents if name.endswith(".js")]
    found = {name: _File(name, content, modules) for name, content in contents.items()}

    async def page(request: Request) -> Response:
        return found[_PAGE].response(request)

    async def file(request: Request) -> Response:
        if (wanted := found.get(request.path_params["file"])) is None:
            return problem("NOT_FOUND", "There is no such file of the console.").response()
        return wanted.response(request)

    return {"/console": {"GET": page}, "/console/{file}": {"GET": file}}
