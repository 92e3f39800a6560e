"""What schema.py describes is what the migrations build."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from runengine_server.database import schema
from sqlalchemy import Connection, UniqueConstraint, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

# Each with what PostgreSQL itself says of it; columns in any order, which only tells how a table came to be.
CATALOGS = {
    "columns": """SELECT attrelid::regclass || '.' || attname, format_type(atttypid, atttypmod), attnotnull,
        attidentity, attgenerated, pg_get_expr(adbin, adrelid)
        FROM pg_attribute LEFT JOIN pg_attrdef ON (adrelid, adnum) = (attrelid, attnum)
        JOIN pg_class ON pg_class.oid = attrelid
        WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0 AND NOT attisdropped""",
    "tables": """SELECT oid::regclass::text, relpersistence, relrowsecurity, relforcerowsecurity, reloptions
        FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'""",
    "constraints": """SELECT conrelid::regclass || '.' || conname, pg_get_constraintdef(oid)
        FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace AND contype <> 'n'""",
    "indexes": """SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index
        JOIN pg_class ON pg_class.oid = indexrelid WHERE relnamespace = 'public'::regnamespace""",
    "policies": """SELECT tablename || '.' || policyname, permissive, roles::text, cmd, qual, with_check
        FROM pg_policies WHERE schemaname = 'public'""",
    "triggers": """SELECT tgrelid::regclass || '.' || tgname, pg_get_triggerdef(oid) FROM pg_trigger
        WHERE NOT tgisinternal""",
    "functions": """SELECT oid::regprocedure::text, pg_get_functiondef(oid) FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace AND proname <> 'encoded_bytes'""",
}

# Of the fleet, and of no tenant: what all workers and servers share. Small, so a sharded database has them
# on each node.
OF_THE_FLEET = {"workflows", "workflow_workers", "worker_leases", "chores", "function_schemas"}


@pytest.fixture
async def databases() -> AsyncIterator[dict[str, AsyncEngine]]:
    """One built from schema.py, and one that was migrated."""
    host = os.environ["RUNENGINE_TEST_POSTGRES"]
    admin = await asyncpg.connect(f"postgresql://postgres@/postgres?host={host}")
    engines = {}
    for built, template in {"described": "template1", "migrated": "runengine"}.items():
        name = f"{built}_{uuid4().hex}"
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        url = f"postgresql+asyncpg://postgres@/{name}?host={quote(host, safe='%')}"
        engines[name] = create_async_engine(url)
    described, migrated = engines.values()
    async with described.begin() as connection:
        await connection.run_sync(schema.metadata.create_all)
    yield {"described": described, "migrated": migrated}
    for name, engine in engines.items():
        await engine.dispose()
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


async def catalog(engine: AsyncEngine, query: str) -> dict[str, Any]:
    async with engine.connect() as connection:
        rows = await connection.execute(text(query.replace(":", r"\:")))
        return {name: what for name, *what in rows if "alembic_version" not in name}


@pytest.mark.parametrize("kind", CATALOGS)
async def test_the_schema_described_is_the_schema_migrated(
    databases: dict[str, AsyncEngine], kind: str
) -> None:
    described, migrated = [await catalog(databases[built], CATALOGS[kind]) for built in databases]
    assert described == migrated


async def test_alembic_finds_nothing_to_migrate(databases: dict[str, AsyncEngine]) -> None:
    def differences(connection: Connection) -> list[Any]:
        return list(compare_metadata(MigrationContext.configure(connection), schema.metadata))

    async with databases["migrated"].connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_a_column_that_no_migration_has_made_is_found(databases: dict[str, AsyncEngine]) -> None:
    async with databases["described"].begin() as connection:
        await connection.execute(text("ALTER TABLE runs ADD COLUMN forgotten text"))
    described, migrated = [await catalog(databases[built], CATALOGS["columns"]) for built in databases]
    assert described.keys() - migrated.keys() == {"runs.forgotten"}


def test_every_key_carries_the_tenant_so_that_rows_can_be_distributed_by_it() -> None:
    assert {
        table.name for table in schema.metadata.tables.values() if "tenant_id" not in table.c
    } == OF_THE_FLEET
    for table in schema.metadata.tables.values():
        if table.name in OF_THE_FLEET:
            referred = {key.referred_table.name for key in table.foreign_key_constraints}
            assert referred <= OF_THE_FLEET
            continue
        unique = [index.columns for index in table.indexes if index.unique]
        unique += [each.columns for each in table.constraints if isinstance(each, UniqueConstraint)]
        for columns in (table.primary_key.columns, *unique):
            assert next(iter(columns)) is table.c.tenant_id, table.name
        for key in table.foreign_key_constraints:
            pairs = {(each.parent.name, each.column.name) for each in key.elements}
            assert ("tenant_id", "tenant_id") in pairs, (table.name, key.column_keys)
