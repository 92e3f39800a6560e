"""A run waits for somebody, and goes on when it is resumed."""

from __future__ import annotations

import asyncio
from datetime import UTC
from typing import Any
from uuid import uuid4

import pytest
from google.protobuf.struct_pb2 import Struct
from langgraph.types import RetryPolicy, interrupt
from runengine_server.domain.errors import Fenced, InvalidArgument, RunNotWaiting
from runengine_server.domain.run import CampaignStatus, RunStatus, WaitingFor
from runengine_server.repositories.held_run_repository import HeldRunRepository
from runengine_server.repositories.queue_repository import QueueRepository
from runengine_server.worker.graph.load import Timeouts

from tests.support.own_worker import (
    ACTOR,
    Ran,
    Run,
    State,
    alone,
    chain,
    code_and_step,
    ended,
    events_of,
    fork,
    serving,
    until,
)


class Killed(BaseException):
    """The worker is no more."""


async def die(held: HeldRunRepository, *arguments: Any, **named: Any) -> None:
    raise Killed


async def test_questions_side_by_side_are_answered_one_by_one(database_url: str) -> None:
    heard: dict[str, list[Any]] = {"left": [], "right": []}

    def asking_twice(name: str) -> Any:
        async def node(state: State) -> State:
            heard[name] = [interrupt(f"{name} {number}") for number in (1, 2)]
            return {"seen": [name]}

        return node

    def questions(run: Run) -> dict[str, str]:
        return {each.value: each.id for each in run.waiting_for}

    async with serving(database_url, fork(left=asking_twice("left"), right=asking_twice("right"))) as engine:
        run = await engine.execute()
        asked = questions(run)
        assert sorted(asked) == ['"left 1"', '"right 1"']
        run = await engine.go_on(run.id, {asked['"left 1"']: "first"})
        asked = questions(run)
        assert sorted(asked) == ['"left 2"', '"right 1"']
        run = await engine.go_on(run.id, {asked['"left 2"']: None})
        asked = questions(run)
        assert sorted(asked) == ['"right 1"']
        run = await engine.go_on(run.id, {asked['"right 1"']: [1, 2.5]})
        run = await engine.go_on(run.id, {run.gate: {"deep": {"er": True}}})
        assert run.status is RunStatus.COMPLETED
        assert heard == {"left": ["first", None], "right": [[1, 2.5], {"deep": {"er": True}}]}


async def test_a_value_is_not_taken_for_the_next_question_when_its_worker_dies(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def node(state: State) -> State:
        return {"seen": [interrupt("1"), interrupt("2")]}

    inner = chain(asks=node).compile()
    async with serving(database_url, fork(outer=inner, asks=node)) as engine:
        run = await engine.execute()
        await engine.resume(run.id, {each.id: "first" for each in run.waiting_for})
        claimed = await engine.claim_expired()
        with monkeypatch.context() as patched:
            patched.setattr(HeldRunRepository, "wait", die)
            with pytest.raises(Killed):
                await engine.processor.process(claimed)
        run = await engine.process(await engine.take_over(run.id))
        assert run.status is RunStatus.RUNNING
        assert [each.value for each in run.waiting_for] == ['"2"'] * 2
        assert {each.step_id for each in run.waiting_for} == {"outer:asks", "asks"}


async def test_a_value_that_a_node_has_used_stays_when_it_fails_and_its_run_is_retried(
    database_url: str,
) -> None:
    ran, failures, values = Ran(), [RuntimeError("Once.")], []

    async def outer(state: State) -> Any:
        values.append(interrupt("Which colour?"))
        if failures:
            raise failures.pop()
        return {}

    async with serving(database_url, chain(one=ran.node("one"), outer=outer)) as engine:
        run = await engine.execute()
        run = await engine.go_on(run.id, {run.gate: "red"})
        assert run.status is RunStatus.FAILED
        run = await engine.execute_again(run.id)
        assert run.status is RunStatus.COMPLETED
        assert values == ["red", "red"]
        assert await engine.executions(run.id) == [
            "one 1 completed",
            "outer 1 failed STEP_FAILED",
            "outer 2 completed",
        ]


async def ask(state: State) -> State:
    return {"seen": [interrupt({"text": "Publish?", "max": 3})]}


async def test_a_run_that_waits_shows_for_what_and_nothing_else_changes(database_url: str) -> None:
    async with serving(database_url, chain(ask=ask)) as engine:
        run = await engine.execute()
        (waiting,) = run.waiting_for
        assert run.status is RunStatus.RUNNING
        assert (run.completed_at, run.error) == (None, None)
        assert (waiting.step_id, waiting.value) == ("ask", '{"text":"Publish?","max":3}')
        assert not waiting.HasField("note")
        assert run.started_at is not None
        assert run.started_at <= waiting.since.ToDatetime(UTC) <= run.updated_at
        resumed = await engine.resume(run.id, {waiting.id: "yes"})
        assert resumed == await engine.get(run.id)
        assert (resumed.status, resumed.waiting_for) == (RunStatus.RUNNING, [])
        assert resumed.updated_at > run.updated_at


async def test_a_run_that_waits_has_a_step_that_is_due_and_takes_its_attempt_up_again(
    database_url: str,
) -> None:
    async with serving(database_url, chain(ask=ask)) as engine:
        run = await engine.execute()
        assert await engine.executions(run.id) == ["ask 1 pending"]
        run = await engine.go_on(run.id, {run.gate: "yes"})
        assert await engine.executions(run.id) == ["ask 1 completed"]


async def test_the_timeline_tells_who_resumed_a_run(database_url: str) -> None:
    async with serving(database_url, chain(ask=ask)) as engine:
        run = await engine.execute()
        await engine.go_on(run.id, {run.gate: "yes"})
        events = await events_of(engine.runs, run.id)
        assert [(each.reason, each.actor) for each in events] == [
            ("TRIGGERED", ACTOR.name),
            ("CLAIMED", "worker:test"),
            ("WAITING", "worker:test"),
            ("RESUMED", ACTOR.name),
            ("TAKEN_OVER", "worker:test"),
            ("COMPLETED", "worker:test"),
        ]


async def test_a_run_that_waits_is_claimed_by_nobody_and_holds_no_place(database_url: str) -> None:
    async with serving(database_url, chain(ask=ask)) as engine:
        limited = QueueRepository(engine.database, "worker:test", [engine.workflow], 30, running_limit=1)
        await engine.execute()
        await engine.trigger()
        assert await engine.queue.claim_expired(10) == []
        (claimed,) = await limited.claim_queued(10)
        await engine.trigger()
        assert await limited.claim_queued(10) == []
        await engine.process(claimed)
        assert len(await limited.claim_queued(10)) == 1


async def test_a_worker_that_wakes_while_its_run_waits_changes_nothing(database_url: str) -> None:
    async with serving(database_url, chain(ask=ask)) as engine:
        await engine.trigger()
        claimed = await engine.claim()
        run = await engine.process(claimed)
        zombie = HeldRunRepository(engine.database, claimed, "worker:zombie")
        with pytest.raises(Fenced):
            await zombie.begin_step(uuid4(), "ask", "ask", False)
        with pytest.raises(Fenced):
            await zombie.wait([WaitingFor("other", "ask")], None, Struct())
        assert await engine.get(run.id) == run


async def test_the_time_that_a_run_waits_does_not_count_for_its_time_limit(database_url: str) -> None:
    async with serving(database_url, chain(ask=ask), Timeouts(run=60)) as engine:
        run = await engine.execute()
        await engine.tenant.fetch(
            """UPDATE runs SET started_at = started_at - interval '2 hours',
            waiting_since = waiting_since - interval '2 hours' WHERE id = $1""",
            run.id,
        )
        await engine.resume(run.id, {run.gate: "yes"})
        claimed = await engine.claim_expired()
        assert claimed.running_seconds < 60
        assert (await engine.process(claimed)).status is RunStatus.COMPLETED


async def test_a_run_that_nobody_resumes_in_time_fails_with_its_campaign(database_url: str) -> None:
    graph = chain(ask=ask)
    graph.metadata = {"waiting_timeout_seconds": 3600}  # type: ignore[attr-defined]
    async with serving(database_url, graph) as engine:
        campaign = await engine.campaigns.insert(uuid4())
        await engine.trigger(campaign_id=campaign.id)
        run = await engine.process(await engine.claim())
        assert await engine.queue.claim_expired(10) == []
        await engine.tenant.fetch(
            "UPDATE runs SET waiting_expires_at = now() - interval '1 second' WHERE id = $1", run.id
        )
        claimed = await engine.claim_expired()
        assert (await engine.get(run.id)).waiting_for == []
        failed = await engine.process(claimed)
        assert code_and_step(failed.error) == ("WAITING_TIMED_OUT", None)
        assert failed.error is not None
        assert failed.error.retryable
        assert await engine.executions(run.id) == ["ask 1 skipped"]
        assert (await engine.campaign(campaign.id)).status is CampaignStatus.FAILED
        assert (await engine.execute_again(run.id)).waiting_for


@pytest.mark.parametrize("ids", [["other"], ["own", "other"]])
async def test_an_id_that_a_run_does_not_wait_for_changes_nothing(database_url: str, ids: list[str]) -> None:
    async with serving(database_url, chain(ask=ask)) as engine:
        run = await engine.execute()
        values = {run.gate if each == "own" else each: True for each in ids}
        with pytest.raises(InvalidArgument):
            await engine.resume(run.id, values)
        assert await engine.get(run.id) == run


async def test_a_run_goes_on_once_however_often_it_is_resumed_at_once(database_url: str) -> None:
    async with serving(database_url, chain(ask=ask)) as engine:
        run = await engine.execute()
        calls = (engine.resume(run.id, {run.gate: number}) for number in range(5))
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(each, RunNotWaiting) for each in results) == 4
        assert len(await engine.queue.claim_expired(10)) == 1


async def test_a_value_that_cannot_be_shown_is_a_note(database_url: str) -> None:
    left, right = ("x" * 40_000, "y" * 40_000)
    graph = fork(
        left=lambda state: interrupt(left),
        right=lambda state: interrupt(right),
        odd=lambda state: interrupt({("a", "b"): 1}),
    )
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        notes = {each.step_id: each.note for each in run.waiting_for if each.HasField("note")}
        assert notes["odd"] == "The value cannot be shown as JSON."
        assert len(notes) == 2
        assert "The value takes 40,002 bytes of JSON, and is not shown." in notes.values()
        run = await engine.go_on(run.id, {each.id: None for each in run.waiting_for})
        assert run.status is RunStatus.COMPLETED


async def test_a_node_that_asks_is_tried_again_with_the_same_value(database_url: str) -> None:
    values, failures = [], [ConnectionError("Once.")]

    async def node(state: State) -> State:
        values.append(interrupt("Which colour?"))
        if failures:
            raise failures.pop()
        return {}

    policy = RetryPolicy(initial_interval=0.001, jitter=False)
    async with serving(database_url, alone("node", node, retry_policy=policy)) as engine:
        run = await engine.execute()
        run = await engine.go_on(run.id, {run.gate: "red"})
        assert run.status is RunStatus.COMPLETED
        assert values == ["red", "red"]


async def test_workers_take_up_a_run_that_is_resumed(database_url: str) -> None:
    async with serving(database_url, chain(ask=ask, last=Ran().node("last"))) as engine, engine.working():
        run_id = await engine.trigger()
        waiting = await until(lambda: engine.get(run_id), lambda run: bool(run.waiting_for))
        await engine.resume(run_id, {waiting.gate: "yes"})
        assert await ended(engine, run_id) is RunStatus.COMPLETED


@pytest.mark.parametrize("checkpointer", [None, True, False])
async def test_a_question_in_a_sub_graph_is_answered_whatever_its_checkpoints(
    database_url: str, checkpointer: Any
) -> None:
    inner = chain(ask=ask).compile(checkpointer=checkpointer)

    async def call(state: State) -> Any:
        return await inner.ainvoke(state)

    for outer in (inner, call):
        async with serving(database_url, chain(outer=outer, last=Ran().node("last"))) as engine:
            run = await engine.execute()
            assert run.status is RunStatus.RUNNING, run.error
            run = await engine.go_on(run.id, {run.gate: "yes"})
            assert run.status is RunStatus.COMPLETED, (run.error, run.waiting_for)
            stored = await engine.runs.get_output(run.id)
            assert stored is not None
            assert stored.encoded is not None
            assert b'"yes"' in stored.encoded
