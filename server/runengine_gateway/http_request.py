"""Reads path, query, body and headers of an HTTP request into the message and the metadata of an RPC."""

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from starlette.requests import Request

from runengine_gateway.json_mapping import MalformedError, json_setter, takes_null, text_setter
from runengine_gateway.problems import (
    RefusedError,
    Violation,
    invalid,
    payload_too_large,
    problem,
    request_timeout,
)
from runengine_gateway.routes import Binding
from runengine_gateway.strict_json import INVALID, MAX_BYTES, parse_object, shown_path

Metadata: TypeAlias = tuple[tuple[str, str], ...]

# What gRPC metadata can carry (printable ASCII), and short enough for all of it to fit in 8 KiB.
_TOKEN = re.compile(rb"[\x20-\x7e]{1,6144}")
_IDEMPOTENCY_KEY = re.compile(rb"[\x20-\x7e]{1,255}")
_TRACEPARENT = re.compile(rb"[0-9a-f-]{55,256}")

# A parameter of a media type (RFC 9110, 5.6.6), with the spaces that its grammar forbids and some clients
# send.
_PARAMETER = re.compile(rb'(?:^|;)[ \t]*([^ \t;="]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^;"]*))')
# Names of UTF-8, and of ASCII, which is a subset of it; an empty value names nothing.
_UTF_8 = {b"utf-8", b"utf8", b"us-ascii", b"ascii", b""}

_LENGTH = re.compile(rb"[0-9]{1,18}")
_MAX_QUERY_PARAMETERS = 1_000

# A body of up to so many bytes is parsed in the event loop. A larger one may take 0.2 s of CPU, so its token
# is checked first, and one thread parses all of them: the event loop, and so the other callers, are not held
# up.
_LARGE_BYTES = 16 * 1024
_LARGE_BODY_THREAD = ThreadPoolExecutor(1, "large-bodies")


def may_be_large(request: Request) -> bool:
    """Whether the body has a large `content-length`, or comes without one."""
    if _header(request, b"transfer-encoding"):
        return True
    declared = _header(request, b"content-length") or [b"0"]
    return not _LENGTH.fullmatch(declared[0]) or int(declared[0]) > _LARGE_BYTES


def caller_metadata(request: Request) -> Metadata:
    """The metadata that says who calls: `authorization`, and `traceparent` for the log.

    A token that is sent twice, or that no metadata can carry, is left out: the server then refuses it as
    any caller without a valid token. No other header is passed on, save the idempotency key.
    """
    metadata: Metadata = ()
    for name, shape in (("authorization", _TOKEN), ("traceparent", _TRACEPARENT)):
        values = _header(request, name.encode())
        if len(values) == 1 and shape.fullmatch(values[0]):
            metadata += ((name, values[0].decode("ascii")),)
    return metadata


class RequestReader:
    """Reads the requests of one binding. It checks the types of fields; the server checks their values."""

    def __init__(self, binding: Binding, body_seconds: float = 10.0) -> None:
        """A body must arrive within `body_seconds`. Raises TypeError for a field without a JSON mapping."""
        request = binding.rpc.input_type
        self._body_seconds = body_seconds
        self._message_class = GetMessageClass(request)
        self._takes_body = binding.takes_body
        in_path = [request.fields_by_name[name] for name in binding.path_fields]
        others = [field for field in request.fields if field not in in_path]
        self._path_fields = {field.name: (field.json_name, text_setter(field)) for field in in_path}
        self._body_fields = {field.json_name: json_setter(field) for field in others if binding.takes_body}
        # Everywhere else null counts as absent.
        self._null_is_value = {field.json_name for field in others if takes_null(field)}
        in_query = [] if binding.takes_body else others
        self._query_fields = {field.json_name: text_setter(field) for field in in_query}
        self._repeated = {field.json_name for field in in_query if field.is_repeated}

    async def read(self, request: Request) -> tuple[Message, Metadata]:
        """The message to send, and the idempotency key as metadata.

        Raises RefusedError with 400 and every violation at once, 408, 413 or 415.
        """
        raw = await _body(request, MAX_BYTES if self._takes_body else _LARGE_BYTES, self._body_seconds)
        if len(raw) <= _LARGE_BYTES:
            return self._interpret(request, raw)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(_LARGE_BODY_THREAD, self._interpret, request, raw)

    def _interpret(self, request: Request, raw: bytes) -> tuple[Message, Metadata]:
        message = self._message_class()
        violations: list[Violation] = []
        idempotency_key = _idempotency_key(request, violations)
        for name, text in request.path_params.items():
            json_name, setter = self._path_fields[name]
            _set(setter, message, text, json_name, violations)
        self._read_query(request, message, violations)
        self._read_body(request, raw, message, violations)
        if violations:
            raise RefusedError(invalid(violations))
        return message, idempotency_key

    def _read_query(self, request: Request, message: Message, violations: list[Violation]) -> None:
        if not (query := request.scope["query_string"]):
            return
        try:
            parameters = parse_qsl(
                query.decode("latin-1"),
                keep_blank_values=True,
                max_num_fields=_MAX_QUERY_PARAMETERS,
            )
        except ValueError:
            violations.append(Violation("query", f"has more than {_MAX_QUERY_PARAMETERS} parameters"))
            return
        seen: set[str] = set()
        for name, text in parameters:
            setter = self._query_fields.get(name)
            if setter is None:
                if name not in seen:
                    violations.append(Violation(shown_path([name]), "is no parameter of this path"))
            elif name in seen and name not in self._repeated:
                violations.append(Violation(name, "is given more than once"))
            else:
                _set(setter, message, text, name, violations)
            seen.add(name)

    def _read_body(self, request: Request, raw: bytes, message: Message, violations: list[Violation]) -> None:
        if not raw:
            return  # the same as {}: the server checks what is required
        if refusal := _unsupported(request):
            raise RefusedError(problem("UNSUPPORTED_MEDIA_TYPE", refusal))
        members, found = parse_object(raw)
        violations += found
        for name, value in members.items():
            setter = self._body_fields.get(name)
            if setter is None:
                violations.append(Violation(shown_path([name]), "is no field of this request"))
            elif value is not INVALID and (value is not None or name in self._null_is_value):
                _set(setter, message, value, name, violations)


def _set(
    setter: Callable[[Message, Any], None],
    message: Message,
    value: object,
    name: str,
    violations: list[Violation],
) -> None:
    try:
        setter(message, value)
    except MalformedError as malformed:
        for path, description in malformed.found:
            violations.append(Violation(shown_path([name, *path]), description))


async def _body(request: Request, max_bytes: int, seconds: float) -> bytes:
    """The body, of which no more than `max_bytes` are ever held. Raises RefusedError with 408 or 413."""
    declared = _header(request, b"content-length")
    if not declared and not _header(request, b"transfer-encoding"):
        return b""
    if declared and _LENGTH.fullmatch(declared[0]) and int(declared[0]) > max_bytes:
        raise RefusedError(payload_too_large(max_bytes))
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                if len(body) + len(chunk) > max_bytes:
                    raise RefusedError(payload_too_large(max_bytes))
                body += chunk
    except TimeoutError:
        raise RefusedError(request_timeout()) from None
    return bytes(body)


def _unsupported(request: Request) -> str | None:
    """What is wrong with how the body is declared, in a sentence; None where it is JSON in UTF-8.

    Parameters of the media type other than `charset` say nothing about JSON, and are left alone.
    """
    if any(encoding.lower() != b"identity" for encoding in _header(request, b"content-encoding")):
        return "The body must come without a content-encoding."
    types = _header(request, b"content-type")
    media_type, _, parameters = types[0].lower().partition(b";") if types else (b"", b"", b"")
    if len(types) != 1 or media_type.rstrip(b" \t") != b"application/json":
        return "The content-type of the body must be application/json, once."
    for name, quoted, plain in _PARAMETER.findall(parameters):
        if name == b"charset" and (quoted or plain).strip(b" \t'") not in _UTF_8:
            return "The charset of the body must be utf-8."
    return None


def _idempotency_key(request: Request, violations: list[Violation]) -> Metadata:
    values = _header(request, b"idempotency-key")
    if not values:
        return ()
    if len(values) == 1 and _IDEMPOTENCY_KEY.fullmatch(values[0]):
        return (("idempotency-key", values[0].decode("ascii")),)
    violations.append(
        Violation("Idempotency-Key", "must be one value of 1 to 255 printable ASCII characters")
    )
    return ()


def _header(request: Request, name: bytes) -> list[bytes]:
    return [value.strip(b" \t") for key, value in request.scope["headers"] if key == name]
