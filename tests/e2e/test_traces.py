"""The spans that `serve` and a worker send to a collector, of runs that were triggered in a trace."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from runengine_client import RunEngineClient

from tests.support.collector import Collector, collecting
from tests.support.stack import Stack

PARENT = "00f067aa0ba902b7"
CALL, GET = "runengine.v1.RunService/TriggerRun", "runengine.v1.RunService/GetRun"


@pytest.fixture
async def traced(
    database_url: str, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Stack, Collector]]:
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        stack = Stack(database_url, state_dir)
        try:
            await stack.start("serve", rest_by="serve")
            await stack.start("worker", WORKFLOWS="tests.support.counted_graphs:WORKFLOWS")
            yield stack, collector
        finally:
            await stack.stop()


async def trigger(rest: httpx.AsyncClient, payload: dict[str, bool]) -> tuple[str, str]:
    """The id of a run, and of the trace in which it was triggered."""
    trace_id = uuid4().hex
    body = {"workflowName": "counted", "triggerPayload": payload}
    headers = {"traceparent": f"00-{trace_id}-{PARENT}-01"}
    return (await rest.post("/runs", json=body, headers=headers)).json()["id"], trace_id


async def test_the_spans_of_a_run_are_in_the_trace_of_its_trigger(
    traced: tuple[Stack, Collector],
) -> None:
    stack, collector = traced
    token = stack.token(f"org_{uuid4().hex}")
    async with stack.client(token) as client, stack.rest(token) as rest:
        run_id, trace_id = await trigger(rest, {})
        await check_completed(client, collector, run_id, trace_id)
        failing, trace_id = await trigger(rest, {"fail": True})
        found = await collector.spans_until(trace_id, CALL, "run counted")
        assert found["step second"].span.status.code == Status.STATUS_CODE_ERROR
        assert found["step second"].span.status.message == "ValueError"
        assert found["run counted"].span.status.message == "STEP_FAILED"
        assert found["run counted"].attribute("runengine.run.id") == failing

        # The trace of a call that names none is one of its own, and the run's too.
        run = await client.trigger_run("counted")
        (first, *_) = await client.list_run_events(run.id)
        found = await collector.spans_until(first.trace_id, CALL, "run counted")
        assert found[CALL].span.trace_id == found["run counted"].span.trace_id

        trace_id = uuid4().hex
        headers = {"traceparent": f"00-{trace_id}-{PARENT}-01"}
        assert (await rest.get(f"/runs/{uuid4()}", headers=headers)).status_code == 404
        call = (await collector.spans_until(trace_id, GET))[GET]
        assert call.attribute("rpc.grpc.status_code") == 5
        assert call.span.status.code == Status.STATUS_CODE_UNSET


async def check_completed(client: RunEngineClient, collector: Collector, run_id: str, trace_id: str) -> None:
    found = await collector.spans_until(trace_id, CALL, "run counted")
    call, run = found[CALL], found["run counted"]
    assert (call.service, run.service) == ("runengine-serve", "runengine-worker")
    assert call.span.parent_span_id.hex() == PARENT
    assert call.span.kind == Span.SPAN_KIND_SERVER
    assert run.attribute("runengine.run.status") == "completed"
    assert not run.span.parent_span_id
    for name in ("step first", "step second"):
        assert found[name].span.parent_span_id == run.span.span_id
    assert {each.trace_id for each in await client.list_run_events(run_id)} == {trace_id}
