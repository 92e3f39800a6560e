"""Spans by OpenTelemetry's API, which does nothing unless processes/tracing_sdk.py has set up the SDK."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from opentelemetry import context, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from runengine_server.domain.run import ClaimedRun

_TRACER = trace.get_tracer("runengine")
_PROPAGATOR = TraceContextTextMapPropagator()

# The trace in which the next span without a parent begins.
WANTED_TRACE: ContextVar[int | None] = ContextVar("wanted_trace", default=None)

# By OpenTelemetry's conventions for gRPC servers; the other codes tell of a mistake of the caller's.
_ERRORS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})


def current_trace_id() -> str | None:
    """The trace of the current span, in hexadecimal; None where there is no span."""
    found = trace.get_current_span().get_span_context()
    return trace.format_trace_id(found.trace_id) if found.is_valid else None


def begin_call(method: str, metadata: Iterable[tuple[str, str | bytes]]) -> Span:
    """The span of a call, the current one of this task from now on; `method` is `/service/Method`."""
    carrier = {name: str(value) for name, value in metadata if name in ("traceparent", "tracestate")}
    service, _, name = method.strip("/").partition("/")
    attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
    parent = _PROPAGATOR.extract(carrier, context.Context())
    span = _TRACER.start_span(f"{service}/{name}", parent, SpanKind.SERVER, attributes)
    # It ends with the task, and so does the context.
    context.attach(trace.set_span_in_context(span))
    return span


def end_call(span: Span, code: str, number: int) -> None:
    """Ends the span of a call with its gRPC code."""
    span.set_attribute("rpc.grpc.status_code", number)
    if code in _ERRORS:
        span.set_status(Status(StatusCode.ERROR, code))
    span.end()


@contextmanager
def run_span(run: ClaimedRun, worker: str) -> Iterator[None]:
    """While a worker executes the run: a span in the trace of who triggered it, retried it or resumed it. It
    has no parent there, because only the trace is kept with the run.
    """
    attributes: dict[str, str | int] = {
        "runengine.run.id": str(run.id),
        "runengine.tenant": run.tenant_id,
        "runengine.workflow": run.workflow_name,
        "runengine.run.attempt": run.attempt,
        "runengine.run.epoch": run.epoch,
        "runengine.worker": worker,
    }
    wanted = WANTED_TRACE.set(int(run.trace_id, 16) if run.trace_id else None)
    span = _TRACER.start_span(f"run {run.workflow_name}", context.Context(), SpanKind.CONSUMER, attributes)
    WANTED_TRACE.reset(wanted)
    with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        yield


def end_run(status: str, code: str) -> None:
    """Says how the run ends whose span is the current one."""
    span = trace.get_current_span()
    span.set_attribute("runengine.run.status", status)
    if code:
        span.set_status(Status(StatusCode.ERROR, code))


class StepSpan:
    """A span that is the current one while a node is executed, in whatever thread and context that is."""

    __slots__ = ("_before", "_span")

    def __init__(self, name: str, skill_id: str, attempt: int) -> None:
        attributes: dict[str, str | int] = {
            "runengine.step": name,
            "runengine.step.skill_id": skill_id,
            "runengine.step.attempt": attempt,
        }
        self._span = _TRACER.start_span(f"step {name}", attributes=attributes)
        self._before: context.Context | None = None
        if self._span is not trace.INVALID_SPAN:  # nobody traces
            self._before = context.get_current()
            context.attach(trace.set_span_in_context(self._span))

    def end(self, error: str | None) -> None:
        """Ends it; `error` is the type of what the node has raised: its words may hold values."""
        if error is not None:
            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end()
        # detach() logs an error where an abandoned node is closed in another context.
        if self._before is not None:
            context.attach(self._before)
