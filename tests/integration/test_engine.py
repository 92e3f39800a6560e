"""What the engine makes of graphs that fail, hang, time out, and of a database that goes away."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Annotated, Any, TypedDict
from uuid import UUID, uuid4

import pytest
from langgraph.channels import UntrackedValue
from langgraph.errors import NodeTimeoutError
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import CachePolicy, Command, RetryPolicy, Send
from pydantic import BaseModel
from runengine.context import RunContext
from runengine_server.domain.errors import Unavailable
from runengine_server.domain.run import CampaignStatus, Failure, RunStatus
from runengine_server.repositories.held_run_repository import HeldRunRepository
from runengine_server.repositories.write_behind import StoredCheckpoint

from tests.support.own_worker import (
    Graph,
    Ran,
    State,
    alone,
    chain,
    database_goes_away,
    fork,
    happened,
    serving,
)
from tests.support.time_limits import ENTERED, in_the_node
from tests.support.patience import SECONDS

NO_ARTIFACT = "00000000-0000-0000-0000-000000000000"
AT_ONCE = RetryPolicy(initial_interval=0, jitter=False, retry_on=Exception)


def code_and_step(error: Failure | None) -> tuple[str, str | None]:
    assert error is not None
    return error.code, error.step_id


async def save_bundle(state: State, runtime: Runtime[RunContext]) -> State:
    return {"bundle_artifact_id": await runtime.context.save_artifact("bundle", b"bundle", "text/plain")}


# Edges.


async def test_after_an_edge_that_raised_a_retry_runs_its_node_and_what_follows(database_url: str) -> None:
    ran = Ran()
    refusals = [RuntimeError("No way leads on.")]

    def choose(state: State) -> str:
        if refusals:
            raise refusals.pop()
        return "last"

    graph = chain(first=ran.node("first"))
    graph.add_node("last", ran.node("last"))
    graph.add_conditional_edges("first", choose, ["last"])
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert code_and_step(run.error) == ("STEP_FAILED", "first")
        assert await engine.executions(run.id) == ["first 1 failed STEP_FAILED"]
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
        assert ran.names == ["first", "first", "last"]
        assert (await engine.executions(run.id))[1:] == ["first 2 completed", "last 1 completed"]


@pytest.mark.parametrize("how", ["a parallel step fails", "the run is cancelled", "the worker stops"])
async def test_a_node_whose_edge_was_stopped_runs_again_with_what_follows(
    database_url: str, how: str
) -> None:
    ran = Ran()
    choosing, choices = asyncio.Event(), count()
    failures = [RuntimeError("The other one failed.")] if how == "a parallel step fails" else []

    async def choose(state: State) -> str:
        if next(choices) == 0:
            choosing.set()
            await asyncio.Event().wait()
        return "last"

    async def other(state: State) -> State:
        if failures:
            await choosing.wait()
            raise failures.pop()
        return {}

    graph = fork(first=ran.node("first"), other=other)
    graph.add_node("last", ran.node("last"))
    graph.add_conditional_edges("first", choose, ["last"])
    async with serving(database_url, graph) as engine:
        run_id = await engine.trigger()
        claimed = await engine.claim()
        execution = asyncio.create_task(engine.process(claimed))
        await happened(choosing)
        if how == "a parallel step fails":
            await execution
            assert (await engine.get(run_id)).status is RunStatus.FAILED
        else:
            if how == "the run is cancelled":
                await engine.cancel(run_id)
            execution.cancel()
            await asyncio.wait([execution])
        if how == "the worker stops":
            await engine.queue.hand_back([claimed])
            (claimed,) = await engine.queue.claim_expired(1)
        else:
            await engine.retry(run_id)
            claimed = await engine.claim()
        assert (await engine.process(claimed)).status is RunStatus.COMPLETED
        assert ran.names == ["first", "first", "last"]
        executions = await engine.executions(run_id)
        assert {"first 2 completed", "last 1 completed"} <= set(executions)


# Time limits.


@in_the_node
async def test_a_node_that_runs_into_its_time_limit_is_a_step_that_timed_out(database_url: str) -> None:
    async def slow(state: State) -> State:
        ENTERED.set()
        await asyncio.Event().wait()
        return {}

    graph = alone("slow", slow, timeout=0.1)
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert code_and_step(run.error) == ("STEP_TIMED_OUT", "slow")
        assert await engine.executions(run.id) == ["slow 1 failed STEP_TIMED_OUT"]


async def test_a_node_with_a_time_limit_has_the_context_of_its_own_step(database_url: str) -> None:
    keys: list[str] = []

    async def save(state: State, runtime: Runtime[RunContext]) -> State:
        keys.append(runtime.context.idempotency_key)
        await runtime.context.save_artifact("a.txt", b"a", "text/plain")
        return {}

    graph: Graph = StateGraph(State)
    for name in ("one", "two"):
        graph.add_node(name, save, timeout=SECONDS)
    graph.add_edge(START, "one")
    graph.add_edge("one", "two")
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        steps = await engine.runs.list_steps(run.id, None)
        assert steps is not None
        assert [(step.step_id, len(step.output_artifact_ids)) for step in steps] == [("one", 1), ("two", 1)]
        assert keys == [f"{run.id}:{step.id}" for step in steps]


@in_the_node
async def test_what_a_timed_out_execution_still_writes_does_not_touch_the_next_one(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    executions = count(1)
    second, late_write = asyncio.Event(), asyncio.Event()
    fail_step = HeldRunRepository.fail_step

    async def notice(held: HeldRunRepository, *arguments: Any, **named: Any) -> None:
        await fail_step(held, *arguments, **named)
        if "Cleaning up failed." in arguments[3]:
            late_write.set()

    async def slow(state: State) -> State:
        if next(executions) == 1:
            ENTERED.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await second.wait()
                raise RuntimeError("Cleaning up failed.") from None
        second.set()
        await late_write.wait()
        return {"seen": ["slow"]}

    monkeypatch.setattr(HeldRunRepository, "fail_step", notice)
    again = RetryPolicy(initial_interval=0, jitter=False, retry_on=NodeTimeoutError)
    graph = alone("slow", slow, timeout=0.1, retry_policy=again)
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert (run.status, run.error) == (RunStatus.COMPLETED, None)
        assert await engine.executions(run.id) == ["slow 1 failed STEP_TIMED_OUT", "slow 2 completed"]


# The end of a run.


class Killed(BaseException):
    """The worker is no more."""


async def test_a_run_whose_worker_died_before_ending_it_still_names_its_bundle(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = Ran()

    @asynccontextmanager
    async def die(held: HeldRunRepository) -> AsyncIterator[None]:
        await held.flush()
        raise Killed
        yield

    async with serving(database_url, chain(bundle=save_bundle, last=ran.node("last"))) as engine:
        campaign = await engine.campaigns.insert(uuid4())
        run_id = await engine.trigger(campaign_id=campaign.id)
        claimed = await engine.claim()
        with monkeypatch.context() as patched:
            patched.setattr(HeldRunRepository, "end", die)
            with pytest.raises(Killed):
                await engine.processor.process(claimed)
        run = await engine.process(await engine.take_over(run_id))
        assert run.status is RunStatus.COMPLETED
        assert await engine.executions(run_id) == ["bundle 1 completed", "last 1 completed"]
        assert ran.names == ["last"]
        steps = await engine.runs.list_steps(run_id, None)
        assert steps is not None
        campaign = await engine.campaign(campaign.id)
        assert campaign.status is CampaignStatus.LIVE
        assert campaign.bundle_url == f"http://runengine/artifacts/{steps[0].output_artifact_ids[0]}"


async def test_a_run_that_names_no_artifact_as_its_bundle_fails_each_time_it_is_retried(
    database_url: str,
) -> None:
    def name_none(state: State) -> State:
        return {"bundle_artifact_id": NO_ARTIFACT}

    async with serving(database_url, chain(name_none=name_none)) as engine:
        run = await engine.execute()
        for _ in range(2):
            assert run.status is RunStatus.FAILED
            assert code_and_step(run.error) == ("WORKFLOW_FAILED", None)
            run = await engine.execute_again(run.id)
        assert run.status is RunStatus.FAILED


# Error handlers.


async def test_a_handled_step_stays_failed_and_is_not_due_again_when_the_run_is_retried(
    database_url: str,
) -> None:
    ran = Ran()
    failures = [ValueError("Later.")]

    async def risky(state: State) -> State:
        ran.names.append("risky")
        raise ValueError("The supplier is closed.")

    async def rescue(state: State) -> Command[str]:
        ran.names.append("rescue")
        return Command(goto="later", update={"seen": ["rescue"]})

    async def later(state: State) -> State:
        ran.names.append("later")
        if failures:
            raise failures.pop()
        return {}

    graph = StateGraph(State)
    graph.add_node("risky", risky, error_handler=rescue)
    graph.add_node("later", later)
    graph.add_edge(START, "risky")
    handled = ["risky 1 failed STEP_FAILED", "__error_handler__risky 1 completed"]
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert code_and_step(run.error) == ("STEP_FAILED", "later")
        assert await engine.executions(run.id) == [*handled, "later 1 failed STEP_FAILED"]
        await engine.retry(run.id)
        assert await engine.executions(run.id) == [
            *handled, "later 1 failed STEP_FAILED", "later 2 pending",
        ]  # fmt: skip
        run = await engine.process(await engine.claim())
        assert (run.status, run.error) == (RunStatus.COMPLETED, None)
        assert ran.names == ["risky", "rescue", "later", "later"]
        assert (await engine.executions(run.id))[3:] == ["later 2 completed"]
        steps = await engine.runs.list_steps(run.id, None)
        assert steps is not None
        assert steps[0].error is not None
        assert steps[0].error.message == "ValueError: The supplier is closed."


@pytest.mark.parametrize("how", ["edge", "send"])
async def test_a_completed_handler_does_not_run_again_when_the_run_is_retried(
    database_url: str, how: str
) -> None:
    ran = Ran()
    handled = asyncio.Event()
    failures = [RuntimeError("Once.")]

    async def risky(state: State) -> State:
        ran.names.append("risky")
        raise ValueError("The supplier is closed.")

    async def rescue(state: State) -> Command[str]:
        ran.names.append("rescue")
        return Command(goto="after", update={"seen": ["rescue"]})

    async def beside(state: State, runtime: Runtime[RunContext]) -> State:
        ran.names.append("beside")
        await handled.wait()
        if failures:
            raise failures.pop()
        return {}

    async def notice(held: HeldRunRepository, *arguments: Any, **named: Any) -> None:
        await save_writes(held, *arguments, **named)
        if "rescue" in ran.names:
            handled.set()

    save_writes = HeldRunRepository.save_writes
    graph: Graph = StateGraph(State)
    graph.add_node("risky", risky, error_handler=rescue)
    graph.add_node("beside", beside)
    graph.add_node("after", ran.node("after"))
    graph.add_edge(START, "beside")
    if how == "edge":
        graph.add_edge(START, "risky")
    else:
        graph.add_conditional_edges(START, lambda state: [Send("risky", {})], ["risky"])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(HeldRunRepository, "save_writes", notice)
        async with serving(database_url, graph) as engine:
            run = await engine.execute()
            assert code_and_step(run.error) == ("STEP_FAILED", "beside")
            assert "__error_handler__risky 1 completed" in await engine.executions(run.id)
            assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
            assert sorted(ran.names) == ["after", "beside", "beside", "rescue", "risky"]
            executions = await engine.executions(run.id)
            assert [words for words in executions if "risky" in words or "after" in words] == [
                "risky 1 failed STEP_FAILED", "__error_handler__risky 1 completed", "after 1 completed",
            ]  # fmt: skip


async def test_a_handler_that_failed_runs_again_when_the_run_is_retried(database_url: str) -> None:
    ran = Ran()
    failures = [RuntimeError("Once.")]

    async def risky(state: State) -> State:
        ran.names.append("risky")
        raise ValueError("The supplier is closed.")

    async def rescue(state: State) -> State:
        ran.names.append("rescue")
        if failures:
            raise failures.pop()
        return {}

    async with serving(database_url, alone("risky", risky, error_handler=rescue)) as engine:
        run = await engine.execute()
        assert code_and_step(run.error) == ("STEP_FAILED", "__error_handler__risky")
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
        assert ran.names == ["risky", "rescue", "rescue"]


@in_the_node
async def test_a_handled_time_out_is_a_step_that_timed_out(database_url: str) -> None:
    async def slow(state: State) -> State:
        ENTERED.set()
        await asyncio.Event().wait()
        return {}

    graph = alone("slow", slow, timeout=0.1, error_handler=Ran().node("rescue"))
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert run.status is RunStatus.COMPLETED
        assert await engine.executions(run.id) == [
            "slow 1 failed STEP_TIMED_OUT", "__error_handler__slow 1 completed",
        ]  # fmt: skip


async def test_a_handler_that_fails_with_what_it_was_to_handle_fails_the_run_itself(
    database_url: str,
) -> None:
    closed = ValueError("The supplier is closed.")

    async def fail(state: State) -> State:
        raise closed

    async with serving(database_url, alone("risky", fail, error_handler=fail)) as engine:
        run = await engine.execute()
        assert code_and_step(run.error) == ("STEP_FAILED", "__error_handler__risky")
        assert await engine.executions(run.id) == [
            "risky 1 failed STEP_FAILED", "__error_handler__risky 1 failed STEP_FAILED",
        ]  # fmt: skip


# A database that goes away, and a run that does.


def guarded(node: Any, guard: str, ran: Ran) -> Graph:
    """A graph whose node has something that would take an error of its own."""
    if guard == "error handler":
        return alone("work", node, error_handler=ran.node("rescue"))
    return alone("work", node, retry_policy=AT_ONCE)


@pytest.mark.parametrize("guard", ["error handler", "retry policy"])
@pytest.mark.parametrize(
    "method", ["get_checkpoint", "begin_step", "save_artifact", "fail_step", "save_writes", "save_checkpoint"]
)
async def test_a_database_that_is_away_is_not_the_failure_of_a_node(
    database_url: str, monkeypatch: pytest.MonkeyPatch, method: str, guard: str
) -> None:
    monkeypatch.setattr("runengine_server.repositories.queue_repository._PAUSE_SECONDS", 0.0)
    ran = Ran()
    failures = [RuntimeError("Once.")] if method == "fail_step" else []

    async def work(state: State, runtime: Runtime[RunContext]) -> State:
        ran.names.append("work")
        await runtime.context.save_artifact("a.txt", b"a", "text/plain")
        if failures:
            raise failures.pop()
        return {"seen": ["work"]}

    async with serving(database_url, guarded(work, guard, ran)) as engine:
        run_id = await engine.trigger()
        # Held by another before, so that there may be a checkpoint to read.
        await engine.queue.hand_back([await engine.claim()])
        (claimed,) = await engine.queue.claim_expired(1)
        with monkeypatch.context() as patched:
            database_goes_away(patched, method)
            with pytest.raises(Unavailable):
                await engine.process(claimed)
        assert ran.names in ([], ["work"])
        assert (await engine.get(run_id)).status is RunStatus.RUNNING
        assert not any("STEP_FAILED" in words for words in await engine.executions(run_id))
        await engine.queue.hand_back([claimed])
        (claimed,) = await engine.queue.claim_expired(1)
        assert claimed.losses == 0
        assert (await engine.process(claimed)).status is RunStatus.COMPLETED
        assert set(ran.names) == {"work"}


@pytest.mark.parametrize("node", ["passes it on", "swallows it"])
@pytest.mark.parametrize("how", ["cancelled", "taken over"])
async def test_a_run_that_is_no_longer_ours_is_left_at_once_although_a_parallel_node_waits_for_ever(
    database_url: str, how: str, node: str
) -> None:
    waiting, saving, lost = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def wait(state: State) -> State:
        waiting.set()
        await asyncio.Event().wait()
        return {}

    async def save(state: State, runtime: Runtime[RunContext]) -> State:
        saving.set()
        await lost.wait()
        try:
            await runtime.context.save_artifact("a.txt", b"a", "text/plain")
        except Exception:
            if node == "passes it on":
                raise
        return {}

    async with serving(database_url, fork(wait=wait, save=save)) as engine:
        run_id = await engine.trigger()
        execution = asyncio.create_task(engine.process(await engine.claim()))
        await happened(waiting)
        await happened(saving)
        if how == "cancelled":
            await engine.cancel(run_id)
        else:
            await engine.take_over(run_id)
        before = await engine.get(run_id), await engine.executions(run_id)
        lost.set()
        await execution
        assert (await engine.get(run_id), await engine.executions(run_id)) == before
        assert not [path for path in engine.directory.rglob("*") if path.is_file()]


# Checkpoints.


async def test_the_current_checkpoint_is_the_one_stored_last_whatever_its_id(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = Ran()
    failures = [RuntimeError("Once.")]
    numbers = count(2**62, -1)

    async def three(state: State) -> State:
        if failures:
            raise failures.pop()
        return {"seen": ["three"]}

    # Each checkpoint of a clock that is behind that of the one before.
    monkeypatch.setattr("langgraph.pregel._checkpoint.uuid6", lambda **_: UUID(int=next(numbers)))
    graph = chain(one=ran.node("one"), two=ran.node("two"), three=three)
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert code_and_step(run.error) == ("STEP_FAILED", "three")
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
        assert ran.names == ["one", "two"]


async def test_checkpoints_are_listed_in_the_order_in_which_they_were_stored(database_url: str) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        await engine.trigger()
        held = HeldRunRepository(engine.database, await engine.claim(), "worker:test")
        for name in ("2", "3", "1"):
            await held.save_checkpoint(StoredCheckpoint("", name, None, "msgpack", b"", b""))
        current = await held.get_checkpoint("", None)
        assert current is not None
        assert current.checkpoint_id == "1"
        assert [each.checkpoint_id for each in await held.list_checkpoints("", None)] == ["1", "3", "2"]
        assert [each.checkpoint_id for each in await held.list_checkpoints("", "3")] == ["2"]


class Opaque:
    """Nothing that could be stored."""

    def __str__(self) -> str:
        return "opaque"


def as_text(before: list[str] | None, more: Any) -> list[str]:
    return [*(before or []), str(more)]


class Texts(TypedDict, total=False):
    log: Annotated[list[str], as_text]


async def test_a_result_that_cannot_be_stored_fails_its_step_and_nothing_follows(database_url: str) -> None:
    ran = Ran()

    async def opaque(state: Texts) -> dict[str, Any]:
        ran.names.append("opaque")
        return {"log": Opaque()}

    graph = StateGraph(Texts)
    graph.add_node("opaque", opaque)
    graph.add_node("last", ran.node("last"))
    graph.add_edge(START, "opaque")
    graph.add_edge("opaque", "last")
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert ran.names == ["opaque"]
        assert code_and_step(run.error) == ("VALUE_NOT_STORABLE", "opaque")
        assert await engine.executions(run.id) == ["opaque 1 failed VALUE_NOT_STORABLE"]
        assert run.error is not None
        assert "Opaque" in run.error.message
        assert not any(word in run.error.message for word in ("Task", "0x", "runengine_server", "/"))


async def test_a_result_that_cannot_be_stored_within_a_sub_graph_fails_the_step_that_it_is(
    database_url: str,
) -> None:
    ran = Ran()
    results: list[Any] = [Opaque()]

    async def opaque(state: Texts) -> dict[str, Any]:
        return {"log": results.pop() if results else "text"}

    inner = StateGraph(Texts)
    inner.add_node("opaque", opaque)
    inner.add_node("end", lambda state: {})
    inner.add_edge(START, "opaque")
    inner.add_edge("opaque", "end")
    graph = StateGraph(Texts)
    graph.add_node("inner", inner.compile())
    graph.add_node("last", ran.node("last"))
    graph.add_edge(START, "inner")
    graph.add_edge("inner", "last")
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert code_and_step(run.error) == ("VALUE_NOT_STORABLE", "inner")
        assert await engine.executions(run.id) == ["inner 1 failed VALUE_NOT_STORABLE"]
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
        assert ran.names == ["last"]


# Failures.


async def test_when_two_fail_at_once_the_error_of_the_run_is_that_of_its_step(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, recorded = asyncio.Barrier(2), set[object]()
    fail_step = HeldRunRepository.fail_step

    async def together(held: HeldRunRepository, task_id: UUID, *arguments: Any, **named: Any) -> None:
        await fail_step(held, task_id, *arguments, **named)
        if task_id not in recorded:
            recorded.add(task_id)
            await both.wait()

    monkeypatch.setattr(HeldRunRepository, "fail_step", together)

    async def left(state: State) -> State:
        raise ValueError("This is left.")

    async def right(state: State) -> State:
        raise ValueError("This is right.")

    async with serving(database_url, fork(left=left, right=right)) as engine:
        for _ in range(30):
            error = (await engine.execute()).error
            assert error is not None
            assert error.message == f"ValueError: This is {error.step_id}."


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        ("no file \udcff.png", "no file ?.png"),
        ("nul \0in it", "nul in it"),
        ("one\n  two\r\n\tthree", "one two three"),
        ("", ""),
    ],
)
async def test_the_words_of_an_author_become_one_line_that_can_be_stored(
    database_url: str, raised: str, message: str
) -> None:
    async def fail(state: State) -> State:
        raise RuntimeError(raised)

    async with serving(database_url, chain(fail=fail)) as engine:
        run = await engine.execute()
        assert run.error is not None
        assert run.error.message.removeprefix("RuntimeError").removeprefix(": ") == message
        assert await engine.executions(run.id) == ["fail 1 failed STEP_FAILED"]


@pytest.mark.parametrize("result", ["no state", Command(graph=Command.PARENT, goto="work")])
async def test_what_a_graph_can_never_do_is_not_worth_a_retry(database_url: str, result: Any) -> None:
    async def work(state: State) -> Any:
        return result

    async with serving(database_url, chain(work=work)) as engine:
        run = await engine.execute()
        assert run.error is not None
        assert run.error.retryable is False


async def test_a_group_of_errors_says_what_failed_within_and_where(
    database_url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    async def refuse() -> None:
        raise ValueError("The supplier is closed.")

    async def fall() -> None:
        try:
            raise ConnectionError("No route.")
        except ConnectionError as error:
            raise RuntimeError("No prices.") from error

    async def work(state: State) -> State:
        async with asyncio.TaskGroup() as group:
            group.create_task(refuse())
            group.create_task(fall())
        return {}

    async with serving(database_url, chain(work=work)) as engine:
        run = await engine.execute()
        assert run.error is not None
        words = (
            "ExceptionGroup: unhandled errors in a TaskGroup (2 sub-exceptions) "
            "[ValueError: The supplier is closed.; RuntimeError: No prices., caused by "
            "ConnectionError: No route.]"
        )
        assert run.error.message == words
        steps = await engine.runs.list_steps(run.id, None)
        assert steps is not None
        assert steps[0].error is not None
        assert steps[0].error.message == words
        logged = [line for line in capfd.readouterr().err.splitlines() if str(run.id) in line]
        for place in ("refuse", "fall"):
            assert any(re.search(rf"test_engine\.py:\d+ {place}\b", line) for line in logged)


async def test_what_a_message_says_is_bounded(database_url: str) -> None:
    def deep(level: int) -> Exception:
        if level == 0:
            return ValueError("x" * 5000)
        return ExceptionGroup("group", [deep(level - 1) for _ in range(30 if level == 1 else 2)])

    async def work(state: State) -> State:
        error = deep(6)
        error.__cause__ = error.exceptions[0] if isinstance(error, ExceptionGroup) else None
        raise error

    async with serving(database_url, chain(work=work)) as engine:
        run = await engine.execute()
        assert run.error is not None
        assert run.error.message.startswith("ExceptionGroup: group (2 sub-exceptions) [ExceptionGroup: group")
        assert len(run.error.message) == 2000


async def test_an_error_within_a_sub_graph_names_the_node_that_raised_it(database_url: str) -> None:
    async def two(state: State) -> State:
        error = ValueError("No price.")
        error.add_note("Ask the supplier.")
        raise error

    graph = chain(outer=chain(one=Ran().node("one"), two=two).compile())
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        steps = await engine.runs.list_steps(run.id, None)
        assert steps is not None
        for error in (run.error, steps[0].error):
            assert error is not None
            assert error.message.startswith(
                "ValueError: No price. (Ask the supplier.; During task with name 'two' and id '"
            )
            assert "'outer'" not in error.message


async def test_an_artifact_store_that_cannot_write_fails_the_step_without_telling_a_path(
    database_url: str,
) -> None:
    async with serving(database_url, chain(save=save_bundle)) as engine:
        (engine.directory / engine.tenant_id).write_text("not a directory")
        run = await engine.execute()
        assert code_and_step(run.error) == ("STEP_FAILED", "save")
        assert run.error is not None
        assert run.error.message == "ArtifactNotStored: The artifact could not be stored."
        assert run.error.retryable is True


# What is not run again.


async def test_a_node_that_writes_only_what_is_never_stored_does_not_run_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Scratch(TypedDict, total=False):
        scratch: Annotated[Any, UntrackedValue]
        seen: list[str]

    ran = Ran()
    stored = asyncio.Event()
    failures = [RuntimeError("Once.")]
    save_writes = HeldRunRepository.save_writes

    async def notice(held: HeldRunRepository, *arguments: Any, **named: Any) -> None:
        of_scratch = "scratch" in ran.names
        await save_writes(held, *arguments, **named)
        if of_scratch:
            stored.set()

    async def scratch(state: Scratch) -> dict[str, Any]:
        ran.names.append("scratch")
        return {"scratch": Opaque()}

    async def fail(state: Scratch) -> dict[str, Any]:
        await stored.wait()
        if failures:
            raise failures.pop()
        return {}

    monkeypatch.setattr(HeldRunRepository, "save_writes", notice)
    graph = StateGraph(Scratch)
    for name, node in (("scratch", scratch), ("fail", fail)):
        graph.add_node(name, node)
        graph.add_edge(START, name)
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert code_and_step(run.error) == ("STEP_FAILED", "fail")
        assert (await engine.execute_again(run.id)).status is RunStatus.COMPLETED
        assert ran.names == ["scratch"]
        assert "scratch 1 completed" in await engine.executions(run.id)


async def test_a_cached_step_gives_a_second_run_its_bundle(database_url: str) -> None:
    graph = alone("save", save_bundle, cache_policy=CachePolicy(key_func=lambda state: "one"))
    async with serving(database_url, graph) as engine:
        campaign = await engine.campaigns.insert(uuid4())
        urls = []
        for cached in (False, True):
            run_id = await engine.trigger(campaign_id=campaign.id)
            assert (await engine.process(await engine.claim())).status is RunStatus.COMPLETED
            steps = await engine.runs.list_steps(run_id, None)
            assert steps is not None
            assert [step.cache_hit for step in steps] == [cached]
            urls.append((await engine.campaign(campaign.id)).bundle_url)
        assert urls[0] is not None
        assert urls[0] == urls[1]


async def test_a_cached_step_whose_code_has_changed_is_executed(database_url: str) -> None:
    def graph(price: int) -> Graph:
        def work(state: State) -> State:
            executed.append(price)
            return {}

        return alone("work", work, cache_policy=CachePolicy(key_func=lambda state: "one"))

    executed: list[int] = []
    async with serving(database_url, graph(1)) as engine:
        for price in (1, 1, 2, 2, 1):
            engine.deploy(graph(price))
            assert (await engine.execute()).status is RunStatus.COMPLETED
        assert executed == [1, 2]


async def test_a_cache_key_that_cannot_be_had_fails_its_step(database_url: str) -> None:
    ran = Ran()

    def no_key(state: State) -> str:
        raise KeyError("count")

    graph = alone("work", ran.node("work"), cache_policy=CachePolicy(key_func=no_key))
    async with serving(database_url, graph) as engine:
        run = await engine.execute()
        assert code_and_step(run.error) == ("STEP_FAILED", "work")
        assert run.error is not None
        assert run.error.message == "KeyError: 'count'"
        assert await engine.executions(run.id) == ["work 1 failed STEP_FAILED"]
        assert ran.names == []


# What goes in.


@dataclass
class Team:
    team: str = "green"
    size: int = 3


async def test_a_graph_with_a_context_of_its_own_gets_that_from_the_context_of_the_run(
    database_url: str,
) -> None:
    given: list[Team] = []

    async def work(state: State, runtime: Runtime[Team]) -> State:
        given.append(runtime.context)
        return {}

    graph = StateGraph(State, context_schema=Team)
    graph.add_node("work", work)
    graph.add_edge(START, "work")
    async with serving(database_url, graph) as engine:
        assert (await engine.execute()).status is RunStatus.COMPLETED
        assert (await engine.execute(team="blue", other=1)).status is RunStatus.COMPLETED
        assert given == [Team(), Team("blue")]


class Brief(BaseModel):
    name: str = "nameless"
    rounds: int = 0


async def test_a_graph_with_pydantic_state_runs_as_it_is(database_url: str) -> None:
    given: list[Brief] = []

    async def work(state: Brief) -> dict[str, Any]:
        given.append(state)
        return {"rounds": state.rounds + 1}

    graph = StateGraph(Brief)
    graph.add_node("work", work)
    graph.add_edge(START, "work")
    async with serving(database_url, graph) as engine:
        assert (await engine.execute({"name": "Kettle"})).status is RunStatus.COMPLETED
        run = await engine.execute({"rounds": "many"})
        assert run.status is RunStatus.FAILED
        assert given == [Brief(name="Kettle")]


@pytest.mark.parametrize("payload", [None, {}, {"unknown": 1}])
async def test_a_payload_with_nothing_in_it_for_the_graph_is_as_good_as_any(
    database_url: str, payload: dict[str, Any] | None
) -> None:
    ran = Ran()
    async with serving(database_url, chain(one=ran.node("one"))) as engine:
        assert (await engine.execute(payload)).status is RunStatus.COMPLETED
        assert ran.names == ["one"]
