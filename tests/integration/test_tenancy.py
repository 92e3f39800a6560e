"""Two walls between tenants: the predicates of the queries, and row-level security. Each holds alone."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
from runengine_client import RunEngineClient
from runengine_server.database.database import Database
from runengine_server.database.functions import tenant_function
from runengine_server.domain.caller import Actor
from runengine_server.domain.changes import Position, Scope
from runengine_server.domain.errors import StatementRefused
from runengine_server.domain.run import RunStatus
from runengine_server.repositories.artifact_repository import ArtifactRepository
from runengine_server.repositories.artifact_store import ArtifactStore
from runengine_server.repositories.campaign_repository import CampaignRepository
from runengine_server.repositories.change_repository import ChangeRepository, Reader
from runengine_server.repositories.run_repository import Outcome, RunRepository

from tests.support.rewritten_functions import replace_all

ACTOR = Actor("test", None)


@dataclass(frozen=True)
class Theirs:
    """One of each thing, of another tenant."""

    tenant_id: str
    campaign_id: uuid.UUID
    run_id: uuid.UUID
    artifact_id: uuid.UUID
    item: tuple[str, str]


@pytest.fixture
async def theirs(client: RunEngineClient, organisation: str, database: asyncpg.Connection) -> Theirs:
    campaign = await client.create_campaign()
    run = await client.trigger_run("two-artifacts", campaign_id=campaign.id)
    await client.wait(run.id)
    (step,) = await client.list_run_steps(run.id)
    campaign_id, run_id, artifact_id = map(uuid.UUID, (campaign.id, run.id, step.output_artifact_ids[0]))
    item = (".theirs.", "key")
    await database.execute(
        """INSERT INTO store_items (tenant_id, namespace, key, value, created_at, updated_at)
        VALUES ($1, $2, $3, '{}', now(), now())""",
        organisation,
        *item,
    )
    return Theirs(organisation, campaign_id, run_id, artifact_id, item)


async def _database(url: str) -> AsyncIterator[Database]:
    database = Database(url, 2)
    await database.open()
    yield database
    await database.close()


@pytest.fixture
async def with_policies(database_url: str) -> AsyncIterator[Database]:
    async for database in _database(database_url):
        yield database


@pytest.fixture
async def without_policies(database_url: str) -> AsyncIterator[Database]:
    """As a superuser, whom no policy binds."""
    async for database in _database(database_url.replace("runengine_app@", "postgres@")):
        yield database


@pytest.fixture
async def without_predicates(database: asyncpg.Connection) -> AsyncIterator[None]:
    """Every `tenant_id = _tenant` of the functions becomes true for every row."""
    predicate = r"((?:\w+\.)?tenant_id) = _tenant\b"
    await replace_all(database, lambda sql: re.sub(predicate, r"\1 IS NOT NULL", sql))
    yield
    await replace_all(database, lambda sql: sql)


async def what_is_seen(database: Database, tenant_id: str, theirs: Theirs) -> list[Any]:
    """What `tenant_id` gets of every way to see, or to move, something of theirs."""
    scope = database.tenant(tenant_id)
    runs = RunRepository(scope)
    namespace, key = theirs.item
    items = [
        await scope.call(tenant_function("get_store_items"), [namespace], [key]),
        await scope.call(tenant_function("search_store_items"), namespace, None, 10, 0),
        await scope.call(tenant_function("list_store_namespaces"), ".", [], None, 10, 0),
    ]
    page = await runs.list_of_campaign(theirs.campaign_id, [], 10, 0, None)
    filtered = await runs.list_of_campaign(theirs.campaign_id, list(RunStatus), 10, 0, None)
    moves = [
        await runs.cancel(theirs.run_id, ACTOR, None),
        await runs.retry(theirs.run_id, ACTOR, None, None),
    ]
    return [
        await runs.get(theirs.run_id),
        await runs.list_steps(theirs.run_id, None) or None,
        await runs.list_events(theirs.run_id),
        await runs.get_output(theirs.run_id),
        page.runs or None,
        filtered.runs or None,
        sum(page.counts) or None,
        *await what_is_streamed(database, tenant_id, theirs),
        *(None if move.outcome is Outcome.RUN_NOT_FOUND else move.outcome for move in moves),
        await CampaignRepository(scope).get(theirs.campaign_id),
        await ArtifactRepository(scope).get(theirs.artifact_id),
        *(each or None for each in items),
    ]


async def what_is_streamed(database: Database, tenant_id: str, theirs: Theirs) -> list[Any]:
    """As what_is_seen, to those who watch."""
    changes, run_id = ChangeRepository(database), theirs.run_id
    of_run = Scope(tenant_id, run_id=run_id)
    scopes = of_run, Scope(tenant_id, campaign_id=theirs.campaign_id), Scope(tenant_id)
    snapshots = [await changes.begin(scope, 10) for scope in scopes]
    readers = [
        Reader(tenant_id, Position(None), (run_id,)),
        Reader(tenant_id, Position("1:1:"), (run_id, uuid.uuid4())),
        Reader(tenant_id, Position("1:1:"), None),
    ]
    async with database.listening_connection(lambda channel, payload: None) as connection:
        read = await changes.read(connection, readers)
    return [
        *(each.runs or None for each in snapshots),
        snapshots[0].steps or None,
        (await changes.resume(of_run, Position("1:1:"))).status,
        *(each.changes or None for each in read),
    ]


async def test_the_owner_sees_all_of_it(with_policies: Database, theirs: Theirs) -> None:
    assert None not in await what_is_seen(with_policies, theirs.tenant_id, theirs)


async def test_predicates_alone_hide_every_foreign_row(without_policies: Database, theirs: Theirs) -> None:
    seen = await what_is_seen(without_policies, "org_other", theirs)
    assert seen == [None] * len(seen)


@pytest.mark.usefixtures("without_predicates")
async def test_policies_alone_hide_every_foreign_row(with_policies: Database, theirs: Theirs) -> None:
    seen = await what_is_seen(with_policies, "org_other", theirs)
    assert seen == [None] * len(seen)


@pytest.mark.usefixtures("without_predicates")
async def test_without_either_wall_everything_is_seen(without_policies: Database, theirs: Theirs) -> None:
    """So the two tests above can fail."""
    assert None not in await what_is_seen(without_policies, "org_other", theirs)


async def test_every_table_with_a_tenant_is_under_forced_policies(database: asyncpg.Connection) -> None:
    tables = await database.fetch("""
        SELECT relname, relrowsecurity AND relforcerowsecurity AS forced,
            (SELECT array_agg(polname::text) FROM pg_policy WHERE polrelid = pg_class.oid) AS policies
        FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
        WHERE attname = 'tenant_id' AND relkind = 'r'
    """)
    assert {table["relname"] for table in tables} >= {
        "runs",
        "checkpoints",
        "checkpoint_writes",
        "step_cache",
    }
    for table in tables:
        assert table["forced"], table["relname"]
        assert "tenant" in table["policies"], table["relname"]


async def test_without_a_tenant_nothing_is_seen(with_policies: Database, theirs: Theirs) -> None:
    """Also right after a transaction that had one, on the same connection."""
    await RunRepository(with_policies.tenant(theirs.tenant_id)).get(theirs.run_id)
    async with with_policies.connection() as connection:
        tables = await connection.fetch(
            "SELECT relname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid "
            "WHERE attname = 'tenant_id' AND relkind = 'r'"
        )
        for table in tables:
            assert await connection.fetchval(f"SELECT count(*) FROM {table['relname']}") == 0


async def test_no_row_can_be_written_for_another_tenant(with_policies: Database, theirs: Theirs) -> None:
    scope = with_policies.tenant("org_other")
    with pytest.raises(StatementRefused):
        await scope.fetch(
            "INSERT INTO campaigns (tenant_id, id) VALUES ($1, $2)", theirs.tenant_id, uuid.uuid4()
        )
    moved = await scope.fetch("UPDATE runs SET workflow_name = 'x' WHERE id = $1 RETURNING 1", theirs.run_id)
    assert moved == []


@pytest.mark.parametrize(
    "change", [lambda name: name + "'; SELECT 1; --", lambda name: name + "\\", lambda name: f"{name}%"]
)
async def test_a_tenant_of_any_spelling_is_itself_alone(
    with_policies: Database, theirs: Theirs, change: Callable[[str], str]
) -> None:
    assert set(await what_is_seen(with_policies, change(theirs.tenant_id), theirs)) == {None}
    async with with_policies.tenant(change("a'b")).transaction() as transaction:
        assert await transaction.fetchval("SELECT current_tenant()") == change("a'b")


def test_artifacts_of_different_tenants_lie_apart() -> None:
    ids = uuid.uuid4(), uuid.uuid4()
    keys = {ArtifactStore.key(tenant, *ids) for tenant in ("a", "a/..", "..", ".", "a%2F..")}
    assert len(keys) == 5
    for key in keys:
        assert key.count("/") == 2
        assert ".." not in key
