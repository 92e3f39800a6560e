"""The checkpoint saver against LangGraph's conformance suite, against workers that lost their run, and
what is kept of a run that has ended.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Annotated, Any, TypedDict
from uuid import UUID, uuid4

import asyncpg
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointMetadata, empty_checkpoint
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.report import CapabilityResult
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from runengine.context import RunContext
from runengine.v1.run_service_pb2 import TriggerRunRequest
from runengine_server.commands.trigger_run import trigger_run
from runengine_server.domain.errors import Fenced, Unavailable
from runengine_server.domain.run import ClaimedRun, Failure, NewRun, RunStatus
from runengine_server.repositories.artifact_store import ArtifactStore
from runengine_server.repositories.held_run_repository import HeldRunRepository
from runengine_server.worker.graph.checkpointer import FencedCheckpointer
from runengine_server.worker.graph.recorded_node import Execution, Lost

from tests.integration.harness import ACTOR, Engine, Graph, Ran, Run, chain, happened, serving, until

Write = Callable[[FencedCheckpointer], Awaitable[Any]]
METADATA: CheckpointMetadata = {"source": "loop", "step": 0, "parents": {}}


def saver_of(engine: Engine, run: ClaimedRun) -> FencedCheckpointer:
    held = HeldRunRepository(engine.database, run, "worker:test")
    return FencedCheckpointer(Execution(held, ArtifactStore(engine.directory)))


async def claimed(engine: Engine) -> ClaimedRun:
    await engine.trigger()
    return await engine.claim()


def config_of(run: ClaimedRun) -> RunnableConfig:
    return {"configurable": {"thread_id": str(run.id), "checkpoint_ns": ""}}


async def put(saver: FencedCheckpointer, run: ClaimedRun) -> RunnableConfig:
    """A checkpoint with what one task wrote on top of it."""
    stored = await saver.aput(config_of(run), empty_checkpoint(), METADATA, {})
    await saver.aput_writes(stored, [("seen", ["one"])], str(uuid4()))
    await flush(saver)
    return stored


async def flush(saver: FencedCheckpointer) -> None:
    """What the next statement of the run would do."""
    await saver._execution.engine(saver._execution.held.flush())


def id_of(stored: RunnableConfig) -> str:
    return str(stored["configurable"]["checkpoint_id"])


async def listed(saver: FencedCheckpointer, run: ClaimedRun) -> list[str]:
    return [id_of(each.config) async for each in saver.alist(config_of(run))]


async def rows(database: asyncpg.Connection, run_id: UUID) -> list[asyncpg.Record]:
    """All that is stored of a run's checkpoints, whoever asks."""
    return [
        row
        for table in ("checkpoints", "checkpoint_writes")
        for row in await database.fetch(f"SELECT * FROM {table} WHERE run_id = $1 ORDER BY {table}", run_id)
    ]


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[Engine]:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        yield engine


# Conformance.


class RunOfThread:
    """Gives each thread of the suite a saver of its own, for a run of the thread's id that was queued and
    claimed like any other.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._savers: dict[str, FencedCheckpointer] = {}

    async def saver(self, thread_id: str) -> FencedCheckpointer:
        if thread_id not in self._savers:
            new = NewRun(UUID(thread_id), TriggerRunRequest(workflow_name=self._engine.workflow))
            await trigger_run(self._engine.runs, new, ACTOR, None, None)
            self._savers[thread_id] = saver_of(self._engine, await self._engine.claim())
        return self._savers[thread_id]

    def serve(self, saver: FencedCheckpointer) -> None:
        """Makes calls to `saver` go to the one of their thread. Its class stays what it is, so that the
        suite finds there what the saver can do, and not what this can.
        """

        async def aput(config: RunnableConfig, *more: Any) -> RunnableConfig:
            return await (await self._of(config)).aput(config, *more)

        async def aput_writes(config: RunnableConfig, *more: Any, **named: Any) -> None:
            await (await self._of(config)).aput_writes(config, *more, **named)

        async def aget_tuple(config: RunnableConfig) -> Any:
            return await (await self._of(config)).aget_tuple(config)

        async def alist(config: RunnableConfig, **named: Any) -> AsyncIterator[Any]:
            async for each in (await self._of(config)).alist(config, **named):
                yield each

        async def adelete_thread(thread_id: str) -> None:
            await (await self.saver(thread_id)).adelete_thread(thread_id)

        async def aprune(thread_ids: Sequence[str], **named: Any) -> None:
            for thread_id in thread_ids:
                await (await self.saver(thread_id)).aprune([thread_id], **named)

        for method in (aput, aput_writes, aget_tuple, alist, adelete_thread, aprune):
            setattr(saver, method.__name__, method)

    async def _of(self, config: RunnableConfig) -> FencedCheckpointer:
        return await self.saver(config["configurable"]["thread_id"])


@pytest.mark.parametrize(
    ("capability", "tests"),
    [("put", 17), ("put_writes", 10), ("get_tuple", 10), ("list", 16), ("delete_thread", 5), ("prune", 8)],
)
async def test_the_saver_passes_every_test_of_the_conformance_suite_for(
    engine: Engine, capability: str, tests: int
) -> None:
    @checkpointer_test(name="FencedCheckpointer")
    async def savers() -> AsyncGenerator[BaseCheckpointSaver[str], None]:
        threads = RunOfThread(engine)
        saver = saver_of(engine, await claimed(engine))
        threads.serve(saver)
        yield saver

    report = await validate(savers, capabilities={capability})
    assert report.results[capability] == CapabilityResult(True, True, tests_passed=tests)


# What the saver refuses.


def writes_of(run: ClaimedRun) -> dict[str, Write]:
    thread = str(run.id)
    checkpoint = empty_checkpoint()
    on: RunnableConfig = {
        "configurable": {**config_of(run)["configurable"], "checkpoint_id": checkpoint["id"]}
    }
    return {
        "aput": lambda saver: saver.aput(config_of(run), checkpoint, METADATA, {}),
        "aput_writes": lambda saver: saver.aput_writes(on, [("seen", ["late"])], str(uuid4())),
        "adelete_thread": lambda saver: saver.adelete_thread(thread),
        "aprune": lambda saver: saver.aprune([thread]),
        "aprune of everything": lambda saver: saver.aprune([thread], strategy="delete"),
    }


WRITES = ["aput", "aput_writes", "adelete_thread", "aprune", "aprune of everything"]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("ending", ["taken over", "cancelled", "ended"])
async def test_a_worker_that_lost_its_run_changes_no_checkpoint(
    engine: Engine, database: asyncpg.Connection, write: str, ending: str
) -> None:
    run = await claimed(engine)
    lost = saver_of(engine, run)
    await put(lost, run)
    await put(lost, run)
    if ending == "taken over":
        await engine.take_over(run.id)
    elif ending == "cancelled":
        await engine.cancel(run.id)
    else:
        await fail(engine, run)
    before = await rows(database, run.id)
    assert before
    with pytest.raises(Lost) as raised:  # noqa: PT012
        await writes_of(run)[write](lost)
        await flush(lost)
    assert isinstance(raised.value.__cause__, Fenced)
    assert await rows(database, run.id) == before


@pytest.mark.parametrize("write", WRITES)
async def test_another_tenant_neither_sees_nor_changes_a_checkpoint(
    engine: Engine, database: asyncpg.Connection, write: str
) -> None:
    run = await claimed(engine)
    stored = await put(saver_of(engine, run), run)
    before = await rows(database, run.id)
    foreign = saver_of(engine, replace(run, tenant_id=f"org_{uuid4().hex}"))
    assert await foreign.aget_tuple(config_of(run)) is None
    assert await foreign.aget_tuple(stored) is None
    assert await listed(foreign, run) == []
    with pytest.raises(Lost):  # noqa: PT012
        await writes_of(run)[write](foreign)
        await flush(foreign)
    assert await rows(database, run.id) == before


@pytest.mark.parametrize("write", WRITES)
async def test_another_thread_than_that_of_the_run_is_refused(
    engine: Engine, database: asyncpg.Connection, write: str
) -> None:
    """Even one of a run that the same worker holds."""
    run, other = await claimed(engine), await claimed(engine)
    await put(saver_of(engine, other), other)
    before = await rows(database, other.id)
    saver = saver_of(engine, run)
    with pytest.raises(ValueError, match="under its own thread"):
        await saver.aget_tuple(config_of(other))
    with pytest.raises(ValueError, match="under its own thread"):
        await listed(saver, other)
    with pytest.raises(ValueError, match="under its own thread"):
        await writes_of(other)[write](saver)
    assert await rows(database, other.id) == before
    assert await rows(database, run.id) == []


async def test_to_prune_no_thread_or_by_an_unknown_strategy_deletes_nothing(
    engine: Engine, database: asyncpg.Connection
) -> None:
    run = await claimed(engine)
    saver = saver_of(engine, run)
    await put(saver, run)
    await put(saver, run)
    before = await rows(database, run.id)
    await saver.aprune([])
    with pytest.raises(ValueError, match="keep_most"):
        await saver.aprune([str(run.id)], strategy="keep_most")
    assert await rows(database, run.id) == before


# Which checkpoint is current.


async def test_after_a_take_over_by_a_clock_an_hour_behind_the_one_stored_last_is_current(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await claimed(engine)
    first = await put(saver_of(engine, run), run)
    successor = await engine.take_over(run.id)
    saver = saver_of(engine, successor)
    behind = SimpleNamespace(time_ns=lambda: time.time_ns() - 3600 * 10**9)
    monkeypatch.setattr("langgraph.checkpoint.base.id.time", behind)
    monkeypatch.setattr("langgraph.checkpoint.base.id._last_v6_timestamp", None)
    second, third = await put(saver, successor), await put(saver, successor)
    assert id_of(second) < id_of(third) < id_of(first)

    async def current() -> str:
        found = await saver.aget_tuple(config_of(run))
        assert found is not None
        return id_of(found.config)

    assert await current() == id_of(third)
    assert await listed(saver, run) == [id_of(third), id_of(second), id_of(first)]
    before = [each async for each in saver.alist(config_of(run), before=second)]
    assert [id_of(each.config) for each in before] == [id_of(first)]
    assert [id_of(each.config) async for each in saver.alist(second)] == [id_of(second)]
    await saver.aprune([str(run.id)])
    assert await current() == id_of(third)
    assert await listed(saver, run) == [id_of(third)]


# What is kept of a run that has ended.


async def fail(engine: Engine, run: ClaimedRun) -> None:
    async with HeldRunRepository(engine.database, run, "worker:test").end() as ending:
        await ending.fail(Failure("STEP_FAILED", "x", "one", run.attempt, True))


async def kept(database: asyncpg.Connection, run_id: UUID) -> tuple[list[str], set[str]]:
    """The namespaces of the checkpoints, without the ids of tasks, and those that only writes have."""
    checkpoints = await database.fetch(
        "SELECT checkpoint_ns, checkpoint_id FROM checkpoints WHERE run_id = $1", run_id
    )
    writes = await database.fetch(
        "SELECT DISTINCT checkpoint_ns, checkpoint_id FROM checkpoint_writes WHERE run_id = $1", run_id
    )
    orphans = {tuple(each) for each in writes} - {tuple(each) for each in checkpoints}
    return sorted(each["checkpoint_ns"].partition(":")[0] for each in checkpoints), {
        str(each) for each in orphans
    }


class Held:
    """Nodes that note that they ran; `held` ends as the test wants, the first time."""

    def __init__(self) -> None:
        self.ran = Ran()
        self.arrived = asyncio.Event()
        self.go_on = asyncio.Event()
        self.fails = True

    async def held(self, state: Any) -> dict[str, Any]:
        self.ran.names.append("held")
        self.arrived.set()
        await happened(self.go_on)
        if self.fails:
            self.fails = False
            raise RuntimeError("Once.")
        return {"seen": ["held"]}


async def end(engine: Engine, nodes: Held, ending: str, after: str | None = None) -> Run:
    """A run that ended while its node was held, and after that execution of another step."""
    run = await claimed(engine)
    processing = asyncio.create_task(engine.process(run))
    await happened(nodes.arrived)
    if after is not None:
        await until(lambda: engine.executions(run.id), lambda steps: after in steps)
    if ending == "cancelled":
        nodes.fails = False
        await engine.cancel(run.id)
    nodes.go_on.set()
    return await processing


@pytest.mark.parametrize("ending", ["failed", "cancelled"])
async def test_of_a_run_that_ends_without_completing_only_what_a_retry_resumes_from_is_kept(
    database_url: str, database: asyncpg.Connection, ending: str
) -> None:
    """The retry resumes: the steps that were completed do not run again, neither before the pruned
    checkpoint nor beside the one that was stopped, whose writes are on the current checkpoint.
    """
    nodes = Held()
    graph = chain(one=nodes.ran.node("one"), two=nodes.ran.node("two"), held=nodes.held)
    graph.add_node("beside", nodes.ran.node("beside"))
    graph.add_edge("two", "beside")
    graph.add_node("last", nodes.ran.node("last"))
    graph.add_edge(["held", "beside"], "last")
    async with serving(database_url, graph) as engine:
        run = await end(engine, nodes, ending, after="beside 1 completed")
        assert run.status == ending
        assert await kept(database, run.id) == ([""], set())
        assert await database.fetchval("SELECT count(*) FROM checkpoint_writes WHERE run_id = $1", run.id)
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
        assert sorted(nodes.ran.names) == ["beside", "held", "held", "last", "one", "two"]
        assert await rows(database, run.id) == []


@pytest.mark.parametrize("ending", ["failed", "cancelled"])
async def test_a_sub_graph_that_stopped_at_its_second_node_resumes_there_after_pruning(
    database_url: str, database: asyncpg.Connection, ending: str
) -> None:
    """Each namespace has a current checkpoint: the graph's, and that of the sub-graph within its task."""
    nodes = Held()
    inner = chain(inner_one=nodes.ran.node("inner_one"), held=nodes.held, inner_last=nodes.ran.node("inner"))
    graph = chain(one=nodes.ran.node("one"), inner=inner.compile(), last=nodes.ran.node("last"))
    async with serving(database_url, graph) as engine:
        run = await end(engine, nodes, ending)
        assert run.status == ending
        assert await kept(database, run.id) == (["", "inner"], set())
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
        assert nodes.ran.names == ["one", "inner_one", "held", "held", "inner", "last"]
        assert await rows(database, run.id) == []


def extend(state: list[str], writes: Sequence[Any]) -> list[str]:
    return state + [each for write in writes for each in write]


class Snapshots(TypedDict, total=False):
    seen: Annotated[list[str], DeltaChannel(extend, snapshot_frequency=1)]


class Deltas(TypedDict, total=False):
    seen: Annotated[list[str], DeltaChannel(extend, snapshot_frequency=100)]
    bundle_artifact_id: str


def chain_on(schema: type[Any], **nodes: Any) -> Graph:
    graph: Graph = StateGraph(schema)
    graph.add_sequence(list(nodes.items()))
    graph.add_edge(START, next(iter(nodes)))
    return graph


@pytest.mark.parametrize("ending", ["failed", "cancelled"])
@pytest.mark.parametrize(("schema", "checkpoints"), [(Snapshots, 1), (Deltas, 3)])
async def test_what_a_delta_channel_is_replayed_from_is_kept(
    database_url: str, database: asyncpg.Connection, ending: str, schema: type[Any], checkpoints: int
) -> None:
    """Its value may be in no checkpoint, but in the writes on all of them since it has one."""
    nodes = Held()
    found: list[str] = []

    async def last(state: Any) -> dict[str, Any]:
        found.extend(state["seen"])
        return {}

    one, two = nodes.ran.node("one"), nodes.ran.node("two")
    graph = chain_on(schema, one=one, two=two, held=nodes.held, last=last)
    async with serving(database_url, graph) as engine:
        run = await end(engine, nodes, ending)
        assert run.status == ending
        assert await kept(database, run.id) == ([""] * checkpoints, set())
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
        assert nodes.ran.names == ["one", "two", "held", "held"]
        assert found == ["one", "two", "held"]


async def test_replaying_a_delta_channel_does_not_take_the_bundle_from_a_run_that_resumes(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker was lost before it ended the run, whose state is then read, and no longer saved."""

    def go_away(held: HeldRunRepository) -> None:
        raise Unavailable

    async def save(state: Any, runtime: Runtime[RunContext]) -> dict[str, Any]:
        saved = await runtime.context.save_artifact("bundle", b"bundle", "text/plain")
        return {"seen": ["save"], "bundle_artifact_id": saved}

    campaign_id = uuid4()
    async with serving(database_url, chain_on(Deltas, one=Ran().node("one"), save=save)) as engine:
        await engine.campaigns.insert(campaign_id)
        run_id = await engine.trigger(campaign_id=campaign_id)
        with monkeypatch.context() as patched:
            patched.setattr(HeldRunRepository, "end", go_away)
            with pytest.raises(Unavailable):
                await engine.process(await engine.claim())
        assert (await engine.process(await engine.take_over(run_id))).status is RunStatus.COMPLETED
        assert (await engine.campaign(campaign_id)).bundle_url is not None


async def test_a_run_that_is_cancelled_before_it_is_claimed_again_still_resumes(
    database_url: str, database: asyncpg.Connection
) -> None:
    nodes = Held()
    graph = chain(one=nodes.ran.node("one"), held=nodes.held)
    async with serving(database_url, graph) as engine:
        run = await end(engine, nodes, "failed")
        await engine.retry(run.id)
        await engine.cancel(run.id)
        assert await kept(database, run.id) == ([""], set())
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
        assert nodes.ran.names == ["one", "held", "held"]
