"""What is kept of the checkpoints of a run that has ended, and that a retry resumes from it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, TypedDict
from uuid import UUID, uuid4

import asyncpg
import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from runengine.context import RunContext
from runengine_server.domain.errors import Unavailable
from runengine_server.domain.run import RunStatus
from runengine_server.repositories.held_run_repository import HeldRunRepository

from tests.support.own_worker import Engine, Graph, Ran, Run, chain, happened, serving, until
from tests.support.saver import claimed, rows


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
async def test_checkpoints_that_a_delta_channel_is_replayed_from_are_kept(
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
