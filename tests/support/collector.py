"""A collector of OpenTelemetry's, which keeps the spans that processes send it by OTLP over HTTP."""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.patience import SECONDS


@dataclass(frozen=True)
class Sent:
    """A span, and the service that sent it."""

    service: str
    span: Span

    def attribute(self, key: str) -> str | int | None:
        for each in self.span.attributes:
            if each.key == key:
                return each.value.string_value or each.value.int_value
        return None


class Collector:
    """`endpoint` is for OTEL_EXPORTER_OTLP_ENDPOINT."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._sent: list[Sent] = []
        self._has_more = threading.Condition()

    def receive(self, request: ExportTraceServiceRequest) -> None:
        for of_resource in request.resource_spans:
            (service,) = (
                each.value.string_value
                for each in of_resource.resource.attributes
                if each.key == "service.name"
            )
            spans = [Sent(service, span) for scope in of_resource.scope_spans for span in scope.spans]
            with self._has_more:
                self._sent += spans
                self._has_more.notify_all()

    def _of_trace(self, trace_id: str) -> dict[str, Sent]:
        return {each.span.name: each for each in self._sent if each.span.trace_id.hex() == trace_id}

    async def spans_until(self, trace_id: str, *last: str) -> dict[str, Sent]:
        """The spans of the trace, by name, once those are there."""

        def wait() -> dict[str, Sent]:
            with self._has_more:
                self._has_more.wait_for(lambda: self._of_trace(trace_id).keys() >= {*last}, SECONDS)
                return self._of_trace(trace_id)

        return await asyncio.to_thread(wait)


@contextmanager
def collecting() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            body = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
            collector.receive(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_address[1]}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield collector
        server.shutdown()
