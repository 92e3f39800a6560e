"""Which errors may a call answer, and how does the OpenAPI document tell them?

Every error has the one schema `Problem`: a narrower one for each status makes generators leave responses out
(openapi-python-client 0.29 cannot merge an integer with a constant), so the reasons of a response are beside
its schema, in `x-reasons`.
"""

import re
from collections.abc import Iterable
from typing import Any, TypeAlias

from runengine.v1.error_reason_pb2 import ErrorReason

from runengine_gateway.proto_words import Words
from runengine_gateway.routes import Binding

Json: TypeAlias = dict[str, Any]

_PREFIX = "ERROR_REASON_"

# What any call may meet. Those that ErrorReason does not know are left out.
_COMMON_REASONS = (
    "INVALID_ARGUMENT",
    "UNAUTHENTICATED",
    "NO_ORGANISATION",
    "QUOTA_EXCEEDED",
    "OVERLOADED",
    "INTERNAL",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "REQUEST_TIMEOUT",
    "HEADERS_TOO_LARGE",
)
_BODY_REASONS = ("PAYLOAD_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE")

_VIOLATION: Json = {
    "description": "One thing that is wrong with a request.",
    "type": "object",
    "properties": {
        "field": {
            "type": "string",
            "description": "A path such as `triggerPayload.items[3].price`, the name of a parameter or "
            "header, or `body`.",
            "examples": ["limit"],
        },
        "description": {
            "type": "string",
            "description": "Reads on from the field.",
            "examples": ["must be 1 to 100"],
        },
    },
    "required": ["field", "description"],
}

# As problems.Problem writes it. `reason` is no enum: a client that knows today's words alone, and refuses any
# other, would lose the error as a whole when a later version adds one.
_PROBLEM: Json = {
    "description": "An error, as RFC 9457 has it. `reason` is the word to branch on.",
    "type": "object",
    "properties": {
        "type": {"type": "string", "description": "`urn:runengine:error:` and the reason."},
        "title": {"type": "string", "description": "The reason, for people."},
        "status": {"type": "integer", "description": "The HTTP status."},
        "detail": {"type": "string", "description": "What is wrong, in a sentence."},
        "reason": {
            "type": "string",
            "description": "A word of ErrorReason, or one that a later version adds; the same that gRPC "
            "carries in google.rpc.ErrorInfo.",
            "examples": ["INVALID_ARGUMENT"],
        },
        "metadata": {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": "`status`, `attempt` and `allowed` where the run's state forbids the call; "
            "`id` on a 500, to find it in the log; else empty.",
        },
        "violations": {
            "type": "array",
            "items": {"$ref": "#/components/schemas/Violation"},
            "description": "All that is wrong with the request. On a 400 alone.",
        },
    },
    "required": ["type", "title", "status", "detail", "reason", "metadata"],
}


class Errors:
    """The errors of the document: schemas, and responses as calls ask for them."""

    def __init__(self, words: Words) -> None:
        self._words = words
        self._reasons = dict(self._read_reasons())
        self.responses: dict[str, Json] = {}
        self.schemas: dict[str, Json] = {
            "Problem": _PROBLEM,
            "Violation": _VIOLATION,
            "ErrorReason": {
                "description": "What went wrong, in a word.",
                "type": "string",
                "enum": list(self._reasons),
                "x-enumDescriptions": {word: meaning for word, (_, meaning) in self._reasons.items()},
            },
        }

    def _read_reasons(self) -> Iterable[tuple[str, tuple[int, str]]]:
        """Reason → its HTTP status and its meaning, from a comment such as `No such run: NOT_FOUND, 404.`"""
        for value in ErrorReason.DESCRIPTOR.values:
            comment = self._words.raw(f"{ErrorReason.DESCRIPTOR.full_name}.{value.name}")
            told = re.match(r"(.+?)(?:: [A-Z_]+)?[,:] ([45]\d\d)\b", comment.removeprefix("REST only: "))
            if told:
                meaning = told[1][0].upper() + told[1][1:].replace("google.rpc.BadRequest", "`violations`")
                yield value.name.removeprefix(_PREFIX), (int(told[2]), meaning + ".")

    def of_rule(self, rule: Binding, *, takes_idempotency_key: bool) -> dict[str, Json]:
        """Status → response, for what any call may meet and what the comment of the RPC names."""
        named = re.findall("[A-Z_]+", self._words.raw(rule.rpc.full_name).partition("Errors:")[2])
        reasons = {*_COMMON_REASONS, *named}
        if rule.path_fields:
            reasons.add("NOT_FOUND")  # `.` for an id is no path
        if rule.takes_body:
            reasons.update(_BODY_REASONS)
        if takes_idempotency_key:
            reasons.add("IDEMPOTENCY_KEY_REUSED")
        return self.of_reasons(reasons)

    def of_reasons(self, reasons: set[str]) -> dict[str, Json]:
        """Status → response; reasons that ErrorReason does not know are left out."""
        by_status: dict[int, list[str]] = {}
        for reason, (status, _) in self._reasons.items():
            if reason in reasons:
                by_status.setdefault(status, []).append(reason)
        return {str(status): self._response(status, by_status[status]) for status in sorted(by_status)}

    def _response(self, status: int, reasons: list[str]) -> Json:
        response: Json = {
            "description": " ".join(f"`{reason}`: {self._reasons[reason][1]}" for reason in reasons),
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
            "x-reasons": reasons,
        }
        if status == 401:
            response["headers"] = {"WWW-Authenticate": {"schema": {"type": "string", "const": "Bearer"}}}
        if status == 429:
            waits = {"description": "Seconds to wait.", "schema": {"type": "string", "pattern": "^[0-9]+$"}}
            response["headers"] = {"Retry-After": waits}
        name = ".".join(reasons)
        self.responses[name] = response
        return {"$ref": f"#/components/responses/{name}"}
