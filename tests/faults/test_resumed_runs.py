"""What a run was resumed with counts once: for the gate and the attempt that it was given for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langgraph.types import interrupt
from runengine_server.domain.errors import RunNotWaiting
from runengine_server.domain.run import RunStatus
from runengine_server.repositories.held_run_repository import HeldRunRepository

from tests.support.own_worker import Ran, Run, State, chain, serving


class Killed(BaseException):
    """The worker is no more."""


async def ask(state: State) -> State:
    return {"seen": [interrupt("Which colour?")]}


def asking(ran: Ran) -> Any:
    return chain(ask=ask, last=ran.node("last"))


def gated(ran: Ran) -> Any:
    return asking_nobody(ran).compile(interrupt_before=["last"])


def asking_nobody(ran: Ran) -> Any:
    return chain(first=ran.node("first"), last=ran.node("last"))


@pytest.mark.parametrize("graph", [asking, gated])
async def test_a_value_given_to_one_attempt_passes_no_gate_of_the_next(database_url: str, graph: Any) -> None:
    ran = Ran()
    async with serving(database_url, graph(ran)) as engine:
        run = await engine.execute()
        await engine.resume(run.id, {run.gate: "red"})
        await engine.cancel(run.id)
        await engine.retry(run.id)
        # Its first worker is lost at once, and what the next one has, it has from the row.
        await engine.claim()
        run = await engine.process(await engine.take_over(run.id))
        assert run.status is RunStatus.RUNNING
        assert len(run.waiting_for) == 1
        assert "last" not in ran.names


@pytest.mark.parametrize("graph", [asking, gated])
async def test_a_wait_whose_worker_dies_once_it_is_stored_is_one(
    database_url: str, graph: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = HeldRunRepository.wait

    async def wait_and_die(held: HeldRunRepository, *arguments: Any) -> None:
        await real(held, *arguments)
        raise Killed

    ran = Ran()
    async with serving(database_url, graph(ran)) as engine:
        run_id = await engine.trigger()
        with monkeypatch.context() as patched:
            patched.setattr(HeldRunRepository, "wait", wait_and_die)
            with pytest.raises(Killed):
                await engine.processor.process(await engine.claim())
        # Nobody holds it, so nobody was lost.
        assert await engine.queue.claim_expired(1) == []
        run = await engine.go_on(run_id, {(await engine.get(run_id)).gate: "red"})
        assert run.status is RunStatus.COMPLETED
        assert await engine.losses(run_id) == 0


async def test_of_a_resume_and_a_cancel_at_once_the_cancel_stays(database_url: str) -> None:
    ran = Ran()
    async with serving(database_url, asking(ran)) as engine:
        for _ in range(5):
            run = await engine.execute()
            resumed, cancelled = await asyncio.gather(
                engine.resume(run.id, {run.gate: "red"}), engine.cancel(run.id), return_exceptions=True
            )
            assert not isinstance(cancelled, BaseException)
            assert cancelled.status is RunStatus.CANCELLED
            assert isinstance(resumed, Run | RunNotWaiting)
            assert await engine.queue.claim_expired(1) == []
            assert (await engine.get(run.id)).status is RunStatus.CANCELLED
        assert ran.names == []
