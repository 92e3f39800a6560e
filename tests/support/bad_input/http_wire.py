"""What no client of HTTP would send, byte by byte."""

from __future__ import annotations

from typing import NamedTuple

from tests.support.bad_input.rows import ABSENT, COMPLETED

_MANY = "x" * 100_000


class Raw(NamedTuple):
    """Bytes for one HTTP connection, and status and reason of every answer that they get."""

    name: str
    sent: bytes
    answers: list[tuple[int, str]]


def request(line: str, *fields: str, body: str = "", host: bool = True) -> bytes:
    """A request with a good token, the last on its connection."""
    lines = [line, *(["host: x"] if host else []), "authorization: Bearer @TOKEN@", *fields]
    return "\r\n".join([*lines, "connection: close", "", body]).encode()


GET = f"GET /runs/{ABSENT} HTTP/1.1"
_POST = "POST /runs HTTP/1.1"
_JSON = "content-type: application/json"
_CHUNKED = "transfer-encoding: chunked"
_SMUGGLED = f"GET /runs/{COMPLETED} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer @TOKEN@\r\n\r\n"
_BAD = [(400, "INVALID_ARGUMENT")]
_NOT_FOUND = [(404, "NOT_FOUND")]
_RUN_NOT_FOUND = [(404, "RUN_NOT_FOUND")]
_HEAD_TOO_LARGE = [(431, "HEADERS_TOO_LARGE")]
_UNSUPPORTED = [(415, "UNSUPPORTED_MEDIA_TYPE")]

HTTP_WIRE = [
    Raw("random bytes", bytes(range(255, 155, -1)) + b"\r\n\r\n", _BAD),
    Raw("a TLS hello", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"\0" * 500, _BAD),
    Raw("HTTP/0.9", b"GET /runs\r\n\r\n", _BAD),
    Raw("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", _BAD),
    Raw("HTTP/1.2", request(GET.replace("1.1", "1.2")), _BAD),
    Raw("HTTP/3.0", request(GET.replace("1.1", "3.0")), _BAD),
    Raw("HTTP in lower case", request(GET.replace("HTTP", "http")), _BAD),
    Raw("a method that is none", request(GET.replace("GET", "G(T")), _BAD),
    Raw("a method in lower case", request(GET.replace("GET", "get")), _BAD),
    Raw("a method of a thousand letters", request(GET.replace("GET", "G" * 1000)), _BAD),
    Raw("two spaces in the line", request(GET.replace(" /", "  /")), _RUN_NOT_FOUND),
    Raw("a tab in the line", request(GET.replace(" /", "\t/")), _BAD),
    Raw("a space in the target", request(GET.replace(ABSENT, "a b")), _BAD),
    Raw("NUL in the target", request(GET.replace(ABSENT, "a\0b")), _BAD),
    Raw("a control character in the target", request(GET.replace(ABSENT, "a\x01b")), _BAD),
    Raw("UTF-8 in the target", request(GET.replace(ABSENT, "ü")), _BAD),
    Raw("a target without a slash", request(GET.replace("/runs", "runs")), _BAD),
    Raw("a fragment in the target", request(GET.replace(ABSENT, ABSENT + "#x")), _RUN_NOT_FOUND),
    Raw("an absolute target", request(GET.replace("/runs", "http://other/runs")), _RUN_NOT_FOUND),
    Raw("an absolute target of another scheme", request(GET.replace("/runs", "ftp://other/runs")),
        _RUN_NOT_FOUND),
    Raw("an absolute target without a path", request("GET http://other HTTP/1.1"), _BAD),
    Raw("an absolute target with a port that is none", request("GET http://x:99999/runs HTTP/1.1"), _BAD),
    Raw("an authority as the target", request("GET other:443 HTTP/1.1"), _BAD),
    Raw("CONNECT", request("CONNECT other:443 HTTP/1.1"), _BAD),
    Raw("an asterisk as the target", request("OPTIONS * HTTP/1.1"), _NOT_FOUND),
    Raw("TRACE", request(GET.replace("GET", "TRACE")), [(405, "METHOD_NOT_ALLOWED")]),
    Raw("PUT", request(GET.replace("GET", "PUT")), [(405, "METHOD_NOT_ALLOWED")]),
    Raw("a method of WebDAV", request(GET.replace("GET", "PROPFIND")), [(405, "METHOD_NOT_ALLOWED")]),
    Raw("a method that an override asks for",
        request("GET /campaigns HTTP/1.1", "x-http-method-override: POST"), [(405, "METHOD_NOT_ALLOWED")]),
    Raw("dots in the path", request("GET /runs/../runs HTTP/1.1"), _NOT_FOUND),
    Raw("dots in the path, escaped", request("GET /runs/%2e%2e/runs HTTP/1.1"), _NOT_FOUND),
    Raw("dots as the id", request("GET /runs/%2e%2e HTTP/1.1"), _NOT_FOUND),
    Raw("an escaped slash in the id", request("GET /runs/a%2fb HTTP/1.1"), _BAD),
    Raw("an escaped slash in the path", request(f"GET /runs%2f{ABSENT} HTTP/1.1"), _NOT_FOUND),
    Raw("an escaped NUL in the id", request("GET /runs/%00 HTTP/1.1"), _BAD),
    Raw("an escape that is none in the id", request("GET /runs/%zz HTTP/1.1"), _BAD),
    Raw("an escaped newline in the id", request("GET /runs/a%0d%0ax:%20y HTTP/1.1"), _BAD),
    Raw("backslashes", request("GET \\runs\\x HTTP/1.1"), _BAD),
    Raw("two slashes", request(f"GET //runs/{ABSENT} HTTP/1.1"), _NOT_FOUND),
    Raw("a slash at the end", request(f"GET /runs/{ABSENT}/ HTTP/1.1"), _NOT_FOUND),
    Raw("a path parameter", request("GET /runs;v=1/x HTTP/1.1"), _NOT_FOUND),
    Raw("a path that is not there", request("GET /admin HTTP/1.1"), _NOT_FOUND),
    Raw("a file of the machine", request("GET /..%2f..%2fetc%2fpasswd HTTP/1.1"), _NOT_FOUND),
    Raw("a target of 20 KB", request("GET /runs/" + "a" * 20_000 + " HTTP/1.1"), _BAD),
    Raw("a target of 70 KB", request("GET /" + "a" * 70_000 + " HTTP/1.1"), _HEAD_TOO_LARGE),
    Raw("a query of 70 KB", request(f"GET /runs/{ABSENT}?{_MANY} HTTP/1.1"), _HEAD_TOO_LARGE),
    Raw("a header of 70 KB", request(GET, "x: " + "y" * 70_000), _HEAD_TOO_LARGE),
    Raw("a header's name of 70 KB", request(GET, "x" * 70_000 + ": y"), _HEAD_TOO_LARGE),
    Raw("two hundred headers", request(GET, *["x: y"] * 200), _HEAD_TOO_LARGE),
    Raw("ten thousand headers", request(GET, *["x: y"] * 10_000), _HEAD_TOO_LARGE),
    Raw("a hundred thousand empty lines", b"\r\n" * 100_000 + request(GET), _HEAD_TOO_LARGE),
    Raw("a line without an end", b"GET /" + b"a" * 300_000, _HEAD_TOO_LARGE),
    Raw("no host", request(GET, host=False), _BAD),
    Raw("two hosts", request(GET, "host: y"), _BAD),
    Raw("NUL in a header", request(GET, "x: a\0b"), _BAD),
    Raw("NUL in a header's name", request(GET, "x\0: y"), _BAD),
    Raw("a carriage return in a header", request(GET, "x: a\rb"), _BAD),
    Raw("a header without a colon", request(GET, "x"), _BAD),
    Raw("a header without a name", request(GET, ": x"), _BAD),
    Raw("a space before the colon", request(GET, "x : y"), _BAD),
    Raw("a header that is folded", request(GET, "x: y", " z"), _BAD),
    Raw("a first header that is folded", request(GET + "\r\n x: y"), _BAD),
    Raw("bare line feeds", request(GET).replace(b"\r\n", b"\n"), _BAD),
    Raw("a bare line feed within a header", request(GET, "x: y\nz: a"), _BAD),
    Raw("bare carriage returns", request(GET).replace(b"\r\n", b"\r") + b"\n\n", _BAD),
    Raw("length and chunks",
        request(_POST, _JSON, "content-length: 4", _CHUNKED, body="0\r\n\r\n" + _SMUGGLED),
        _BAD),
    Raw("chunks and length",
        request(_POST, _JSON, _CHUNKED, "content-length: 4", body="0\r\n\r\n" + _SMUGGLED),
        _BAD),
    Raw("two lengths, alike",
        request(_POST, _JSON, "content-length: 2", "content-length: 2", body="{}"), _BAD),
    Raw("two lengths that differ",
        request(_POST, _JSON, "content-length: 2", "content-length: 0", body="{}" + _SMUGGLED), _BAD),
    Raw("two lengths in one header", request(_POST, _JSON, "content-length: 2, 2", body="{}"), _BAD),
    Raw("a negative length", request(_POST, _JSON, "content-length: -1", body="{}"), _BAD),
    Raw("a length with a plus", request(_POST, _JSON, "content-length: +2", body="{}"), _BAD),
    Raw("a length in hexadecimal", request(_POST, _JSON, "content-length: 0x2", body="{}"), _BAD),
    Raw("a length with a space", request(_POST, _JSON, "content-length: 1 2", body="{}"), _BAD),
    Raw("a length of thirty digits", request(_POST, _JSON, "content-length: " + "9" * 30), _BAD),
    Raw("an empty length", request(_POST, _JSON, "content-length:", body="{}"), _BAD),
    Raw("a length of a terabyte", request(_POST, _JSON, "content-length: 1000000000000"),
        [(413, "PAYLOAD_TOO_LARGE")]),
    Raw("a size that is none", request(_POST, _JSON, _CHUNKED, body="x\r\n{}\r\n0\r\n\r\n"), _BAD),
    Raw("a negative size", request(_POST, _JSON, _CHUNKED, body="-2\r\n{}\r\n0\r\n\r\n"), _BAD),
    Raw("a size beyond 2^64", request(_POST, _JSON, _CHUNKED, body="f" * 17 + "\r\n{}\r\n0\r\n\r\n"), _BAD),
    Raw("a size in 0x", request(_POST, _JSON, _CHUNKED, body="0x2\r\n{}\r\n0\r\n\r\n"), _BAD),
    Raw("a size with a space", request(_POST, _JSON, _CHUNKED, body="2 \r\n{}\r\n0\r\n\r\n"), _BAD),
    Raw("a chunk longer than its size", request(_POST, _JSON, _CHUNKED, body="1\r\n{}\r\n0\r\n\r\n"), _BAD),
    Raw("chunks with bare line feeds", request(_POST, _JSON, _CHUNKED, body="2\n{}\n0\n\n"), _BAD),
    Raw("a chunk's extension of 70 KB",
        request(_POST, _JSON, _CHUNKED, body=f"2;x={'y' * 70_000}\r\n{{}}\r\n0\r\n\r\n"), _HEAD_TOO_LARGE),
    Raw("trailers of 70 KB",
        request(_POST, _JSON, _CHUNKED, body=f"2\r\n{{}}\r\n0\r\nx: {'y' * 70_000}\r\n\r\n"),
        _HEAD_TOO_LARGE),
    Raw("a token in the trailers",
        (f"{_POST}\r\nhost: x\r\n{_JSON}\r\n{_CHUNKED}\r\nconnection: close\r\n\r\n"
         f"2\r\n{{}}\r\n0\r\nauthorization: Bearer @TOKEN@\r\n\r\n").encode(), [(401, "UNAUTHENTICATED")]),
    Raw("a second token in the trailers",
        request(_POST, _JSON, _CHUNKED, body="2\r\n{}\r\n0\r\nauthorization: Bearer x\r\n\r\n"), _BAD),
    Raw("an encoding that is none",
        request(_POST, _JSON, "transfer-encoding: xchunked", body="0\r\n\r\n"), _BAD),
    Raw("chunks within chunks",
        request(_POST, _JSON, "transfer-encoding: chunked, chunked", body="0\r\n\r\n" + _SMUGGLED), _BAD),
    Raw("chunks that are not last",
        request(_POST, _JSON, "transfer-encoding: chunked, identity", body="0\r\n\r\n"), _BAD),
    Raw("chunks that a space hides", request(_POST, _JSON, "transfer-encoding : chunked", body="0\r\n\r\n"),
        _BAD),
    Raw("chunks that a tab hides",
        request(_POST, _JSON, "transfer-encoding: \x0bchunked", body="0\r\n\r\n" + _SMUGGLED), _BAD),
    Raw("a request after the last", request(GET) + _SMUGGLED.encode(), _RUN_NOT_FOUND),
    Raw("an upgrade to h2c", request(GET, "upgrade: h2c", "connection: upgrade") + _SMUGGLED.encode(),
        _RUN_NOT_FOUND),
    Raw("an upgrade to a web socket", request(GET, "upgrade: websocket", "sec-websocket-version: 13",
        "connection: upgrade"), _RUN_NOT_FOUND),
    Raw("an expectation that is none", request(GET, "expect: miracles"), _RUN_NOT_FOUND),
    Raw("a form", request(_POST, "content-type: application/x-www-form-urlencoded", "content-length: 2",
        body="{}"), _UNSUPPORTED),
    Raw("no content type", request(_POST, "content-length: 2", body="{}"), _UNSUPPORTED),
    Raw("two content types", request(_POST, _JSON, _JSON, "content-length: 2", body="{}"), _UNSUPPORTED),
    Raw("JSON in UTF-16", request(_POST, _JSON + '; profile=x; CHARSET="utf-16"', "content-length: 2",
        body="{}"), _UNSUPPORTED),
    Raw("no body", request(_POST), _BAD),
    Raw("an empty body of some type", request(_POST, "content-type: text/plain", "content-length: 0"), _BAD),
    Raw("an empty body in chunks", request(_POST, _CHUNKED, body="0\r\n\r\n"), _BAD),
    Raw("JSON in Latin-1", request(_POST, _JSON + "; charset=latin-1", "content-length: 2", body="{}"),
        _UNSUPPORTED),
    Raw("gzip",
        request(_POST, _JSON, "content-encoding: gzip", "content-length: 2", body="{}"), _UNSUPPORTED),
    Raw("a good request and then nonsense", request(GET).replace(b"connection: close\r\n", b"")
        + b"\xff\xff\r\n\r\n", _RUN_NOT_FOUND),
    Raw("two good requests and a smuggled third", request(GET).replace(b"connection: close\r\n", b"") * 2
        + request(_POST, _JSON, "content-length: 2", _CHUNKED, body="0\r\n\r\n"), _RUN_NOT_FOUND * 2),
]  # fmt: skip
