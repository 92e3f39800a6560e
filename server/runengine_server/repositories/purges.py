"""Deletes what has expired, and what an operator clears."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import ColumnElement, Table, delete, func, literal, select, tuple_
from sqlalchemy.sql.dml import ReturningDelete

from runengine_server.database.composed import compiled
from runengine_server.database.graph_tables import step_cache, store_items
from runengine_server.database.schema import idempotency_keys, workflow_workers
from runengine_server.database.scopes import DispatchScope, Scope, TenantScope
from runengine_server.database.webhook_tables import campaign_events, webhook_deliveries

# Rows a statement, so that no transaction is long.
_BATCH = 1000

_now = func.statement_timestamp()


def _purge(table: Table, *conditions: ColumnElement[bool]) -> ReturningDelete[int]:
    key = table.primary_key.columns
    due = select(*key).where(*conditions).limit(_BATCH)
    return delete(table).where(tuple_(*key).in_(due)).returning(literal(1))


_EXPIRED = (
    _purge(idempotency_keys, idempotency_keys.c.created_at < _now - timedelta(days=7)),
    _purge(step_cache, step_cache.c.expires_at < _now),
    _purge(workflow_workers, workflow_workers.c.expires_at < _now),
    _purge(
        webhook_deliveries, webhook_deliveries.c.status != "pending", webhook_deliveries.c.expires_at < _now
    ),
    # Those that an endpoint was not sent before it was disabled: nobody finds that they are dead.
    _purge(
        webhook_deliveries,
        webhook_deliveries.c.next_attempt_at.is_not(None),
        webhook_deliveries.c.expires_at < _now - timedelta(days=30),
    ),
    # Who has not read them by then never will: an endpoint that is disabled begins anew when it is enabled.
    _purge(campaign_events, campaign_events.c.at < _now - timedelta(days=7)),
)


async def purge_expired(dispatch: DispatchScope) -> None:
    """Deletes idempotency keys of more than seven days, cache entries that have expired, workers that stopped
    without withdrawing, and deliveries of webhooks that ended long ago.
    """
    for statement in _EXPIRED:
        await _repeat(dispatch, statement)


async def clear_cache(dispatch: DispatchScope, workflow_name: str | None, tenant_id: str | None) -> int:
    """Deletes what steps have cached, of one workflow and tenant or of all. Returns how many entries."""
    conditions: list[ColumnElement[bool]] = []
    if workflow_name is not None:
        conditions.append(step_cache.c.workflow_name == workflow_name)
    if tenant_id is not None:
        conditions.append(step_cache.c.tenant_id == tenant_id)
    return await _repeat(dispatch, _purge(step_cache, *conditions))


async def clear_store(tenant: TenantScope, tenant_id: str, path: str) -> int:
    """Deletes what the runs of the tenant have put into its store, in the namespaces that begin with `path`,
    which is as in graph_tables.py. Returns how many items.
    """
    columns = store_items.c
    # What begins with ".users." comes before ".users/".
    namespaces = (columns.namespace >= path, columns.namespace < f"{path[:-1]}/")
    return await _repeat(tenant, _purge(store_items, columns.tenant_id == tenant_id, *namespaces))


async def _repeat(scope: Scope, statement: ReturningDelete[int]) -> int:
    sql, arguments = compiled(statement)
    deleted = 0
    while found := await scope.fetch(sql, *arguments):
        deleted += len(found)
    return deleted
