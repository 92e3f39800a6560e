"""The rows of the table: what is measured against what, each pair alive at the same time."""

from __future__ import annotations

import asyncio
import json
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from time import monotonic_ns, perf_counter
from uuid import UUID, uuid4

from runengine.v1.run_service_pb2 import ListCampaignRunsRequest, TriggerRunResponse
from runengine_client import RunEngineClient
from runengine_server.repositories.queue_repository import QueueRepository

from tests.bench import data
from tests.bench.load import Load, grpc_load, http_load
from tests.bench.notified_in_transaction import both, both_on_a_slow_disk
from tests.bench.peers.prefect_server import prefect_server
from tests.bench.servers import (
    BIG,
    GET,
    LIST,
    LOAD_CORE,
    SERVER_CORE,
    TRIGGER,
    UNSERVED,
    Bench,
    Script,
    Served,
    Working,
    call,
    list_runs,
    listening,
    peer_python,
    trigger,
    until_completed,
)
from tests.support.stack import ROOT, Stack, free_address

# How long a rate is measured in one round, and a peer whose calls are slow.
SECONDS = 2.0
IN_FLIGHT = 16

# How often a latency is measured in one round.
_CALLS = 300
_TRIGGERS = 60
_CLAIMS = 40

_RUNS = 300
_SENDS = 12_000
_CONCURRENT = 10

Measurement = Callable[[], Awaitable[float]]
Pair = tuple[Measurement, Measurement]


@dataclass(frozen=True)
class Goal:
    """What the median ratio has to be; None: whatever it is."""

    bound: float | None
    at_least: bool = True
    most: float | None = None
    """What no figure may exceed, besides."""

    def __str__(self) -> str:
        if self.bound is None:
            return "–"
        words = f"{'≥' if self.at_least else '≤'} {self.bound:g}"
        return words if self.most is None else f"{words}, and ≤ {self.most:g} MiB"

    def met(self, ratio: float, figures: list[float]) -> bool:
        """Whether it is."""
        if self.bound is None:
            return True
        within = ratio >= self.bound if self.at_least else ratio <= self.bound
        return within and (self.most is None or max(figures) <= self.most)


@dataclass(frozen=True)
class Row:
    """One line: figure ÷ reference, measured in turn."""

    number: int
    figure: str
    reference: str
    unit: str
    goal: Goal
    pair: Callable[[Bench], AbstractAsyncContextManager[Pair]]
    rounds: int = 5
    warm: bool = True
    """Whether a round comes before, and does not count."""


def _list(served: Served, address: str | None = None, connections: int = 1) -> Measurement:
    return lambda: _rate(grpc_load(
        address or served.address, LIST, [served.list_request], served.token, IN_FLIGHT, seconds=SECONDS,
        connections=connections,
    ))  # fmt: skip


async def _rate(load: Awaitable[Load]) -> float:
    return (await load).rate


async def _p50(load: Awaitable[Load]) -> float:
    return (await load).p50


@asynccontextmanager
async def _against_bare(bench: Bench, method: str, request: Callable[[Served], bytes]) -> AsyncIterator[Pair]:
    """A read, and a bare server that answers it from memory."""
    served = await bench.served()
    body = request(served)
    address = free_address()
    with tempfile.TemporaryDirectory(dir=bench.directory) as directory:
        answer = await call(served.address, method, body, served.token)
        (Path(directory) / method.rpartition("/")[2]).write_bytes(answer)
        async with Script.started("bare_grpc", address, directory):

            def rate_at(address: str) -> Measurement:
                return lambda: _rate(
                    grpc_load(address, method, [body], served.token, IN_FLIGHT, seconds=SECONDS)
                )

            yield rate_at(served.address), rate_at(address)


def _list_rate(bench: Bench) -> AbstractAsyncContextManager[Pair]:
    return _against_bare(bench, LIST, lambda served: served.list_request)


def _get_rate(bench: Bench) -> AbstractAsyncContextManager[Pair]:
    return _against_bare(bench, GET, lambda served: served.get_request)


def _rest(served: Served, address: str) -> Measurement:
    return lambda: _rate(http_load(
        address, "GET", served.list_path, IN_FLIGHT, token=served.token, seconds=SECONDS,
        containing=b'"total":1000',
    ))  # fmt: skip


@asynccontextmanager
async def _rest_rate(bench: Bench) -> AsyncIterator[Pair]:
    served = await bench.served()
    yield _rest(served, served.stack.rest_address), _list(served)


@asynccontextmanager
async def _bare_rest_rate(bench: Bench) -> AsyncIterator[Pair]:
    served, address = await bench.served(), free_address()
    async with served.stack.rest(served.token) as rest:
        answer = (await rest.get(served.list_path)).content
    with tempfile.NamedTemporaryFile(dir=bench.directory) as file:
        file.write(answer)
        file.flush()
        async with Script.started("bare_gateway", address, served.address, file.name):
            yield _rest(served, address), _list(served)


def _page_p50(served: Served, request: ListCampaignRunsRequest) -> Measurement:
    body = request.SerializeToString()
    return lambda: _p50(grpc_load(served.address, LIST, [body], served.token, 1, calls=_CALLS))


@asynccontextmanager
async def _big_campaign_p50(bench: Bench) -> AsyncIterator[Pair]:
    served = await bench.served()
    big = await bench.big_campaign()
    first, reference = (ListCampaignRunsRequest(campaign_id=str(each)) for each in (big, served.campaign_id))
    listed = await list_runs(served.stack, served.token, big)
    assert listed.total == BIG
    yield _page_p50(served, first), _page_p50(served, reference)


@asynccontextmanager
async def _deep_page_p50(bench: Bench) -> AsyncIterator[Pair]:
    served = await bench.served()
    big = await bench.big_campaign()
    deep = await list_runs(served.stack, served.token, big, limit=100, offset=BIG // 2)
    first = ListCampaignRunsRequest(campaign_id=str(big))
    after = ListCampaignRunsRequest(campaign_id=str(big), page_token=deep.next_page_token)
    yield _page_p50(served, after), _page_p50(served, first)


def _trigger(served: Served, campaigns: list[UUID]) -> Measurement:
    bodies = [data.trigger_request(UNSERVED, each) for each in campaigns]
    return lambda: _rate(grpc_load(served.address, TRIGGER, bodies, served.token, IN_FLIGHT, seconds=SECONDS))


@asynccontextmanager
async def _trigger_rate(bench: Bench) -> AsyncIterator[Pair]:
    served = await bench.served()
    answer = await call(served.address, TRIGGER, data.trigger_request(UNSERVED, uuid4()), served.token)
    run_id = TriggerRunResponse.FromString(answer).run.id
    async with Script.started("raw_inserts", bench.url(served.database), run_id) as inserts:
        yield _trigger(served, [uuid4()]), lambda: inserts.ask(SECONDS)
    async with bench.admin(served.database) as admin:
        # A table of tenants without row-level security: no server would start beside it.
        await admin.execute("DROP TABLE raw_runs")
        await data.settle(admin)


@asynccontextmanager
async def _one_campaign_rate(bench: Bench) -> AsyncIterator[Pair]:
    served = await bench.served()
    yield _trigger(served, [uuid4()]), _trigger(served, [uuid4() for _ in range(1000)])
    async with bench.admin(served.database) as admin:
        await data.settle(admin)


@asynccontextmanager
async def _notified_later(
    bench: Bench, served: Callable[[Bench], AbstractAsyncContextManager[tuple[Stack, str]]]
) -> AsyncIterator[Pair]:
    """Triggers of which workers are notified after the commit, and in its transaction."""
    async with served(bench) as (stack, notifying):
        body, token = data.trigger_request(UNSERVED, uuid4()), stack.token("org_bench")

        def rate_at(address: str) -> Measurement:
            return lambda: _rate(grpc_load(address, TRIGGER, [body], token, IN_FLIGHT, seconds=SECONDS))

        yield rate_at(stack.grpc_address), rate_at(notifying)


@asynccontextmanager
async def _two_servers(bench: Bench) -> AsyncIterator[Pair]:
    """Two processes on both cores, where the load and PostgreSQL are too, and one on one. In either case each
    call that is in flight has a connection of its own.
    """
    served, address = await bench.served(), free_address()
    (two,) = await bench.start(served.stack, None, "serve --processes 2", GRPC_ADDRESS=address)
    yield _list(served, address, IN_FLIGHT), _list(served, connections=IN_FLIGHT)
    await two.stop()


@asynccontextmanager
async def _two_workers(bench: Bench) -> AsyncIterator[Pair]:
    async with bench.working(None, workers=2) as two:
        yield await four_steps(bench, two), await four_steps(bench)


async def four_steps(bench: Bench, working: Working | None = None) -> Measurement:
    """Runs a second that the worker executes, all queued before it is let go."""
    working = working or await bench.one_working()

    async def rate() -> float:
        campaign_id = uuid4()
        working.pause()
        try:
            await trigger(working.stack, working.token, campaign_id, "four-steps", _RUNS)
        finally:
            begin = working.go_on()
        await until_completed(working.stack, working.token, campaign_id, _RUNS)
        return _RUNS / (perf_counter() - begin)

    return rate


@asynccontextmanager
async def _against_dbos(bench: Bench) -> AsyncIterator[Pair]:
    python = peer_python("dbos")
    name = await bench.create_database("template1")
    payload = json.dumps(data.PAYLOAD)
    async with Script.started(
        "dbos_steps", bench.url(name), str(_CONCURRENT), payload, python=python
    ) as dbos:
        yield await four_steps(bench), lambda: dbos.ask(_RUNS)


@asynccontextmanager
async def _against_langgraph(bench: Bench) -> AsyncIterator[Pair]:
    python = peer_python("langgraph")
    name = await bench.create_database("template1")
    async with Script.started(
        "langgraph_saver", bench.url(name), str(_CONCURRENT), json.dumps(data.PAYLOAD), python=python
    ) as langgraph:
        yield await four_steps(bench), lambda: langgraph.ask(_RUNS)


@asynccontextmanager
async def _sends_against_langgraph(bench: Bench) -> AsyncIterator[Pair]:
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
async def _against_langgraph_server(bench: Bench) -> AsyncIterator[Pair]:
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
async def _against_prefect(bench: Bench) -> AsyncIterator[Pair]:
    served = await bench.served()
    async with prefect_server(bench) as filtered:
        yield _list(served), filtered


@asynccontextmanager
async def _first_node(bench: Bench, percentile: int) -> AsyncIterator[Pair]:
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
                    taken = [await delay() for _ in range(_TRIGGERS)]
                    return quantiles(taken, n=100, method="inclusive")[percentile - 1]

                async with _notifications(bench, name) as notified:
                    yield delays, notified


@asynccontextmanager
async def _bare_first_node(bench: Bench) -> AsyncIterator[Pair]:
    name = await bench.create_database()
    async with (
        Script.started("first_node", bench.url(name)) as first_node,
        _notifications(bench, name) as notified,
    ):
        yield lambda: first_node.ask(_TRIGGERS), notified


@asynccontextmanager
async def _notifications(bench: Bench, name: str) -> AsyncIterator[Measurement]:
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
            return median([await round_trip() for _ in range(_CALLS)])

        yield round_trips


@asynccontextmanager
async def _claim_p50(bench: Bench) -> AsyncIterator[Pair]:
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
            return median([await claim() for _ in range(_CLAIMS)])

        yield claims


@asynccontextmanager
async def _memory(bench: Bench) -> AsyncIterator[Pair]:
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


def _ratio_at_least(bound: float) -> Goal:
    return Goal(bound, at_least=True)


def _ratio_at_most(bound: float) -> Goal:
    return Goal(bound, at_least=False)


ROWS = [
    Row(1, "ListCampaignRuns, 20 of 1,000 runs", "bare grpc.aio server, same bytes", "calls/s",
        _ratio_at_least(0.50), _list_rate),
    Row(2, "GetRun", "bare grpc.aio server, same bytes", "calls/s", _ratio_at_least(0.55), _get_rate),
    Row(3, "the list of row 1 over REST", "row 1 over gRPC", "calls/s", _ratio_at_least(0.50), _rest_rate),
    Row(4, "page 1 with total, of 1,000,000 runs, p50", "of 1,000 runs", "ms", _ratio_at_most(1.2),
        _big_campaign_p50),
    Row(5, "page by token at depth 500,000, p50", "page 1", "ms", _ratio_at_most(1.3), _deep_page_p50),
    Row(6, "TriggerRun, 16 in flight", "raw asyncpg, INSERT and commit of the row, 16 connections", "runs/s",
        _ratio_at_least(0.12), _trigger_rate),
    Row(7, "TriggerRun into one campaign", "into 1,000 campaigns", "runs/s", _ratio_at_least(0.7),
        _one_campaign_rate),
    Row(8, "4 no-op nodes, one worker on one core", "DBOS, 4 steps, one process on one core", "runs/s",
        _ratio_at_least(1.5), _against_dbos),
    Row(9, "4 no-op nodes, one worker on one core", "LangGraph with AsyncPostgresSaver, 10 concurrent",
        "runs/s", _ratio_at_least(1.0), _against_langgraph),
    Row(10, "trigger acknowledged → first node, idle, p50", "NOTIFY to a process and back, p50", "ms",
        _ratio_at_most(8), lambda bench: _first_node(bench, 50)),
    Row(10, "trigger acknowledged → first node, idle, p95", "NOTIFY to a process and back, p50", "ms",
        _ratio_at_most(25), lambda bench: _first_node(bench, 95)),
    Row(11, "claim of 10, backlog of 100,000 runs, p50", "backlog of 100 runs, of 100 tenants both", "ms",
        _ratio_at_most(1.5), _claim_p50),
    Row(12, "list of row 1", "Prefect server, /flow_runs/filter by tag, limit 20", "calls/s",
        _ratio_at_least(15), _against_prefect),
    Row(13, "4 no-op nodes, one worker on one core", "langgraph dev (in memory), /runs/wait", "runs/s",
        _ratio_at_least(10), _against_langgraph_server),
    Row(14, "resident memory of serve after 100,000 calls", "idle", "MiB", Goal(1.1, False, most=90),
        _memory, rounds=1, warm=False),
    Row(15, "floor of row 3: uvicorn and grpc.aio, a constant answer", "row 1 over gRPC", "calls/s",
        Goal(None), _bare_rest_rate),
    Row(16, "floor of row 10: two commits and LangGraph's start, p50", "NOTIFY to a process and back, p50",
        "ms", Goal(None), _bare_first_node),
    Row(17, "list of row 1, serve --processes 2, on both cores", "one process on one core", "calls/s",
        Goal(None), _two_servers),
    Row(18, "4 no-op nodes, two workers on both cores", "one worker on one core", "runs/s",
        Goal(None), _two_workers),
    Row(19, "TriggerRun, 16 in flight, fsync slowed by 2 ms", "the same with pg_notify in its transaction",
        "runs/s", _ratio_at_least(4), lambda bench: _notified_later(bench, both_on_a_slow_disk)),
    Row(19, "TriggerRun, 16 in flight", "the same with pg_notify in its transaction", "runs/s",
        _ratio_at_least(1.05), lambda bench: _notified_later(bench, both)),
    Row(20, "a run of 12,000 Sends", "LangGraph with InMemorySaver", "s", _ratio_at_most(2),
        _sends_against_langgraph, rounds=3),
]  # fmt: skip
