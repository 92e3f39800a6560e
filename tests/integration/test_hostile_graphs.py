"""A graph that is wrong in ways its author did not mean must not hurt the engine, or other runs."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import asyncpg
import pytest
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import RetryPolicy
from runengine.context import RunContext
from runengine_server.database.database import Database
from runengine_server.domain.errors import Unavailable
from runengine_server.domain.run import ClaimedRun, RunStatus
from runengine_server.logs import frames_of
from runengine_server.repositories.held_run_repository import HeldRunRepository
from runengine_server.repositories.queue_repository import QueueRepository

from tests.support.own_worker import State, alone, chain, serving, until


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even words")


class Panic(BaseException):
    pass


def raising(error: BaseException) -> Any:
    async def node(state: State) -> NoReturn:
        raise error

    return node


NO_CODE = "AttributeError: 'ValueError' object has no attribute 'code'"


def ask_for_code(error: Any) -> bool:
    return bool(error.code == 503)


def leave(state: State) -> NoReturn:
    sys.exit(3)


@pytest.mark.parametrize(
    ("node", "options", "message"),
    [
        # LangGraph asks the function too, and what that raises takes the place of the error.
        (raising(ValueError("x")), {"retry_policy": RetryPolicy(retry_on=ask_for_code)}, NO_CODE),
        (raising(Speechless()), {}, "Speechless"),
        (raising(Panic("now")), {}, "NodeExited: Panic: now"),
        (raising(SystemExit(3)), {}, "NodeExited: SystemExit: 3"),
        (leave, {}, "NodeExited: SystemExit: 3"),
    ],
)
async def test_an_exception_of_a_node_fails_its_step_and_its_run_once(
    database_url: str, node: Any, options: dict[str, Any], message: str
) -> None:
    async with serving(database_url, alone("node", node, **options)) as engine:
        run = await engine.execute()
        assert run.error is not None
        assert (run.error.step_id, run.error.message) == ("node", message)
        assert await engine.executions(run.id) == ["node 1 failed STEP_FAILED"]


async def leave_asynchronously(state: State) -> NoReturn:
    sys.exit(3)


@pytest.mark.parametrize("node", [leave, leave_asynchronously], ids=["sync", "async"])
@pytest.mark.parametrize("seconds", [None, 60], ids=["without a limit", "with a limit"])
@pytest.mark.parametrize("is_called", [False, True], ids=["a sub-graph", "a graph that a node calls"])
async def test_a_node_of_a_graph_within_another_cannot_end_the_worker(
    database_url: str, node: Any, seconds: int | None, is_called: bool
) -> None:
    """SystemExit in a task of asyncio ends its event loop, and with that this test."""
    inner = alone("inner", node, metadata={"timeout_seconds": seconds} if seconds else {}).compile()

    async def call(state: State) -> Any:
        return await inner.ainvoke(state)

    async with serving(database_url, alone("node", call if is_called else inner)) as engine:
        run = await engine.execute()
        assert run.error is not None
        assert run.error.message.startswith("NodeExited: SystemExit: 3")
        assert await engine.executions(run.id) == [
            "node 1 failed STEP_FAILED", "node:inner 1 failed STEP_FAILED",
        ]  # fmt: skip


@pytest.mark.parametrize("error", [Speechless(), Panic()])
async def test_an_exception_of_an_edge_fails_its_run(database_url: str, error: BaseException) -> None:
    graph = chain(node=lambda state: {})

    def choose(state: State) -> NoReturn:
        raise error

    graph.add_conditional_edges("node", choose, ["node"])
    async with serving(database_url, graph) as engine:
        assert (await engine.execute()).status is RunStatus.FAILED


@pytest.mark.parametrize("of", [START, "node"])
@pytest.mark.parametrize("leave", [leave, leave_asynchronously], ids=["sync", "async"])
@pytest.mark.parametrize("is_within", [False, True], ids=["at the top", "of a sub-graph"])
async def test_an_edge_cannot_end_the_worker(database_url: str, of: str, leave: Any, is_within: bool) -> None:
    """As above."""
    graph: StateGraph[Any, Any, Any, Any] = StateGraph(State)
    graph.add_node("node", lambda state: {})
    graph.add_conditional_edges(of, leave, ["node"])
    if of != START:
        graph.add_edge(START, "node")
    async with serving(database_url, alone("outer", graph.compile()) if is_within else graph) as engine:
        run = await engine.execute()
        assert run.error is not None
        assert run.error.message.startswith("NodeExited: SystemExit: 3")


async def test_a_run_that_cannot_be_ended_is_left_to_its_lease_and_counted(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Handed back, it would be executed again at once, and again, and never be lost often enough."""
    processed: list[ClaimedRun] = []

    async with serving(database_url, chain(node=lambda state: {})) as engine:

        async def process(run: ClaimedRun, *_: Any) -> None:
            processed.append(run)
            raise RuntimeError("a fault of the engine")

        monkeypatch.setattr(engine.processor, "process", process)
        monkeypatch.setattr("runengine_server.worker.worker.POLL_SECONDS", 0.01)
        run_id = await engine.trigger()
        async with engine.working():
            for losses in range(3):
                await until(lambda: engine.losses(run_id), lambda _: len(processed) > losses)  # noqa: B023
                assert await engine.losses(run_id) == losses
                assert len(processed) == losses + 1
                await engine.lose(run_id)


async def test_a_database_that_only_reads_is_unavailable_in_our_words(
    database_url: str, database: asyncpg.Connection
) -> None:
    """As after a failover, or when a disk is full."""
    readonly = f"{database_url}&options=-c%20default_transaction_read_only%3Don"
    pool = Database(readonly, 2)
    await pool.open()
    queue = QueueRepository(pool, "test", [], 1)
    for call in (queue.register_workflows, lambda: queue.claim_queued(1), queue.purge_expired):
        with pytest.raises(Unavailable) as unavailable:
            await call()
        assert "read-only" not in str(unavailable.value)
    await pool.close()


async def test_an_artifact_is_kept_when_only_the_response_to_its_commit_was_lost(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = HeldRunRepository.save_artifact

    async def save_artifact(*arguments: Any) -> None:
        await real(*arguments)
        raise Unavailable

    async def save(state: State, runtime: Runtime[RunContext]) -> State:
        await runtime.context.save_artifact("a.txt", b"a", "text/plain")
        return {}

    monkeypatch.setattr(HeldRunRepository, "save_artifact", save_artifact)
    async with serving(database_url, chain(save=save)) as engine:
        await engine.trigger()
        with pytest.raises(Unavailable):
            await engine.process(await engine.claim())
        rows = await engine.tenant.fetch("SELECT key FROM artifacts")
        assert [(engine.directory / row["key"]).read_bytes() for row in rows] == [b"a"]


async def test_a_table_without_forced_row_level_security_is_refused_at_start(
    database_url: str, database: asyncpg.Connection
) -> None:
    pool = Database(database_url, 1)
    await pool.open()
    assert await pool.check() is None
    await database.execute("ALTER TABLE step_cache NO FORCE ROW LEVEL SECURITY")
    try:
        assert await pool.check() == "the table step_cache has no forced row-level security"
    finally:
        await database.execute("ALTER TABLE step_cache FORCE ROW LEVEL SECURITY")
        await pool.close()


def test_an_exception_that_is_its_own_cause_can_be_logged() -> None:
    error = ValueError("hush")
    error.__cause__ = error
    assert frames_of(error) == "builtins.ValueError"
