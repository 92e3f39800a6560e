"""A database, or a role, whose defaults are others than PostgreSQL's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest
from runengine_server.database.database import Database
from runengine_server.database.functions import dispatch_function, tenant_function
from runengine_server.domain.run import RunStatus
from runengine_server.repositories.campaign_repository import CampaignRepository
from runengine_server.repositories.run_repository import RunRepository

from tests.support.own_worker import Ran, chain, ended, serving
from tests.support.postgresql_servers import PGBOUNCER, Server, pgbouncer

DEFAULTS = {
    "repeatable read": ["default_transaction_isolation = 'repeatable read'"],
    "others": [
        "default_transaction_isolation = 'serializable'",
        "standard_conforming_strings = off",
        "row_security = off",
        "search_path = elsewhere",
        "plan_cache_mode = force_custom_plan",
    ],
    "a hostile path": ["search_path = evil, pg_catalog, public"],
    "what policies read": [
        "runengine.dispatch = 'on'",
        "runengine.all_tenants = 'on'",
        "runengine.tenant = 'org_victim'",
    ],
}

# Whatever a statement may mean by a name that it does not qualify.
EVIL = """
CREATE SCHEMA evil;
GRANT USAGE ON SCHEMA evil TO public;
CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE sql RETURN '2000-01-01'::timestamptz;
CREATE FUNCTION evil.statement_timestamp() RETURNS timestamptz LANGUAGE sql RETURN '2000-01-01'::timestamptz;
CREATE FUNCTION evil.now_ms() RETURNS timestamptz LANGUAGE sql RETURN '2000-01-01'::timestamptz;
CREATE FUNCTION evil.touch(timestamptz) RETURNS timestamptz LANGUAGE sql RETURN $1;
CREATE FUNCTION evil.is_dispatch() RETURNS boolean LANGUAGE sql RETURN true;
CREATE FUNCTION evil.current_tenant() RETURNS text LANGUAGE sql RETURN 'org_victim'::text;
CREATE FUNCTION evil.current_setting(text, boolean) RETURNS text LANGUAGE sql RETURN 'on'::text;
CREATE FUNCTION evil.set_config(text, text, boolean) RETURNS text LANGUAGE sql RETURN $2;
CREATE FUNCTION evil.pg_backend_pid() RETURNS int LANGUAGE sql RETURN 1;
CREATE FUNCTION evil.same(text, text) RETURNS boolean LANGUAGE sql RETURN true;
CREATE FUNCTION evil.same(uuid, uuid) RETURNS boolean LANGUAGE sql RETURN true;
CREATE FUNCTION evil.same(bigint, bigint) RETURNS boolean LANGUAGE sql RETURN true;
CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.same);
CREATE OPERATOR evil.= (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = evil.same);
CREATE OPERATOR evil.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.same);
CREATE TABLE evil.runs (LIKE public.runs);
CREATE TABLE evil.workflows (LIKE public.workflows);
CREATE TABLE evil.run_steps (LIKE public.run_steps);
"""


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
        if not await admin.fetchval("SELECT to_regnamespace('evil') IS NOT NULL"):
            await admin.execute(EVIL)
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


async def test_values_are_compressed_by_lz4_where_the_server_can(server: Server) -> None:
    database = Database(server.url("app"), 1)
    setting = (
        "SELECT setting, 'lz4' = ANY(enumvals) FROM pg_settings WHERE name = 'default_toast_compression'"
    )
    async with database.connection() as connection:
        ((method, can),) = await database.fetch_on(connection, setting)
    await database.close()
    assert method == ("lz4" if can else "pglz")


@pytest.mark.usefixtures("defaults")
async def test_a_tenant_sees_its_own_alone_and_nobody_sees_nothing(url: str, server: Server) -> None:
    async with serving(url, chain(one=Ran().node("one")), listen_url=server.url("app")) as engine:
        run_id, campaign_id = await engine.trigger(), uuid4()
        await engine.campaigns.insert(campaign_id)
        for tenant_id in ("org_victim", "org_other"):
            other = engine.database.tenant(tenant_id)
            assert await RunRepository(other).get(run_id) is None
            assert await CampaignRepository(other).get(campaign_id) is None
            assert await other.fetch("SELECT FROM public.runs") == []
            assert await other.fetch("SELECT FROM public.campaigns") == []
        assert len(await engine.tenant.fetch("SELECT FROM public.runs")) == 1
        async with engine.database.connection() as connection:
            for table in ("runs", "campaigns"):
                assert await engine.database.fetch_on(connection, f"SELECT FROM public.{table}") == []


async def test_a_function_means_the_same_on_any_path_of_who_calls_it(server: Server) -> None:
    """As one who has not set the path that every process of ours sets."""
    async with server.superuser() as admin:
        if not await admin.fetchval("SELECT to_regnamespace('evil') IS NOT NULL"):
            await admin.execute(EVIL)
    async with serving(server.url("app"), chain(one=Ran().node("one"))) as engine:
        run_id = await engine.trigger()
        get, claim = tenant_function("get_run"), dispatch_function("claim_queued")
        bare = await asyncpg.connect(server.url("app"))
        await bare.execute("SET search_path = evil, pg_catalog, public")
        await bare.execute("CREATE TEMP TABLE runs (id int)")
        try:
            assert await bare.fetch(get.call, "org_victim", run_id) == []
            assert len(await bare.fetch(get.call, engine.tenant_id, run_id)) == 1
            arguments = ([engine.workflow], 5, 30.0, uuid4(), "worker:bare", "", None, *[None] * 4)
            (claimed,) = await bare.fetch(claim.call, *arguments)
        except asyncpg.UndefinedFunctionError as error:
            raise AssertionError("a function looks for another on the path of who calls it") from error
        assert claimed["id"] == run_id
        await bare.close()
        run = await engine.get(run_id)
        assert run.started_at is not None
        assert run.started_at >= run.created_at
