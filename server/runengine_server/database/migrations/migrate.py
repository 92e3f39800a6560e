"""Brings a database to the newest schema, and the application's role into being."""

from __future__ import annotations

import asyncio
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from runengine_server.database import functions
from runengine_server.database.connecting import MIGRATION_SETTINGS, Connector, keeps_session
from runengine_server.database.postgres_url import parse_postgres_url

# duplicate_object, and unique_violation when two create it in the same moment.
_EXISTS_ALREADY = ("42710", "23505")

# The key of the lock that one migration holds at a time: any number that nothing else in the database locks.
ADVISORY_LOCK = 7_405_113_217

# How often a migration asks for it.
_LOCK_SECONDS = 0.1


class SessionShared(Exception):
    """The owner's URL is that of a pooler that gives the session to others after each transaction."""


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _quoted(name: str, quote: str) -> str:
    return quote + name.replace(quote, quote * 2) + quote


async def migrate(owner_url: str, application_url: str, *, prune: bool = False) -> list[str]:
    """Runs all migrations that are due, as the owner, creates the functions of this version, and grants
    the role of `application_url` what it needs; creates that role, with the URL's password, where it
    is missing. With `prune` it drops the functions of versions that no server has used for a day, and
    returns their schemas.

    Concurrent calls wait for one another. Raises SessionShared; ValueError for a URL that is wrong; and
    OSError, asyncpg.PostgresError, asyncpg.InterfaceError or SQLAlchemy's DBAPIError when the database
    cannot be reached or refuses.
    """
    connector = Connector(owner_url, "migrate", MIGRATION_SETTINGS)
    if not await keeps_session(connector):
        raise SessionShared
    engine = create_async_engine("postgresql+asyncpg://", async_creator=connector.connect, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await _lock(connection)
            await connection.run_sync(_upgrade)
            await connection.commit()
            role = await connection.run_sync(_grant, application_url)
            await connection.commit()
            driver = (await connection.get_raw_connection()).driver_connection
            assert driver is not None
            await functions.install(driver, role)
            return await functions.prune(driver) if prune else []
    finally:
        await engine.dispose()


async def _lock(connection: AsyncConnection) -> None:
    """Waits until no other migration is under way. It asks again and again: a statement that waits has a
    snapshot, for whose end CREATE INDEX CONCURRENTLY waits in turn.
    """
    while not await connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": ADVISORY_LOCK}):
        await connection.commit()
        await asyncio.sleep(_LOCK_SECONDS)
    await connection.commit()


def _grant(connection: Connection, application_url: str) -> str | None:
    """The application's role, quoted; None where it is the owner."""
    url = parse_postgres_url(application_url)
    name = url.user
    if not name or name == connection.scalar(text("SELECT current_user")):
        return None
    role = _quoted(name, '"')
    if not connection.scalar(text("SELECT 1 FROM pg_roles WHERE rolname = :name"), {"name": name}):
        password = f" PASSWORD {_quoted(url.password, chr(39))}" if url.password else ""
        # Roles belong to the cluster, and another database of it may be migrated at the same time.
        try:
            with connection.begin_nested():
                connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN{password}")
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) not in _EXISTS_ALREADY:
                raise
    connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA public TO {role}")
    connection.exec_driver_sql(
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"
    )
    connection.exec_driver_sql(f"REVOKE ALL ON alembic_version FROM {role}")
    # The one sequence that is not a column's own alone.
    connection.exec_driver_sql(f"GRANT USAGE ON SEQUENCE public.run_events_seq_seq TO {role}")
    return role
