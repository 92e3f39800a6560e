"""Routes requests by the google.api.http rules of the protos."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import unquote_to_bytes

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import MethodDescriptor
from runengine.v1 import (
    artifact_service_pb2,
    bulk_operation_service_pb2,
    campaign_service_pb2,
    run_service_pb2,
    schedule_service_pb2,
    webhook_service_pb2,
    workflow_service_pb2,
)
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from runengine_gateway.problems import problem

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]

_PROTOS = (
    run_service_pb2,
    campaign_service_pb2,
    artifact_service_pb2,
    workflow_service_pb2,
    bulk_operation_service_pb2,
    webhook_service_pb2,
    schedule_service_pb2,
)


@dataclass(frozen=True)
class Binding:
    """One HTTP method on one path, and the RPC behind it."""

    rpc: MethodDescriptor
    http_method: str
    path: str  # as in the rule, such as `/runs/{run_id}/steps`
    takes_body: bool
    response_body: str  # the field that becomes the body; empty for the whole message

    @property
    def creates(self) -> bool:
        """Whether a success is a 201: a POST to a collection creates a member of it."""
        return self.http_method == "POST" and not self.path_fields

    @property
    def streams_events(self) -> bool:
        """Whether the RPC streams messages that each have one of several events."""
        return self.rpc.server_streaming and "event" in self.rpc.output_type.oneofs_by_name

    @property
    def path_fields(self) -> list[str]:
        """The request's fields that the path holds, in proto names."""
        return [segment[1:-1] for segment in self.path.split("/") if segment.startswith("{")]


def bindings() -> Iterator[Binding]:
    """Reads every binding of our services. Raises TypeError for a rule the gateway cannot serve."""
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


class Paths:
    """ASGI app that calls the endpoint of a path and HTTP method, with GET's endpoint for HEAD. It returns
    405 for another method, and 404 for another path.

    It splits the path before it decodes the segments: decoded first, `%2f` within an id would become a
    separator.
    """

    def __init__(self, endpoints: Mapping[str, Mapping[str, Endpoint]]) -> None:
        self._templates: dict[int, list[tuple[list[str], dict[str, Endpoint]]]] = {}
        for path, of_path in endpoints.items():
            segments, of_methods = path.split("/"), dict(of_path)
            if "GET" in of_methods:
                of_methods["HEAD"] = of_methods["GET"]
            self._templates.setdefault(len(segments), []).append((segments, of_methods))
        for templates in self._templates.values():
            # `/runs/watch` before `/runs/{run_id}`.
            templates.sort(key=lambda each: [segment.startswith("{") for segment in each[0]])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request; `path_params` of its scope are the path's fields."""
        response = await self._respond(scope, receive)
        await response(scope, receive, send)

    async def _respond(self, scope: Scope, receive: Receive) -> Response:
        raw_path = scope["raw_path"]
        if b"%" in raw_path:
            segments = [unquote_to_bytes(raw).decode("utf-8", "replace") for raw in raw_path.split(b"/")]
        else:
            segments = raw_path.decode("utf-8", "replace").split("/")
        for template, of_methods in self._templates.get(len(segments), ()):
            if (fields := _match(template, segments)) is not None:
                if (endpoint := of_methods.get(scope["method"])) is None:
                    return _method_not_allowed(of_methods)
                scope["path_params"] = fields
                return await endpoint(Request(scope, receive))
        return problem("NOT_FOUND", "There is no such path.").response()


def _match(template: Sequence[str], segments: Sequence[str]) -> dict[str, str] | None:
    fields: dict[str, str] = {}
    for expected, segment in zip(template, segments, strict=True):
        if not expected.startswith("{"):
            if segment != expected:
                return None
        elif segment in ("", ".", ".."):
            # Clients and proxies resolve these as structure of the path, so they are never an id.
            return None
        else:
            fields[expected[1:-1]] = segment
    return fields


def _method_not_allowed(of_methods: Mapping[str, Endpoint]) -> Response:
    allowed = ", ".join(sorted(of_methods))
    detail = f"This path takes {allowed}."
    return problem("METHOD_NOT_ALLOWED", detail, headers={"allow": allowed}).response()
