"""A run that is handed back again and again waits longer each time, and ends after a bounded number."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest
from runengine_server.domain.errors import Unavailable
from runengine_server.domain.run import MAX_HAND_BACKS, ClaimedRun, RunStatus
from runengine_server.repositories.queue_repository import QueueRepository
from structlog.testing import capture_logs

from tests.support.own_worker import (
    SECONDS,
    Engine,
    Held,
    Ran,
    State,
    alone,
    chain,
    database_goes_away,
    ended,
    serving,
)


async def pause(engine: Engine, run_id: UUID) -> float:
    """How long the run is left alone by now, in seconds."""
    row = await engine.tenant.fetchrow(
        """SELECT CASE lease_expires_at WHEN '-infinity' THEN 0
            ELSE extract(epoch FROM lease_expires_at - clock_timestamp()) END::float AS pause
        FROM runs WHERE id = $1""",
        run_id,
    )
    assert row is not None
    return float(row["pause"])


async def claim_again(engine: Engine, run_id: UUID) -> ClaimedRun:
    """The run, claimed once its pause is over."""
    await engine.tenant.fetch(
        "UPDATE runs SET lease_expires_at = lease_expires_at - interval '1 hour' WHERE id = $1", run_id
    )
    (run,) = await engine.queue.claim_expired(1)
    return run


async def test_pauses_grow_and_a_bound_ends_the_run_with_a_code_of_its_own(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runengine_server.repositories.queue_repository.HAND_BACK_PAUSE_SECONDS", 2.0)
    ran = Ran()
    async with serving(database_url, chain(one=ran.node("one"))) as engine:
        run_id = await engine.trigger()
        run = await engine.claim()
        pauses = []
        for number in range(1, MAX_HAND_BACKS + 1):
            await engine.queue.hand_back([run])
            pauses.append(await pause(engine, run_id))
            if number > 1:
                assert await engine.queue.claim_expired(1) == []
            run = await claim_again(engine, run_id)
            assert run.losses == 0
        assert pauses[0] == 0
        for found, meant in zip(pauses[1:], (2, 4, 8, 16, 30, 30, 30, 30, 30), strict=True):
            assert 0 < found <= meant
            # More than the pause before: the machine may have been slow, but not by so much.
            assert found > meant / 2 or meant <= 4
        done = await engine.process(run)
        assert done.error is not None
        assert (done.status, done.error.code) == (RunStatus.FAILED, "WORKER_STOPPED")
        assert done.error.message == "10 times in a row it was handed back without a step completed."
        assert done.error.retryable
        assert ran.names == []
        assert (await engine.execute_again(run_id)).status is RunStatus.COMPLETED


async def test_hand_backs_are_counted_anew_after_a_step_was_completed(database_url: str) -> None:
    held = Held()
    async with serving(database_url, chain(one=Ran().node("one"), held=held.node)) as engine:
        run_id = await engine.trigger()
        run = await engine.claim()
        for _ in range(3):
            await engine.queue.hand_back([run])
            run = await claim_again(engine, run_id)
        assert run.hand_backs == 3
        for hand_backs in (1, 2):
            execution = asyncio.create_task(engine.processor.process(run))
            await held.next()
            execution.cancel()
            await asyncio.wait([execution], timeout=SECONDS)
            await engine.queue.hand_back([run])
            run = await claim_again(engine, run_id)
            assert run.hand_backs == hand_backs


async def test_a_worker_that_is_lost_after_a_hand_back_counts_as_a_loss(database_url: str) -> None:
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        run_id = await engine.trigger()
        run = await engine.claim()
        for _ in range(2):
            await engine.queue.hand_back([run])
            run = await claim_again(engine, run_id)
        assert (run.losses, run.hand_backs) == (0, 2)
        assert (await engine.take_over(run_id)).losses == 1
        # Nor does one that was claimed anew after it was cancelled while it was handed back.
        await engine.queue.hand_back([run])
        await engine.cancel(run_id)
        await engine.retry(run_id)
        await engine.claim()
        assert (await engine.take_over(run_id)).losses == 1


@pytest.mark.parametrize(
    ("returned", "times", "says"),
    [
        ("x" * 3000, 1, "What the node returned takes"),
        ("x" * 1200, 2, "The state of the run takes"),
    ],
    ids=["a node's", "all together"],
)
async def test_a_state_that_is_too_large_fails_at_once_in_words(
    database_url: str, returned: str, times: int, says: str
) -> None:
    executions = []

    async def large(state: State) -> State:
        executions.append("large")
        return {"seen": [returned]}

    nodes = {f"large_{number}": large for number in range(times)}
    async with serving(database_url, chain(**nodes)) as engine:
        engine.deploy(chain(**nodes), max_state_bytes=2048)
        run = await engine.execute()
        assert run.error is not None
        assert (run.status, run.error.code) == (RunStatus.FAILED, "STATE_TOO_LARGE")
        assert says in run.error.message
        assert "RUNENGINE_MAX_STATE_BYTES allows 2,048." in run.error.message
        assert not run.error.retryable
        assert len(executions) == times


async def test_a_worker_says_once_why_it_cannot_work_and_once_that_it_can(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runengine_server.worker.worker.POLL_SECONDS", 0.01)
    failures, enough = 5, asyncio.Event()
    claims = {name: getattr(QueueRepository, name) for name in ("claim_expired", "claim_queued")}

    def revoked(name: str) -> Any:
        async def call(queue: QueueRepository, *arguments: Any, **named: Any) -> list[ClaimedRun]:
            nonlocal failures
            failures -= 1
            if failures > 0:
                raise Unavailable from PermissionError("the login")
            enough.set()
            found: list[ClaimedRun] = await claims[name](queue, *arguments, **named)
            return found

        return call

    for name in claims:
        monkeypatch.setattr(QueueRepository, name, revoked(name))
    async with serving(database_url, alone("one", Ran().node("one"))) as engine:
        run_id = await engine.trigger()
        with capture_logs() as logs:
            async with engine.working():
                async with asyncio.timeout(SECONDS):
                    await enough.wait()
                await ended(engine, run_id)
    said = [(each["event"], each.get("error")) for each in logs if "the worker" in each["event"]]
    assert said == [("the worker cannot work", "PermissionError"), ("the worker works again", None)]


async def test_a_run_that_is_handed_back_says_what_the_database_did(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database_goes_away(monkeypatch, "begin_step")
    async with serving(database_url, chain(one=Ran().node("one"))) as engine:
        run_id = await engine.trigger()
        with capture_logs() as logs:
            async with engine.working():
                assert await ended(engine, run_id) is RunStatus.COMPLETED
    (told,) = [each for each in logs if "handed back" in each["event"]]
    assert (told["run_id"], told["error"]) == (str(run_id), "Unavailable")
