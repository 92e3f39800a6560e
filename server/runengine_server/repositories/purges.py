"""Deletes what an operator clears."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Table, delete, literal, select, tuple_
from sqlalchemy.sql.dml import ReturningDelete

from runengine_server.database.composed import compiled
from runengine_server.database.graph_tables import step_cache, store_items
from runengine_server.database.scopes import DispatchScope, Scope, TenantScope

# Rows a statement, so that no transaction is long.
_BATCH = 1000


def _purge(table: Table, *conditions: ColumnElement[bool]) -> ReturningDelete[int]:
    key = table.primary_key.columns
    due = select(*key).where(*conditions).limit(_BATCH)
    return delete(table).where(tuple_(*key).in_(due)).returning(literal(1))


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
