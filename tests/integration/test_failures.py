"""What a run and its step say of a node that failed, and of a database that went away."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from langgraph.runtime import Runtime
from langgraph.types import Command, RetryPolicy
from runengine.context import RunContext
from runengine_server import logs
from runengine_server.domain.errors import Unavailable
from runengine_server.domain.run import RunStatus
from runengine_server.repositories.held_run_repository import HeldRunRepository

from tests.support.nodes import save_bundle
from tests.support.own_worker import (
    Graph,
    Ran,
    State,
    alone,
    chain,
    code_and_step,
    database_goes_away,
    fork,
    serving,
)

AT_ONCE = RetryPolicy(initial_interval=0, jitter=False, retry_on=Exception)


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
    monkeypatch.setattr("runengine_server.repositories.queue_repository.HAND_BACK_PAUSE_SECONDS", 0.0)
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


async def test_a_run_with_two_failures_at_once_has_the_error_of_its_step(
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
async def test_a_result_that_no_graph_can_take_is_not_worth_a_retry(database_url: str, result: Any) -> None:
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
        logs.flush()
        logged = [line for line in capfd.readouterr().err.splitlines() if str(run.id) in line]
        for place in ("refuse", "fall"):
            assert any(re.search(rf"{Path(__file__).name}:\d+ {place}\b", line) for line in logged)


async def test_the_message_of_an_error_is_bounded(database_url: str) -> None:
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
        assert code_and_step(run.error) == ("STEP_FAILED", "outer:two")
        for error, before in ((run.error, ""), (steps[0].error, "The step 'outer:two' within it failed: ")):
            assert error is not None
            assert error.message.startswith(
                f"{before}ValueError: No price. (Ask the supplier.; During task with name 'two' and id '"
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
