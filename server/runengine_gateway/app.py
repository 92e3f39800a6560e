"""Builds the REST gateway from its parts."""

from collections.abc import Sequence

from runengine.v1.artifact_service_pb2 import DownloadArtifactResponse
from starlette.types import ASGIApp

from runengine_gateway.calls import TokenCheck, UnaryCall
from runengine_gateway.channel import Channel
from runengine_gateway.console_files import console_endpoints
from runengine_gateway.cors import with_cors
from runengine_gateway.docs_page import docs_endpoint
from runengine_gateway.downloads import ArtifactDownload
from runengine_gateway.event_streams import EventStream, OpenStreams
from runengine_gateway.health import alive, ready
from runengine_gateway.index import index, with_slash
from runengine_gateway.openapi import document_endpoint, openapi_document
from runengine_gateway.routes import Binding, Endpoint, Paths, bindings
from runengine_gateway.safe_responses import SafeResponses


def create_gateway(
    channel: Channel,
    *,
    deadline_seconds: float = 10.0,
    cors_origins: Sequence[str] = (),
    streams: OpenStreams | None = None,
) -> ASGIApp:
    """Builds the ASGI app that serves every google.api.http rule of the protos over `channel`.

    A call that takes longer than `deadline_seconds` becomes a 504. Pages of `cors_origins` may call from a
    browser; without any, the responses name no origin. `streams` gets the streams of events that are open.
    The app does not close the channel. Raises TypeError for a rule or a field that it cannot serve.
    """
    token_check = TokenCheck(channel, deadline_seconds)
    paths: dict[str, dict[str, Endpoint]] = {
        "/": {"GET": index},
        "/healthz": {"GET": alive},
        "/readyz": {"GET": ready(channel)},
    }
    rules = list(bindings())
    document = openapi_document(rules)
    paths["/openapi.json"] = {"GET": document_endpoint(document)}
    paths["/docs"] = {"GET": docs_endpoint(document)}
    paths |= console_endpoints() | with_slash("/console") | with_slash("/docs")
    for binding in rules:
        endpoint: Endpoint
        if binding.streams_events:
            endpoint = EventStream(channel, binding, token_check, deadline_seconds, streams or OpenStreams())
        else:
            endpoint = _endpoint_class(binding)(channel, binding, token_check, deadline_seconds)
        paths.setdefault(binding.path, {})[binding.http_method] = endpoint
    app = SafeResponses(Paths(paths))
    return with_cors(app, cors_origins) if cors_origins else app


def _endpoint_class(binding: Binding) -> type[UnaryCall] | type[ArtifactDownload]:
    if not binding.rpc.server_streaming:
        return UnaryCall
    if binding.rpc.output_type.full_name == DownloadArtifactResponse.DESCRIPTOR.full_name:
        return ArtifactDownload
    raise TypeError(f"the gateway does not serve the stream of {binding.rpc.full_name}")
