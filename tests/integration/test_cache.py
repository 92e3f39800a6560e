"""`runengine-server cache --clear` empties the cache of steps, or a part of it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
from langgraph.types import CachePolicy
from runengine_server.domain.run import RunStatus

from tests.support.own_worker import Engine, Ran, alone, serving


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
async def test_what_is_cleared_is_executed_again_and_nothing_else(
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


async def test_a_database_that_is_away_is_told_in_one_line(tmp_path: Path) -> None:
    status, out, err = await cache("postgresql://nobody@127.0.0.1:1/none", tmp_path, "--clear")
    assert (status, out) == (1, "")
    assert err.startswith("runengine-server: RUNENGINE_DATABASE_URL:")
    assert err.count("\n") == 1
