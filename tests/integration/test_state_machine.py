"""The life of runs against a small model of it, on the real SQL, in whatever order Hypothesis thinks of."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from runengine.v1.run_pb2 import Run, RunStatus
from runengine_client import RunEngineError
from runengine_server.database.database import Database
from runengine_server.domain.errors import Fenced
from runengine_server.domain.run import CampaignStatus, ClaimedRun, Failure
from runengine_server.repositories.held_run_repository import HeldRunRepository
from runengine_server.repositories.queue_repository import QueueRepository
from runengine_server.worker.campaign_service import CampaignService

from tests.support.patience import SECONDS
from tests.support.stack import Stack

ENDED = ("completed", "failed", "cancelled")


@dataclass
class Model:
    """What a run has to be."""

    status: str
    campaign: str | None
    attempt: int = 1
    claim: ClaimedRun | None = None
    stale: list[ClaimedRun] = field(default_factory=list)
    updated_at: int = 0


async def patiently(open_: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """A busy machine may take longer for a connection than the product waits for one."""
    async with asyncio.timeout(SECONDS):
        while True:
            with suppress(TimeoutError):
                return await open_()


class Lives(RuleBasedStateMachine):
    """Callers come over gRPC; a worker uses the repositories that the real one uses."""

    stack: Stack
    database_url: str
    runs = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.tenant = f"org_{uuid.uuid4().hex}"
        self.workflow = f"machine-{uuid.uuid4().hex}"
        self.model: dict[str, Model] = {}
        self.order: list[str] = []
        self.campaigns: dict[str, tuple[str, str | None]] = {}

        async def open_() -> None:
            self.client = self.stack.client(self.stack.token(self.tenant))
            self.database = Database(self.database_url, 2)
            await patiently(self.database.open)
            self.queue = QueueRepository(self.database, "machine", [self.workflow], 3600)
            await self.queue.register_workflows()

        self.wait(open_())

    def wait(self, answer: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(answer)

    def teardown(self) -> None:
        self.wait(self.client.close())
        self.wait(self.database.close())
        self.loop.close()

    def reason_of(self, call: Coroutine[Any, Any, Any]) -> str | Run:
        try:
            answer: Run = self.wait(call)
        except RunEngineError as error:
            return error.reason
        return answer

    @initialize()
    def two_campaigns(self) -> None:
        for _ in range(2):
            self.campaigns[self.wait(self.client.create_campaign()).id] = ("draft", None)

    @rule(target=runs, campaign=st.sampled_from([0, 1, None]), number=st.integers(0, 3), twice=st.booleans())
    def trigger(self, campaign: int | None, number: int, twice: bool) -> str:
        campaign_id = None if campaign is None else list(self.campaigns)[campaign]
        key = uuid.uuid4().hex

        def send(payload: int) -> Coroutine[Any, Any, Run]:
            return self.client.trigger_run(
                self.workflow,
                trigger_payload={"number": payload},
                campaign_id=campaign_id,
                idempotency_key=key,
            )

        run = self.wait(send(number))
        if twice:
            assert self.wait(send(number)) == run
            assert self.reason_of(send(number + 1)) == "IDEMPOTENCY_KEY_REUSED"
        self.model[run.id] = Model("queued", campaign_id)
        self.order.append(run.id)
        return str(run.id)

    @rule(limit=st.integers(1, 3))
    def claim(self, limit: int) -> None:
        queued = {run_id for run_id, run in self.model.items() if run.status == "queued"}
        claimed = self.wait(self.queue.claim_queued(limit))
        assert len(claimed) == min(limit, len(queued))
        for each in claimed:
            model = self.model[str(each.id)]
            assert str(each.id) in queued
            assert each.attempt == model.attempt
            assert all(each.epoch > old.epoch for old in model.stale)
            model.status, model.claim = "running", each

    def held(self, run_id: str) -> HeldRunRepository | None:
        claim = self.model[run_id].claim
        return HeldRunRepository(self.database, claim, "machine") if claim else None

    @rule(run_id=runs)
    def step(self, run_id: str) -> None:
        if held := self.held(run_id):
            task = uuid.uuid4()
            assert self.wait(held.begin_step(task, "step", "skill", False)) == 1
            self.wait(held.save_writes("", "1", str(task), "", [(0, "x", "null", b"")], task))

    @rule(run_id=runs, well=st.booleans())
    def end(self, run_id: str, well: bool) -> None:
        model, held = self.model[run_id], self.held(run_id)
        if held is None:
            return
        self.wait(self.finish(held, well))
        model.status = "completed" if well else "failed"
        self.let_go(model)
        if model.campaign is not None:
            latest = self.campaigns[model.campaign][1]
            if latest is None or self.order.index(run_id) >= self.order.index(latest):
                self.campaigns[model.campaign] = ("live" if well else "failed", run_id)

    async def finish(self, held: HeldRunRepository, well: bool) -> None:
        status = CampaignStatus.LIVE if well else CampaignStatus.FAILED
        async with held.end() as ending:
            if well:
                await ending.complete()
            else:
                await ending.fail(Failure("STEP_FAILED", "x", "step", held.run.attempt, True))
            if held.run.campaign_id is not None:
                await CampaignService(ending).update_status_from_run(
                    held.run.campaign_id, status=status, bundle_url=None, latest_run_id=held.run.id
                )

    def let_go(self, model: Model) -> None:
        if model.claim is not None:
            model.stale.append(model.claim)
            model.claim = None

    @rule(run_id=runs, well=st.booleans())
    def a_worker_comes_back_from_the_dead(self, run_id: str, well: bool) -> None:
        for claim in self.model[run_id].stale:
            zombie = HeldRunRepository(self.database, claim, "zombie")
            writes: list[Callable[[], Coroutine[Any, Any, Any]]] = [
                partial(zombie.begin_step, uuid.uuid4(), "zombie", "zombie", False),
                partial(zombie.save_writes, "", "1", "t", "", [(0, "x", "null", b"")], None),
                partial(self.finish, zombie, well),
            ]
            for write in writes:
                with pytest.raises(Fenced):
                    self.wait(write())

    @rule(run_id=runs)
    def cancel(self, run_id: str) -> None:
        model = self.model[run_id]
        answer = self.reason_of(self.client.cancel_run(run_id))
        if model.status in ("completed", "failed"):
            assert answer == "RUN_TERMINAL"
            return
        assert isinstance(answer, Run)
        model.status = "cancelled"
        self.let_go(model)

    @rule(run_id=runs)
    def retry(self, run_id: str) -> None:
        model = self.model[run_id]
        answer = self.reason_of(self.client.retry_run(run_id))
        if model.status in ("queued", "running"):
            assert answer == "RUN_ACTIVE"
        elif model.status == "completed":
            assert answer == "RUN_NOT_RETRYABLE"
        else:
            assert isinstance(answer, Run)
            model.status, model.attempt = "queued", model.attempt + 1

    @rule(run_id=runs)
    def resume(self, run_id: str) -> None:
        """No run of these waits for anybody."""
        assert self.reason_of(self.client.resume_run(run_id, True)) == "RUN_NOT_WAITING"

    @rule(run_id=runs)
    def the_timeline_ends_where_the_run_is(self, run_id: str) -> None:
        model = self.model[run_id]
        events = self.wait(self.client.list_run_events(run_id))
        assert RunStatus.Name(events[-1].to_status) == f"RUN_STATUS_{model.status.upper()}"
        ends = [each.attempt for each in events if RunStatus.Name(each.to_status)[11:].lower() in ENDED]
        assert len(ends) == len(set(ends))

    @invariant()
    def every_run_is_what_the_model_says(self) -> None:
        for run_id, model in self.model.items():
            run = self.wait(self.client.get_run(run_id))
            assert RunStatus.Name(run.status) == f"RUN_STATUS_{model.status.upper()}"
            assert run.attempt == model.attempt
            assert run.HasField("error") == (model.status == "failed")
            assert run.HasField("completed_at") == (model.status in ENDED)
            updated_at = run.updated_at.ToNanoseconds()
            assert updated_at >= model.updated_at
            model.updated_at = updated_at

    @invariant()
    def every_list_adds_up(self) -> None:
        for campaign_id, (status, latest) in self.campaigns.items():
            page = self.wait(self.client.list_campaign_runs(campaign_id, limit=100))
            mine = {run_id: run for run_id, run in self.model.items() if run.campaign == campaign_id}
            assert {run.id for run in page.runs} == set(mine)
            assert [(run.created_at.ToNanoseconds(), run.id) for run in page.runs] == sorted(
                ((run.created_at.ToNanoseconds(), run.id) for run in page.runs), reverse=True
            )
            for word in ("queued", "running", *ENDED):
                expected = sum(run.status == word for run in mine.values())
                assert getattr(page.status_counts, word) == expected
            campaign = self.wait(self.client.get_campaign(campaign_id))
            assert campaign.status == {"draft": 1, "live": 2, "failed": 3}[status]
            assert campaign.latest_run_id == (latest or "")


def test_every_run_is_what_its_history_makes_it(stack: Stack, database_url: str) -> None:
    machine = type("Machine", (Lives,), {"stack": stack, "database_url": database_url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
