"""Runs, claims, notifications and memory, measured beside what the same takes elsewhere."""

from __future__ import annotations

import asyncio
import json
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median, quantiles
from time import monotonic_ns, perf_counter
from typing import Any
from uuid import UUID, uuid4

from runengine_client import RunEngineClient
from runengine_server.repositories.queue_repository import QueueRepository

from tests.bench import data
from tests.bench.goals import Measurement, Pair
from tests.bench.load import grpc_load, http_load
from tests.bench.measured_calls import CALLS, IN_FLIGHT, SECONDS, list_calls
from tests.bench.peers.prefect_server import prefect_server
from tests.bench.servers import (
    GET,
    LIST,
    LOAD_CORE,
    SERVER_CORE,
    UNSERVED,
    Bench,
    Script,
    Working,
    listening,
    peer_python,
    trigger,
    until_completed,
)
from tests.support.stack import ROOT, free_address

TRIGGERS = 60
CLAIMS = 40

RUNS = 300
_SENDS = 12_000
_CONCURRENT = 10


@asynccontextmanager
async def two_workers(bench: Bench) -> AsyncIterator[Pair]:
    async with bench.working(None, workers=2) as two:
        yield await four_steps(bench, two), await four_steps(bench)


async def four_steps(
    bench: Bench, working: Working | None = None, payload: dict[str, Any] = data.PAYLOAD
) -> Measurement:
    """Runs a second that the worker executes, all queued before it is let go."""
    working = working or await bench.one_working()

    async def rate() -> float:
        campaign_id = uuid4()
        working.pause()
        try:
            await trigger(working.stack, working.token, campaign_id, "four-steps", RUNS, payload)
        finally:
            begin = working.go_on()
        await until_completed(working.stack, working.token, campaign_id, RUNS)
        return RUNS / (perf_counter() - begin)

    return rate


@asynccontextmanager
async def against_dbos(bench: Bench) -> AsyncIterator[Pair]:
    python = peer_python("dbos")
    name = await bench.create_database("template1")
    payload = json.dumps(data.PAYLOAD)
    async with Script.started(
        "dbos_steps", bench.url(name), str(_CONCURRENT), payload, python=python
    ) as dbos:
        yield await four_steps(bench), lambda: dbos.ask(RUNS)


@asynccontextmanager
async def against_langgraph(
    bench: Bench, concurrent: int = _CONCURRENT, payload: dict[str, Any] = data.PAYLOAD
) -> AsyncIterator[Pair]:
    python = peer_python("langgraph")
    name = await bench.create_database("template1")
    async with (
        Script.started(
            "langgraph_saver", bench.url(name), str(concurrent), json.dumps(payload), python=python
        ) as langgraph,
        bench.working(SERVER_CORE, WORKER_CONCURRENCY=str(concurrent)) as working,
    ):
        yield await four_steps(bench, working, payload), lambda: langgraph.ask(RUNS)


@asynccontextmanager
async def sends_against_langgraph(bench: Bench) -> AsyncIterator[Pair]:
    python = peer_python("langgraph")
    working = await bench.one_working()
    client = RunEngineClient(working.stack.grpc_address, working.token)
    async with Script.started("langgraph_sends", python=python) as langgraph, client:

        async def seconds() -> float:
            campaign_id = uuid4()
            begin = perf_counter()
            await client.trigger_run("many-sends", campaign_id=campaign_id, trigger_payload={"sends": _SENDS})
            await until_completed(working.stack, working.token, campaign_id, 1)
            return perf_counter() - begin

        yield seconds, lambda: langgraph.ask(_SENDS)


@asynccontextmanager
async def against_langgraph_server(bench: Bench) -> AsyncIterator[Pair]:
    python = peer_python("langgraph")
    address = free_address()
    host, _, port = address.rpartition(":")
    body = json.dumps({"assistant_id": "four-steps", "input": data.PAYLOAD}).encode()
    with tempfile.TemporaryDirectory(dir=bench.directory) as directory:
        (Path(directory) / "langgraph.json").write_text(json.dumps(
            {"dependencies": ["."], "graphs": {"four-steps": f"{ROOT}/tests/bench/graphs.py:FOUR_STEPS"}}
        ))  # fmt: skip
        command = [
            python, "-m", "langgraph_cli", "dev", "--host", host, "--port", port, "--no-browser",
            "--no-reload", "--n-jobs-per-worker", str(_CONCURRENT),
        ]  # fmt: skip
        async with listening(command, address, directory):

            async def waited() -> float:
                load = await http_load(
                    address, "POST", "/runs/wait", _CONCURRENT, body=body, seconds=2 * SECONDS,
                    containing=b'"done":4',
                )  # fmt: skip
                return load.rate

            yield await four_steps(bench), waited


@asynccontextmanager
async def against_prefect(bench: Bench) -> AsyncIterator[Pair]:
    served = await bench.served()
    async with prefect_server(bench) as filtered:
        yield list_calls(served), filtered


@asynccontextmanager
async def first_node(bench: Bench, percentile: int) -> AsyncIterator[Pair]:
    """From the answer to a trigger to the entry into its first node, with nothing else to do."""
    name = await bench.create_database()
    with (
        tempfile.TemporaryDirectory(dir=bench.directory) as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as announced,
    ):
        announced.bind(f"{directory}/announced")
        announced.setblocking(False)
        async with bench.stack(name) as stack:
            await bench.start(stack, SERVER_CORE, "serve", "worker")
            async with RunEngineClient(stack.grpc_address, stack.token("org_bench")) as client:
                loop = asyncio.get_running_loop()
                payload = {**data.PAYLOAD, "announce": f"{directory}/announced"}

                async def delay() -> float:
                    await client.trigger_run("announcing", trigger_payload=payload)
                    acknowledged = monotonic_ns()
                    entered = int(await loop.sock_recv(announced, 32))
                    await asyncio.sleep(0.02)
                    return (entered - acknowledged) / 1e6

                async def delays() -> float:
                    taken = [await delay() for _ in range(TRIGGERS)]
                    return quantiles(taken, n=100, method="inclusive")[percentile - 1]

                async with notifications(bench, name) as notified:
                    yield delays, notified


@asynccontextmanager
async def bare_first_node(bench: Bench) -> AsyncIterator[Pair]:
    name = await bench.create_database()
    async with (
        Script.started("first_node", bench.url(name)) as first_node,
        notifications(bench, name) as notified,
    ):
        yield lambda: first_node.ask(TRIGGERS), notified


@asynccontextmanager
async def notifications(bench: Bench, name: str) -> AsyncIterator[Measurement]:
    """The median round trip of NOTIFY, to a process on the server's core and back."""
    async with Script.started("notify_echo", bench.url(name)), bench.admin(name) as connection:
        heard = asyncio.Event()
        await connection.add_listener("pong", lambda *_: heard.set())

        async def round_trip() -> float:
            heard.clear()
            begin = perf_counter()
            await connection.execute("NOTIFY ping")
            await heard.wait()
            return (perf_counter() - begin) * 1000

        async def round_trips() -> float:
            return median([await round_trip() for _ in range(CALLS)])

        yield round_trips


@asynccontextmanager
async def claim_p50(bench: Bench) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:

        async def backlog(runs: int) -> Measurement:
            return await stack.enter_async_context(_backlog(bench, runs))

        yield await backlog(100_000), await backlog(100)


@asynccontextmanager
async def _backlog(bench: Bench, runs: int) -> AsyncIterator[Measurement]:
    """The median of claims of ten, whose tenants get a new run each before the next."""
    name = await bench.create_database()
    async with bench.database(name) as database, bench.admin(name) as admin, bench.stack(name) as stack:
        await bench.register(name, UNSERVED, data.QUEUED)
        queue = QueueRepository(database, "bench", [data.QUEUED], 3600)
        await bench.start(stack, LOAD_CORE, "serve")
        async with RunEngineClient(stack.grpc_address, stack.token("org_bench")) as client:
            run_id = UUID((await client.trigger_run(UNSERVED, trigger_payload=data.PAYLOAD)).id)
        await stack.stop()
        tenants = [f"org_bench_{number}" for number in range(100)]
        await data.queue_runs(admin, run_id, tenants * (runs // 100))
        await data.settle(admin)

        async def claim() -> float:
            begin = perf_counter()
            claimed = await queue.claim_queued(10)
            taken = (perf_counter() - begin) * 1000
            assert len(claimed) == 10
            await data.queue_runs(admin, run_id, [run.tenant_id for run in claimed])
            return taken

        async def claims() -> float:
            return median([await claim() for _ in range(CLAIMS)])

        yield claims


@asynccontextmanager
async def memory(bench: Bench) -> AsyncIterator[Pair]:
    """serve after 100,000 calls, and before."""
    async with bench.serving() as served:
        idle = served.memory

        async def after_calls() -> float:
            for method, body in [(LIST, served.list_request), (GET, served.get_request)] * 5:
                await grpc_load(served.address, method, [body], served.token, IN_FLIGHT, calls=10_000)
            return served.memory

        async def before() -> float:
            return idle

        yield after_calls, before
