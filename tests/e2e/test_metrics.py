"""What processes count for Prometheus, read where they serve it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from runengine_client import RunEngineClient, RunNotFound
from runengine_server.processes.children import ChildFailed

from tests.support.patience import SECONDS
from tests.support.stack import Stack, free_address

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(address: str) -> Samples:
    async with httpx.AsyncClient(timeout=SECONDS) as http:
        response = (await http.get(f"http://{address}/metrics")).raise_for_status()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((f"runengine_{name}", frozenset(labels.items())))


@pytest.fixture
async def own_stack(database_url: str, state_dir: Path) -> AsyncIterator[Stack]:
    stack = Stack(database_url, state_dir)
    yield stack
    await stack.stop()


async def test_the_metrics_of_serve_and_worker_tell_of_calls_runs_and_the_queue(own_stack: Stack) -> None:
    serving, working = free_address(), free_address()
    await own_stack.start("serve", rest_by="serve", METRICS_ADDRESS=serving)
    workflows = "tests.support.counted_graphs:WORKFLOWS"
    await own_stack.start("worker", METRICS_ADDRESS=working, WORKFLOWS=workflows)
    token = own_stack.token(f"org_{uuid4().hex}")
    async with own_stack.client(token) as client, own_stack.rest(token) as rest:
        await run_both(client)
        with pytest.raises(RunNotFound):
            await client.get_run(uuid4())
        assert (await rest.get(f"/runs/{uuid4()}")).status_code == 404
    of_serve, of_worker = await scrape(serving), await scrape(working)

    # The call ends after its response has been sent.
    async with asyncio.timeout(SECONDS):
        while value(of_serve, "calls_total", method="GetRun", code="NOT_FOUND") != 2:
            of_serve = await scrape(serving)
    assert value(of_serve, "calls_total", method="TriggerRun", code="OK") == 2
    assert value(of_serve, "call_duration_seconds_count", method="TriggerRun") == 2
    assert value(of_serve, "http_responses_total", status="404") == 1
    assert value(of_serve, "calls_in_flight", kind="calls") == 0
    assert value(of_serve, "call_duration_seconds_count", method="WatchRuns") is None
    assert value(of_serve, "database_up") == 1
    assert value(of_serve, "database_connections_max") == 20

    assert value(of_worker, "runs_claimed_total", workflow="counted") == 2
    assert value(of_worker, "runs_ended_total", workflow="counted", status="completed", code="") == 1
    assert value(of_worker, "runs_ended_total", workflow="counted", status="failed", code="STEP_FAILED") == 1
    assert value(of_worker, "run_duration_seconds_count", workflow="counted") == 2
    assert value(of_worker, "steps_total", workflow="counted", status="returned") == 3
    assert value(of_worker, "steps_total", workflow="counted", status="failed") == 1
    assert value(of_worker, "runs_held") == 0
    assert value(of_worker, "worker_concurrency") == 10
    assert value(of_worker, "queued_runs", workflow="counted") == 0
    assert value(of_worker, "notifications_sent_total") is not None


async def run_both(client: RunEngineClient) -> None:
    """One that completes, and one that fails."""
    for payload in ({}, {"fail": True}):
        run = await client.trigger_run("counted", trigger_payload=payload)
        await client.wait(run.id)


async def test_the_metrics_of_each_of_several_servers_have_a_port_of_their_own(own_stack: Stack) -> None:
    host, port = free_address().split(":")
    await own_stack.start("serve --processes 2", METRICS_ADDRESS=f"{host}:{port}")
    for place in range(2):
        assert value(await scrape(f"{host}:{int(port) + place}"), "database_up") == 1


async def test_the_metrics_of_a_gateway_tell_of_responses(own_stack: Stack) -> None:
    address = free_address()
    await own_stack.start("gateway", METRICS_ADDRESS=address)
    async with own_stack.rest() as rest:
        assert (await rest.get("/healthz")).status_code == 200
    assert value(await scrape(address), "http_responses_total", status="200") == 1


async def test_a_process_whose_port_for_metrics_is_taken_does_not_start(
    own_stack: Stack, capfd: pytest.CaptureFixture[str]
) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ChildFailed):
            await own_stack.start("gateway", METRICS_ADDRESS=address)
    assert f"RUNENGINE_METRICS_ADDRESS: {address} cannot be used" in capfd.readouterr().err
