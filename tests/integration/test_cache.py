"""`runengine-server cache --clear` empties the cache of steps, or a part of it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from langgraph.types import CachePolicy
from runengine_server.domain.run import RunStatus

from tests.support.nodes import save_bundle
from tests.support.own_worker import Engine, Graph, Ran, State, alone, code_and_step, serving


async def cache(database_url: str, state_dir: Path, *options: str) -> tuple[int | None, str, str]:
    """Exit status, output and error output of the command."""
    command = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "runengine_server", "cache", *options,
        env=os.environ | {"RUNENGINE_DATABASE_URL": database_url, "RUNENGINE_STATE_DIR": str(state_dir)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await command.communicate()
    return command.returncode, out.decode(), err.decode()


async def fill(engine: Engine) -> None:
    assert (await engine.execute()).status is RunStatus.COMPLETED


@pytest.mark.parametrize("of", ["all", "workflow", "tenant"])
async def test_a_cleared_step_is_executed_again_and_no_other(
    database_url: str, tmp_path: Path, of: str
) -> None:
    ran, other_ran = Ran(), Ran()
    policy = CachePolicy(key_func=lambda state: "one")
    async with (
        serving(database_url, alone("work", ran.node("mine"), cache_policy=policy)) as engine,
        serving(database_url, alone("work", other_ran.node("other"), cache_policy=policy)) as other,
    ):
        await fill(engine)
        await fill(other)
        named = {"all": [], "workflow": [f"--workflow={engine.workflow}"]}
        options = named.get(of, [f"--tenant={engine.tenant_id}"])
        status, out, _ = await cache(database_url, tmp_path, "--clear", *options)
        assert status == 0
        if of != "all":
            assert out == "1 cleared\n"
            assert await cache(database_url, tmp_path, "--clear", *options) == (0, "0 cleared\n", "")
        await fill(engine)
        await fill(other)
        assert ran.names == ["mine", "mine"]
        assert other_ran.names == (["other", "other"] if of == "all" else ["other"])


async def test_without_clear_the_command_does_nothing(database_url: str, tmp_path: Path) -> None:
    status, out, err = await cache(database_url, tmp_path)
    assert (status, out) == (2, "")
    assert "--clear" in err


async def test_a_database_that_is_away_is_reported_in_one_line(tmp_path: Path) -> None:
    status, out, err = await cache("postgresql://nobody@127.0.0.1:1/none", tmp_path, "--clear")
    assert (status, out) == (1, "")
    assert err.startswith("runengine-server: RUNENGINE_DATABASE_URL:")
    assert err.count("\n") == 1


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
