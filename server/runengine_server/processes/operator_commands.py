"""The operator's commands on a running system: `workflows`, `retention`, `cache --clear`, `store --clear`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator

from runengine_server.database.database import Database
from runengine_server.domain.errors import Unavailable
from runengine_server.processes.open_database import cannot_connect, database_urls, open_database
from runengine_server.repositories import purges, retention
from runengine_server.repositories.workflow_repository import WorkflowRepository
from runengine_server.settings import Settings


async def list_workflows(settings: Settings) -> None:
    """Prints each workflow, how many workers serve it, and how many runs of it are queued."""
    async with _opened(settings, "workflows") as database:
        workflows = await WorkflowRepository(database).list()
    width = max([len("workflow"), *(len(each.name) for each in workflows)])
    sys.stdout.write(f"{'workflow':{width}}  {'workers':>7}  {'queued':>7}\n")
    for each in workflows:
        sys.stdout.write(f"{each.name:{width}}  {each.workers:7}  {each.queued:7}\n")


async def clear_cache(settings: Settings, workflow: str | None, tenant: str | None) -> None:
    """Deletes the cached results of steps, and prints how many entries that were."""
    async with _opened(settings, "cache") as database:
        cleared = await purges.clear_cache(database.dispatch(), workflow, tenant)
    sys.stdout.write(f"{cleared} cleared\n")


async def clear_store(settings: Settings, tenant: str, namespace: str) -> None:
    """Deletes what nodes have put into the store of a tenant, of all namespaces or below one, and prints
    how many items that were.
    """
    path = f".{namespace}." if namespace else "."
    async with _opened(settings, "store") as database:
        cleared = await purges.clear_store(database.tenant(tenant), tenant, path)
    sys.stdout.write(f"{cleared} cleared\n")


async def set_retention(settings: Settings, tenant: str | None, days: int | None, is_default: bool) -> None:
    """Sets for how many days a tenant keeps its runs, None for ever, or has it keep the default. Prints what
    each tenant has that has a number of its own.
    """
    async with _opened(settings, "retention") as database:
        if tenant is not None and is_default:
            await retention.reset_retention(database.tenant(tenant), tenant)
        elif tenant is not None:
            await retention.set_retention(database.tenant(tenant), tenant, days)
        own = await retention.own_retention(database.dispatch())
    width = max([len("tenant"), *map(len, own)])
    sys.stdout.write(f"{'tenant':{width}}  {'days':>7}\n")
    for tenant_id, kept in own.items():
        sys.stdout.write(f"{tenant_id:{width}}  {'forever' if kept is None else kept:>7}\n")


@contextlib.asynccontextmanager
async def _opened(settings: Settings, command: str) -> AsyncIterator[Database]:
    """The database, closed at the end. Raises SettingsError when it cannot be used."""
    database = await open_database(settings, command, connections=1)
    try:
        yield database
    except Unavailable as error:
        raise cannot_connect("RUNENGINE_DATABASE_URL", database_urls(settings)[1], error) from None
    finally:
        await database.close()
