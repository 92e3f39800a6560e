"""How a run ends: with its bundle, though its worker died, and at once when it is its worker's no longer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
from langgraph.runtime import Runtime
from runengine.context import RunContext
from runengine_server.domain.run import CampaignStatus, RunStatus
from runengine_server.repositories.artifact_store import ArtifactStore
from runengine_server.repositories.held_run_repository import HeldRunRepository

from tests.support.nodes import save_bundle
from tests.support.own_worker import Ran, State, chain, code_and_step, fork, happened, serving, until

NO_ARTIFACT = "00000000-0000-0000-0000-000000000000"


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


def files_in(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


@pytest.mark.parametrize("node", ["passes it on", "swallows it"])
@pytest.mark.parametrize("how", ["cancelled", "taken over"])
async def test_a_run_that_is_no_longer_ours_is_left_at_once_although_a_parallel_node_waits_for_ever(
    database_url: str, monkeypatch: pytest.MonkeyPatch, how: str, node: str
) -> None:
    waiting, saving, lost, left = (asyncio.Event() for _ in range(4))
    delete = ArtifactStore.delete

    async def delete_late(store: ArtifactStore, key: str) -> None:
        await left.wait()
        await delete(store, key)

    monkeypatch.setattr(ArtifactStore, "delete", delete_late)

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
        left.set()
        assert (await engine.get(run_id), await engine.executions(run_id)) == before
        await until(partial(asyncio.to_thread, files_in, engine.directory), lambda files: not files)
