"""A database, or a role, whose defaults are others than PostgreSQL's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from runengine_server.domain.run import RunStatus
from runengine_server.repositories.database import Database

from tests.integration.harness import Ran, chain, ended, serving
from tests.postgresql_servers import PGBOUNCER, Server, pgbouncer

DEFAULTS = {
    "repeatable read": ["default_transaction_isolation = 'repeatable read'"],
    "others": [
        "default_transaction_isolation = 'serializable'",
        "standard_conforming_strings = off",
        "row_security = off",
        "search_path = elsewhere",
        "plan_cache_mode = force_custom_plan",
    ],
}


@pytest.fixture(params=["direct", "pooled"])
async def url(request: pytest.FixtureRequest, server: Server) -> AsyncIterator[str]:
    if request.param == "direct":
        yield server.url("app")
        return
    if PGBOUNCER is None:
        pytest.skip("needs pgbouncer")
    async with pgbouncer(server, "transaction") as pooler:
        yield pooler.url("app")


@pytest.fixture(params=DEFAULTS)
async def defaults(request: pytest.FixtureRequest, server: Server) -> AsyncIterator[None]:
    async with server.superuser() as admin:
        for setting in DEFAULTS[request.param]:
            await admin.execute(f"ALTER ROLE app SET {setting}")
        yield
        await admin.execute("ALTER ROLE app RESET ALL")


@pytest.mark.usefixtures("defaults")
async def test_runs_are_triggered_and_executed_as_ever(server: Server, url: str) -> None:
    ran = Ran()
    graph = chain(one=ran.node("one"), two=ran.node("two"))
    async with serving(url, graph, listen_url=server.url("app")) as engine, engine.working():
        # All of one campaign, so that they change the same row of counts.
        campaign_id = (await engine.campaigns.insert(uuid4())).id
        run_ids = await asyncio.gather(*(engine.trigger(campaign_id=campaign_id) for _ in range(30)))
        for run_id in run_ids:
            assert await ended(engine, run_id) is RunStatus.COMPLETED
    assert len(ran.names) == 60


@pytest.mark.usefixtures("defaults")
async def test_a_tenant_of_any_spelling_is_itself_alone(url: str) -> None:
    database = Database(url, 1)
    for tenant_id in ("a'b", "a\\", "a\\'; SELECT 1; --", "%s"):
        async with database.tenant(tenant_id).transaction() as connection:
            assert await connection.fetchval("SELECT current_tenant()") == tenant_id
            assert await connection.fetchval("SHOW transaction_isolation") == "read committed"
    await database.close()
