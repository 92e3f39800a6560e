"""A worker's parts in this process, on a graph of the test's own that no other worker serves."""

from __future__ import annotations

import asyncio
import operator
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypedDict, TypeVar
from uuid import UUID, uuid4

import asyncpg
import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from runengine.context import RunContext
from runengine.v1.run_service_pb2 import ResumeRunRequest, TriggerRunRequest
from runengine_server.commands.cancel_run import cancel_run
from runengine_server.commands.resume_run import check_resume, resume_run
from runengine_server.commands.retry_run import retry_run
from runengine_server.commands.trigger_run import check_trigger, trigger_run
from runengine_server.database.database import Database
from runengine_server.domain.caller import Actor
from runengine_server.domain.errors import Unavailable
from runengine_server.domain.run import Campaign, ClaimedRun, Failure, RunEvent, RunStatus
from runengine_server.repositories.artifact_store import ArtifactDirectory, ArtifactStore
from runengine_server.repositories.campaign_repository import CampaignRepository
from runengine_server.repositories.held_run_repository import HeldRunRepository
from runengine_server.repositories.queue_repository import QueueRepository
from runengine_server.repositories.run_repository import RunRepository
from runengine_server.settings import DEFAULT_MAX_STATE_BYTES, DEFAULT_STEP_DATA_BYTES
from runengine_server.worker.graph.load import AnyGraph, Timeouts, compile_workflow
from runengine_server.worker.processor import LangGraphRunProcessor
from runengine_server.worker.worker import Worker

from tests.support.chains import chain_of
from tests.support.patience import SECONDS as SECONDS
from tests.support.seen_run import Run as Run
from tests.support.seen_run import run_of as run_of

ACTOR = Actor("user_test", None)
LEASE_SECONDS = 30.0
NO_TIMEOUTS = Timeouts()

Answer = TypeVar("Answer")
Graph = StateGraph[Any, Any, Any, Any]


class State(TypedDict, total=False):
    seen: Annotated[list[str], operator.add]
    fail: bool
    bundle_artifact_id: str


def chain(**nodes: Any) -> Graph:
    """The nodes one after the other."""
    return chain_of(State, **nodes)


def alone(name: str, node: Any, **options: Any) -> Graph:
    """One node, with what add_node takes."""
    graph: Graph = StateGraph(State)
    graph.add_node(name, node, **options)
    graph.add_edge(START, name)
    return graph


def fork(**nodes: Any) -> Graph:
    """The nodes side by side."""
    graph = StateGraph(State)
    for name, node in nodes.items():
        graph.add_node(name, node)
        graph.add_edge(START, name)
    return graph


class Ran:
    """Nodes that only note that they ran, in `names`."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def node(self, name: str) -> Any:
        async def node(state: Any) -> dict[str, Any]:
            self.names.append(name)
            return {"seen": [name]}

        return node


def code_and_step(error: Failure | None) -> tuple[str, str | None]:
    assert error is not None
    return error.code, error.step_id


class Engine:
    """One tenant, one workflow, and what a worker is made of; each step of its work is a call."""

    def __init__(
        self, database: Database, directory: Path, graph: AnyGraph, timeouts: Timeouts, lease_seconds: float
    ) -> None:
        self.tenant_id = f"org_{uuid4().hex}"
        self.workflow = f"workflow-{uuid4().hex}"
        self.directory = directory
        self.lease_seconds = lease_seconds
        self.database = database
        self.tenant = database.tenant(self.tenant_id)
        self.runs = RunRepository(self.tenant)
        self.campaigns = CampaignRepository(self.tenant)
        self.queue = QueueRepository(database, "worker:test", [self.workflow], lease_seconds)
        self.deploy(graph, timeouts)

    def deploy(
        self,
        graph: AnyGraph,
        timeouts: Timeouts = NO_TIMEOUTS,
        max_state_bytes: int = DEFAULT_MAX_STATE_BYTES,
        step_data_bytes: int = DEFAULT_STEP_DATA_BYTES,
        store: ArtifactStore | None = None,
    ) -> None:
        """Has the worker run `graph` from now on, also what another has begun."""
        workflows = {self.workflow: compile_workflow(self.workflow, graph, timeouts)}
        self.processor = LangGraphRunProcessor(
            self.database,
            store or ArtifactDirectory(self.directory),
            workflows,
            "http://runengine",
            "worker:test",
            max_state_bytes,
            step_data_bytes,
        )

    async def trigger(
        self,
        payload: dict[str, Any] | None = None,
        campaign_id: UUID | None = None,
        context: dict[str, Any] | None = None,
        priority: int = 0,
    ) -> UUID:
        if campaign_id is not None:
            context = {**(context or {}), "campaignId": str(campaign_id)}
        structs = [None if each is None else ParseDict(each, Struct()) for each in (payload, context)]
        new = check_trigger(
            TriggerRunRequest(
                workflow_name=self.workflow, trigger_payload=structs[0], context=structs[1], priority=priority
            )
        )
        await trigger_run(self.runs, new, ACTOR, None, None)
        return new.id

    async def retry(self, run_id: UUID) -> Run:
        return run_of((await retry_run(self.runs, run_id, ACTOR, None, None)).response)

    async def cancel(self, run_id: UUID) -> Run:
        return run_of((await cancel_run(self.runs, run_id, ACTOR, None)).response)

    async def resume(self, run_id: UUID, values: Mapping[str, Any]) -> Run:
        """The run, resumed with values by the ids of what it waits for."""
        request = ResumeRunRequest(run_id=str(run_id), values=ParseDict(dict(values), Struct()).fields)
        result = await resume_run(self.runs, run_id, check_resume(request), ACTOR, None)
        return run_of(result.response)

    async def go_on(self, run_id: UUID, values: Mapping[str, Any]) -> Run:
        """The run, resumed and executed."""
        await self.resume(run_id, values)
        return await self.process(await self.claim_expired())

    async def claim_expired(self) -> ClaimedRun:
        (run,) = await self.queue.claim_expired(1)
        return run

    async def claim(self) -> ClaimedRun:
        (run,) = await self.queue.claim_queued(1)
        return run

    async def lose(self, run_id: UUID) -> None:
        """Ends the lease of its worker, as if that had died some time ago."""
        await self.tenant.fetch(
            "UPDATE runs SET lease_expires_at = '2000-01-01' WHERE id = $1 AND status = 'running'", run_id
        )

    async def take_over(self, run_id: UUID) -> ClaimedRun:
        """The run, claimed again after its worker was lost."""
        await self.lose(run_id)
        return await self.claim_expired()

    async def process(self, run: ClaimedRun) -> Run:
        """The run after it was executed."""
        async with asyncio.timeout(SECONDS) as limit:
            await self.processor.process(run)
        # An execution that ends when it is stopped may well look as if it had ended by itself.
        assert not limit.expired()
        return await self.get(run.id)

    async def execute(self, payload: dict[str, Any] | None = None, **context: Any) -> Run:
        """A new run, after it was executed."""
        await self.trigger(payload, context=context or None)
        return await self.process(await self.claim())

    async def execute_again(self, run_id: UUID) -> Run:
        """The run, retried and executed."""
        await self.retry(run_id)
        return await self.process(await self.claim())

    async def get(self, run_id: UUID) -> Run:
        response = await self.runs.get(run_id)
        assert response is not None
        return run_of(response)

    async def campaign(self, campaign_id: UUID) -> Campaign:
        campaign = await self.campaigns.get(campaign_id)
        assert campaign is not None
        return campaign

    async def abandoned_graphs(self) -> int:
        """How many graphs go on although they were cancelled."""
        await asyncio.sleep(0)
        return len(self.processor.abandoned)

    async def losses(self, run_id: UUID) -> int:
        row = await self.tenant.fetchrow("SELECT losses FROM runs WHERE id = $1", run_id)
        assert row is not None
        return int(row["losses"])

    async def executions(self, run_id: UUID) -> list[str]:
        """Every execution of every step, in order: its name, attempt, status, and error code if any."""
        rows = await self.tenant.fetch(
            """SELECT concat_ws(' ', step_id, attempt, status, error ->> 'code') AS words
            FROM run_steps WHERE run_id = $1 ORDER BY seq""",
            run_id,
        )
        return [row["words"] for row in rows]

    @asynccontextmanager
    async def working(self, **settings: Any) -> AsyncIterator[Worker]:
        """A worker at work."""
        worker = Worker(
            self.queue,
            self.processor.process,
            self.processor.drain,
            on_watched=self.processor.progress.on_watched,
            **{"concurrency": 5, "lease_seconds": self.lease_seconds, "drain_seconds": 0, **settings},
        )
        work = asyncio.create_task(worker.work())
        try:
            yield worker
        finally:
            worker.stop()
            async with asyncio.timeout(SECONDS):
                await work


@asynccontextmanager
async def serving(
    database_url: str,
    graph: AnyGraph,
    timeouts: Timeouts = NO_TIMEOUTS,
    lease_seconds: float = LEASE_SECONDS,
    listen_url: str | None = None,
) -> AsyncIterator[Engine]:
    """An engine for `graph` on connections of its own."""
    database = Database(database_url, 10, listen_url=listen_url)
    await database.open()
    with tempfile.TemporaryDirectory(prefix="artifacts-") as directory:
        engine = Engine(database, Path(directory), graph, timeouts, lease_seconds)
        await engine.queue.register_workflows()
        try:
            yield engine
        finally:
            await database.close()


async def until(ask: Callable[[], Awaitable[Answer]], holds: Callable[[Answer], bool]) -> Answer:
    """The first answer of `ask` for which it holds."""
    async with asyncio.timeout(SECONDS):
        while not holds(answer := await ask()):
            pass
    return answer


async def events_of(runs: RunRepository, run_id: UUID) -> list[RunEvent]:
    """The transitions of the run, in order; none where there is no such run."""
    return [event for _, event in await runs.list_events(run_id) or ()]


@asynccontextmanager
async def locked(database_url: str, run_id: UUID) -> AsyncIterator[None]:
    """The run is in the transaction of another."""
    other = await asyncpg.connect(database_url.replace("runengine_app@", "postgres@"))
    try:
        async with other.transaction():
            await other.execute("SELECT FROM runs WHERE id = $1 FOR UPDATE", run_id)
            yield
    finally:
        await other.close()


async def without_waiting(database: asyncpg.Connection, asking: Coroutine[Any, Any, Answer]) -> Answer:
    """What the call answers. Fails as soon as a statement of it waits for a lock; `database` is a superuser's
    connection to the same database.
    """
    call = asyncio.create_task(asking)
    try:
        while not call.done():
            waits = await database.fetchval(
                """SELECT count(*) > 0 FROM pg_stat_activity
                WHERE datname = current_database() AND wait_event_type = 'Lock'"""
            )
            assert not waits, "a statement waits for a lock"
            await asyncio.wait([call], timeout=0.01)
    finally:
        call.cancel()
    return await call


class Execution:
    def __init__(self, run_id: UUID) -> None:
        self.run_id = run_id
        self.go, self.ended = asyncio.Event(), asyncio.Event()


class Held:
    """A node each of whose executions waits until it is let go, or stopped."""

    def __init__(self) -> None:
        self._arrived: asyncio.Queue[Execution] = asyncio.Queue()

    async def node(self, state: State, runtime: Runtime[RunContext]) -> State:
        execution = self.arrive(runtime)
        try:
            await execution.go.wait()
        finally:
            execution.ended.set()
        return {"seen": ["held"]}

    def arrive(self, runtime: Runtime[RunContext]) -> Execution:
        execution = Execution(runtime.context.run_id)
        self._arrived.put_nowait(execution)
        return execution

    def waiting(self) -> int:
        """How many executions have arrived that `next` has not answered."""
        return self._arrived.qsize()

    async def next(self) -> Execution:
        async with asyncio.timeout(SECONDS):
            return await self._arrived.get()


async def ended(engine: Engine, run_id: UUID) -> RunStatus:
    run = await until(lambda: engine.get(run_id), lambda run: run.status not in ("queued", "running"))
    return run.status


async def happened(event: asyncio.Event) -> None:
    """Returns once the event is set."""
    async with asyncio.timeout(SECONDS):
        await event.wait()


def database_goes_away(monkeypatch: pytest.MonkeyPatch, method: str, times: int = 1) -> None:
    """Makes the first calls of a method of HeldRunRepository raise Unavailable."""
    real = getattr(HeldRunRepository, method)
    left = [Unavailable()] * times

    async def call(*arguments: Any, **named: Any) -> Any:
        if left:
            raise left.pop()
        return await real(*arguments, **named)

    monkeypatch.setattr(HeldRunRepository, method, call)
