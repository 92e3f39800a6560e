"""The errors of a call, for the OpenAPI document.

Every error has the one schema `Problem`: a narrower one for each status makes generators leave responses out
(openapi-python-client 0.29 cannot merge an integer with a constant), so the reasons of a response are beside
its schema, in `x-reasons`.
"""

from typing import Any, TypeAlias

from runengine.error_reasons import REASONS, Reason

from runengine_gateway.rest_comments import RestComments
from runengine_gateway.routes import Binding

Json: TypeAlias = dict[str, Any]

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

    def __init__(self, comments: RestComments) -> None:
        self._comments = comments
        self._meanings = {word: self._meaning(reason) for word, reason in REASONS.items()}
        self.responses: dict[str, Json] = {}
        self.schemas: dict[str, Json] = {
            "Problem": _PROBLEM,
            "Violation": _VIOLATION,
            "ErrorReason": {
                "description": "What went wrong, in a word.",
                "type": "string",
                "enum": list(self._meanings),
                "x-enumDescriptions": self._meanings,
            },
        }

    def _meaning(self, reason: Reason) -> str:
        return self._comments.raw(reason.full_name).replace("google.rpc.BadRequest", "`violations`")

    def of_rule(self, rule: Binding) -> dict[str, Json]:
        """Status → response, for the reasons that the RPC may return, and those that REST alone has."""
        reasons = {word for word, reason in REASONS.items() if reason.comes_from(rule.rpc.name)}
        if rule.path_fields:
            reasons.add("NOT_FOUND")  # `.` for an id is no path
        if rule.takes_body:
            reasons.update(("PAYLOAD_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE"))
        return self.of_reasons(reasons)

    def of_reasons(self, reasons: set[str]) -> dict[str, Json]:
        """Status → response."""
        by_status: dict[int, list[str]] = {}
        for word, reason in REASONS.items():
            if word in reasons:
                by_status.setdefault(reason.http_status, []).append(word)
        return {str(status): self._response(status, by_status[status]) for status in sorted(by_status)}

    def _response(self, status: int, reasons: list[str]) -> Json:
        response: Json = {
            "description": " ".join(f"`{word}`: {self._meanings[word]}" for word in reasons),
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
