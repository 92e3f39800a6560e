"""Sets up OpenTelemetry's SDK, by its own environment variables."""

from __future__ import annotations

import os
from importlib.util import find_spec

from opentelemetry import trace

from runengine_server.settings import SettingsError
from runengine_server.tracing import WANTED_TRACE

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def export_traces(process: str) -> bool:
    """Sends spans by OTLP over HTTP, where a variable of OpenTelemetry's names an endpoint. Returns whether
    they are sent. Raises SettingsError where the packages are missing.
    """
    named = next((each for each in _ENDPOINTS if os.environ.get(each)), None)
    if named is None or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if find_spec("opentelemetry.sdk") is None or find_spec("opentelemetry.exporter") is None:
        raise SettingsError(f"{named} is set, which needs more packages: pip install 'runengine[otel]'")
    # A tenth of a second, and only for those who want it.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class InWantedTrace(RandomIdGenerator):
        def generate_trace_id(self) -> int:
            return WANTED_TRACE.get() or super().generate_trace_id()

    os.environ.setdefault("OTEL_SERVICE_NAME", f"runengine-{process}")
    provider = TracerProvider(id_generator=InWantedTrace())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return True
