"""Which REST paths are there? Those of the google.api.http rules in the protos, and no others."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import unquote_to_bytes

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import MethodDescriptor
from runengine.v1 import artifact_service_pb2, campaign_service_pb2, run_service_pb2
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from runengine_server.gateway.problems import Problem

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]

_PROTOS = (run_service_pb2, campaign_service_pb2, artifact_service_pb2)


@dataclass(frozen=True)
class Binding:
    """One HTTP method on one path, and the RPC behind it."""

    rpc: MethodDescriptor
    http_method: str
    path: str  # as in the rule, such as `/runs/{run_id}/steps`
    takes_body: bool
    response_body: str  # the field of the response that is the answer; empty for the whole response

    @property
    def path_fields(self) -> list[str]:
        """The request's fields that the path holds, in proto names."""
        return [segment[1:-1] for segment in self.path.split("/") if segment.startswith("{")]


def bindings() -> Iterator[Binding]:
    """Reads every binding of the three services. Raises TypeError for a rule the gateway cannot serve."""
    for proto in _PROTOS:
        for service in proto.DESCRIPTOR.services_by_name.values():
            for rpc in service.methods:
                options = rpc.GetOptions()
                if options.HasExtension(annotations_pb2.http):
                    yield _binding(rpc, options.Extensions[annotations_pb2.http])


def _binding(rpc: MethodDescriptor, rule: http_pb2.HttpRule) -> Binding:
    verb = rule.WhichOneof("pattern")
    if verb in (None, "custom") or rule.body not in ("", "*") or rule.additional_bindings:
        raise TypeError(f"the gateway does not serve the HTTP rule of {rpc.full_name}")
    path: str = getattr(rule, verb)
    if any(character in path for character in "*=:"):
        raise TypeError(f"the gateway does not serve the path {path} of {rpc.full_name}")
    return Binding(rpc, verb.upper(), path, rule.body == "*", rule.response_body)


class PathRoute(BaseRoute):
    """One path with the endpoint of each of its HTTP methods. GET answers HEAD too.

    It matches the path as it was sent: starlette's own routes match the decoded one, where `%2f` within
    an id has become a separator. Segments are decoded after the split.
    """

    def __init__(self, path: str, endpoints: Mapping[str, Endpoint]) -> None:
        self._template = path.split("/")
        self._endpoints = dict(endpoints)
        if "GET" in self._endpoints:
            self._endpoints["HEAD"] = self._endpoints["GET"]

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """FULL with the path's fields in `path_params`, else NONE; the HTTP method is not looked at."""
        if scope["type"] != "http":
            return Match.NONE, {}
        raw_segments = scope["raw_path"].split(b"/")
        if len(raw_segments) != len(self._template):
            return Match.NONE, {}
        fields: dict[str, str] = {}
        for expected, raw in zip(self._template, raw_segments, strict=True):
            segment = unquote_to_bytes(raw).decode("utf-8", "replace")
            if not expected.startswith("{"):
                if segment != expected:
                    return Match.NONE, {}
            elif segment in ("", ".", ".."):
                # To clients and proxies these are a path's structure, never an id.
                return Match.NONE, {}
            else:
                fields[expected[1:-1]] = segment
        return Match.FULL, {"path_params": fields}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers by the endpoint of the HTTP method, or 405."""
        endpoint = self._endpoints.get(scope["method"])
        response = await endpoint(Request(scope, receive)) if endpoint else self._method_not_allowed()
        await response(scope, receive, send)

    def _method_not_allowed(self) -> Response:
        allowed = ", ".join(sorted(self._endpoints))
        detail = f"This path answers {allowed}."
        return Problem(405, "METHOD_NOT_ALLOWED", detail, headers={"allow": allowed}).response()
