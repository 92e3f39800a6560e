"""Deletes runs that have ended long enough ago, with all that belongs to them, and bulk operations."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy import (
    ARRAY,
    ClauseElement,
    ColumnElement,
    Select,
    Table,
    Text,
    Uuid,
    any_,
    delete,
    func,
    literal,
    literal_column,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import insert

from runengine_server.database import functions
from runengine_server.database.bulk_tables import bulk_operation_items, bulk_operations
from runengine_server.database.composed import compiled
from runengine_server.database.connecting import Connection
from runengine_server.database.event_tables import run_events, step_events
from runengine_server.database.graph_tables import checkpoint_writes, checkpoints, step_cache, threads
from runengine_server.database.retention_tables import deleted_artifacts, tenant_settings
from runengine_server.database.schema import artifacts, campaign_run_counts, campaigns, run_steps, runs
from runengine_server.database.scopes import DispatchScope, TenantScope
from runengine_server.domain.run import ENDED, RunStatus

# Bounds of a transaction: runs, of which one may have any number of steps, and steps of all but the first.
_RUNS, _STEPS = 100, 2_000
# Rows a statement, of what has one row for each.
_ROWS = 1000
# And of cached results, each of which may be as large as RUNENGINE_MAX_STATE_BYTES: 1,000 were gigabytes.
_CACHED_ROWS = 20

_OF_RUNS = (step_events, run_events, run_steps, checkpoint_writes, checkpoints, artifacts)
_UUID = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Place:
    """How far a purge has come among the runs of one status, the oldest first."""

    created_at: datetime
    run_id: UUID


async def own_retention(dispatch: DispatchScope) -> dict[str, int | None]:
    """For how many days tenants keep their runs that have a number of their own; None is for ever."""
    columns = tenant_settings.c
    rows = await _fetch(
        dispatch, select(columns.tenant_id, columns.retention_days).order_by(columns.tenant_id)
    )
    return {row["tenant_id"]: row["retention_days"] for row in rows}


async def retained_tenants(dispatch: DispatchScope, default: int | None) -> dict[str, int]:
    """For how many days each tenant keeps its runs: those that have a number of their own, and, where there
    is a `default`, all others that have runs or operations that have ended. A few of them may have none.
    """
    others: set[str] = set()
    if default is not None:
        for table in (runs, bulk_operations):
            found = await _fetch(dispatch, next_tenant(table, ""))
            while found:
                others.add(found[0]["tenant_id"])
                found = await _fetch(dispatch, next_tenant(table, found[0]["tenant_id"]))
    kept = {**dict.fromkeys(others, default), **await own_retention(dispatch)}
    return {tenant_id: days for tenant_id, days in kept.items() if days is not None}


def next_tenant(table: Table, last: str) -> Select[tuple[str]]:
    """The statement that finds the tenant after `last` of runs that have ended, or of bulk operations: one
    step in an index, however many rows there are of one.
    """
    tenant_id = table.c.tenant_id
    of_table = (_has_ended(),) if table is runs else ()
    return select(tenant_id).where(tenant_id > last, *of_table).order_by(tenant_id).limit(1)


def runs_to_purge(
    tenant_id: str, status: RunStatus, cutoff: ColumnElement[datetime], after: Place | None
) -> Select[Any]:
    """The statement that finds and locks the oldest runs that have ended before `cutoff`, but for those that
    others have locked.
    """
    columns = runs.c
    slot = getattr(func, functions.schema()).slot_of_run(columns.id).label("slot")
    of_run = columns.id, columns.created_at, columns.campaign_id, columns.workflow_name, columns.thread_id
    conditions = [
        columns.tenant_id == tenant_id,
        # By itself: with a list of statuses PostgreSQL may read all of them, to sort them.
        columns.status == literal_column(f"'{status}'"),
        columns.created_at < cutoff,
        columns.updated_at < cutoff,
    ]
    if after is not None:
        place = literal(after.created_at, columns.created_at.type), literal(after.run_id, Uuid)
        conditions.append(tuple_(columns.created_at, columns.id) > tuple_(*place))
    in_order = select(*of_run, slot).where(*conditions).order_by(columns.created_at, columns.id).limit(_RUNS)
    return in_order.with_for_update(skip_locked=True)


async def tenants_with_bytes_to_delete(dispatch: DispatchScope) -> list[str]:
    """Those of which `bytes_to_delete` has something."""
    rows = await _fetch(dispatch, select(deleted_artifacts.c.tenant_id).distinct())
    return [row["tenant_id"] for row in rows]


async def set_retention(tenant: TenantScope, tenant_id: str, days: int | None) -> None:
    """Has the tenant keep its runs for so many days; None is for ever."""
    values = insert(tenant_settings).values(tenant_id=tenant_id, retention_days=days)
    await _fetch(
        tenant,
        values.on_conflict_do_update(
            index_elements=["tenant_id"], set_={"retention_days": values.excluded.retention_days}
        ),
    )


async def reset_retention(tenant: TenantScope, tenant_id: str) -> None:
    """Has the tenant keep its runs as long as the setting says."""
    await _fetch(tenant, delete(tenant_settings).where(tenant_settings.c.tenant_id == tenant_id))


class Retention:
    """What one tenant keeps for `days` days after it has ended."""

    def __init__(self, scope: TenantScope, tenant_id: str, days: int) -> None:
        self._scope = scope
        self._tenant_id = tenant_id
        self._cutoff = func.statement_timestamp() - timedelta(days=days)
        self._cached: set[UUID] | None = None

    async def purge_runs(self, status: RunStatus, after: Place | None) -> tuple[int, Place | None]:
        """Deletes the oldest runs of that status that have ended before, of those after `after`. Returns how
        many these are, and where to go on; None at the end.

        Keeps the last run of each campaign, and the run that has saved its bundle; runs that have saved what
        a cached result names; and all runs of a thread that is in use.
        """
        async with self._scope.transaction() as connection:
            candidates = await _run(connection, runs_to_purge(self._tenant_id, status, self._cutoff, after))
            if not candidates:
                return 0, None
            candidates = await self._bounded(connection, candidates)
            last = Place(candidates[-1]["created_at"], candidates[-1]["id"])
            kept = await self._kept(connection, [row["id"] for row in candidates])
            doomed = [row for row in candidates if row["id"] not in kept]
            doomed = await self._without_threads_in_use(connection, doomed)
            if doomed:
                await self._delete(connection, status, doomed)
            return len(doomed), last

    async def _bounded(
        self, connection: Connection, candidates: Sequence[asyncpg.Record]
    ) -> Sequence[asyncpg.Record]:
        of_runs = self._of(run_steps, [row["id"] for row in candidates])
        counted = await _run(
            connection,
            select(run_steps.c.run_id, func.count().label("steps"))
            .where(*of_runs)
            .group_by(run_steps.c.run_id),
        )
        steps = {row["run_id"]: row["steps"] for row in counted}
        total = 0
        for place, row in enumerate(candidates):
            total += steps.get(row["id"], 0)
            if total > _STEPS and place:
                return candidates[:place]
        return candidates

    def _of(self, table: Table, run_ids: Sequence[UUID]) -> tuple[ColumnElement[bool], ...]:
        return table.c.tenant_id == self._tenant_id, table.c.run_id == any_(literal(run_ids, ARRAY(Uuid)))

    async def _kept(self, connection: Connection, run_ids: Sequence[UUID]) -> set[UUID]:
        of_campaigns = select(campaigns.c.latest_run_id.label("run_id")).where(
            campaigns.c.tenant_id == self._tenant_id,
            tuple_(campaigns.c.id, campaigns.c.latest_run_id).in_(
                select(runs.c.campaign_id, runs.c.id).where(
                    runs.c.tenant_id == self._tenant_id, runs.c.id == any_(literal(run_ids, ARRAY(Uuid)))
                )
            ),
        )
        kept = {row["run_id"] for row in await _run(connection, of_campaigns)}
        saved = await _run(
            connection, select(artifacts.c.id, artifacts.c.run_id).where(*self._of(artifacts, run_ids))
        )
        if saved:
            named = await self._named_by_cache(connection)
            # A bundle's URL ends with the id of its artifact.
            bundle = func.right(campaigns.c.bundle_url, 36)
            texts = [str(row["id"]) for row in saved]
            bundles = await _run(
                connection,
                select(bundle.label("id")).where(
                    campaigns.c.tenant_id == self._tenant_id, bundle == any_(literal(texts, ARRAY(Text)))
                ),
            )
            named = named | {UUID(row["id"]) for row in bundles}
            kept |= {row["run_id"] for row in saved if row["id"] in named}
        return kept

    async def _named_by_cache(self, connection: Connection) -> set[UUID]:
        """Ids that are in cached results, of artifacts and of what else. Read once."""
        if self._cached is None:
            self._cached = set()
            columns = step_cache.c
            key = columns.workflow_name, columns.step_id, columns.key
            after: tuple[str, str, bytes] | None = None
            while True:
                statement = select(*key, columns.value).where(columns.tenant_id == self._tenant_id)
                if after is not None:
                    statement = statement.where(tuple_(*key) > tuple_(*map(literal, after)))
                found = await _run(connection, statement.order_by(*key).limit(_CACHED_ROWS))
                for row in found:
                    self._cached |= {UUID(each.decode()) for each in _UUID.findall(row["value"])}
                if len(found) < _CACHED_ROWS:
                    break
                after = found[-1]["workflow_name"], found[-1]["step_id"], found[-1]["key"]
        return self._cached

    async def _without_threads_in_use(
        self, connection: Connection, doomed: Sequence[asyncpg.Record]
    ) -> list[asyncpg.Record]:
        """Those that are of no thread that is in use. Deletes the threads of the others."""
        names = {(row["workflow_name"], row["thread_id"]) for row in doomed if row["thread_id"] is not None}
        if not names:
            return list(doomed)
        of_names = (
            threads.c.tenant_id == self._tenant_id,
            tuple_(threads.c.workflow_name, threads.c.thread_id).in_(_pairs(names)),
        )
        goes_on = (
            select(runs.c.id)
            .where(
                runs.c.tenant_id == self._tenant_id,
                runs.c.workflow_name == threads.c.workflow_name,
                runs.c.thread_id == threads.c.thread_id,
                runs.c.status.in_([literal_column("'queued'"), literal_column("'running'")]),
            )
            .exists()
        )
        columns = threads.c.workflow_name, threads.c.thread_id
        # Whoever uses a thread has its row locked; waiting for it here could be a deadlock.
        unused = await _run(
            connection,
            select(*columns)
            .where(*of_names, threads.c.used_at < self._cutoff, ~goes_on)
            .with_for_update(skip_locked=True),
        )
        there = await _run(connection, select(*columns).where(*of_names))
        gone = {(row["workflow_name"], row["thread_id"]) for row in unused}
        in_use = {(row["workflow_name"], row["thread_id"]) for row in there} - gone
        if gone:
            of_gone = threads.c.tenant_id == self._tenant_id, tuple_(*columns).in_(_pairs(gone))
            await _run(connection, delete(threads).where(*of_gone))
        return [row for row in doomed if (row["workflow_name"], row["thread_id"]) not in in_use]

    async def _delete(
        self, connection: Connection, status: RunStatus, doomed: Sequence[asyncpg.Record]
    ) -> None:
        run_ids = [row["id"] for row in doomed]
        keys = select(artifacts.c.tenant_id, artifacts.c.key).where(*self._of(artifacts, run_ids))
        columns = [deleted_artifacts.c.tenant_id, deleted_artifacts.c.key]
        await _run(connection, insert(deleted_artifacts).from_select(columns, keys).on_conflict_do_nothing())
        for table in _OF_RUNS:
            await _run(connection, delete(table).where(*self._of(table, run_ids)))
        of_runs = runs.c.tenant_id == self._tenant_id, runs.c.id == any_(literal(run_ids, ARRAY(Uuid)))
        await _run(connection, delete(runs).where(*of_runs))
        # Last, because claims and triggers of the campaigns wait for these rows; in the order in which
        # those lock them.
        slots = Counter((row["campaign_id"], row["slot"]) for row in doomed if row["campaign_id"] is not None)
        if slots:
            await _run(connection, self._count_down(status, slots))

    def _count_down(self, status: RunStatus, slots: Counter[tuple[UUID, int]]) -> ClauseElement:
        columns = campaign_run_counts.c
        of_slots = [(campaign_id, slot, -count) for (campaign_id, slot), count in sorted(slots.items())]
        types = columns.campaign_id.type, columns.slot.type, columns[status].type
        parts = zip(zip(*of_slots, strict=True), types, strict=True)
        rows = select(
            literal(self._tenant_id), *(func.unnest(literal(list(each), ARRAY(kind))) for each, kind in parts)
        )
        less = insert(campaign_run_counts).from_select(
            [columns.tenant_id, columns.campaign_id, columns.slot, columns[status]], rows
        )
        return less.on_conflict_do_update(
            index_elements=[columns.tenant_id, columns.campaign_id, columns.slot],
            set_={status.value: columns[status] + less.excluded[status]},
        )

    async def purge_bulk_operations(self) -> int:
        """Deletes operations that have ended before, and what they say of their runs; a part of them. Returns
        how many rows that were: 0 when there are no more.
        """
        ended = select(bulk_operations.c.id).where(
            bulk_operations.c.tenant_id == self._tenant_id, bulk_operations.c.ended_at < self._cutoff
        )
        items = bulk_operation_items
        key = items.c.operation_id, items.c.place
        due = (
            select(*key)
            .where(items.c.tenant_id == self._tenant_id, items.c.operation_id.in_(ended))
            .limit(_ROWS)
        )
        async with self._scope.transaction() as connection:
            of_items = items.c.tenant_id == self._tenant_id, tuple_(*key).in_(due)
            deleted = await _run(connection, delete(items).where(*of_items).returning(literal(1)))
            if deleted:
                return len(deleted)
            of_operations = bulk_operations.c.tenant_id == self._tenant_id, bulk_operations.c.id.in_(ended)
            gone = await _run(connection, delete(bulk_operations).where(*of_operations).returning(literal(1)))
            return len(gone)


async def bytes_to_delete(tenant: TenantScope, tenant_id: str) -> list[str]:
    """Up to 1,000 keys of artifacts of the tenant whose bytes are to be deleted."""
    columns = deleted_artifacts.c
    rows = await _fetch(tenant, select(columns.key).where(columns.tenant_id == tenant_id).limit(_ROWS))
    return [row["key"] for row in rows]


async def bytes_are_deleted(tenant: TenantScope, tenant_id: str, keys: Collection[str]) -> None:
    """Forgets the keys."""
    columns = deleted_artifacts.c
    of_keys = columns.tenant_id == tenant_id, columns.key == any_(literal(list(keys), ARRAY(Text)))
    await _fetch(tenant, delete(deleted_artifacts).where(*of_keys))


def _pairs(names: Collection[tuple[str, str]]) -> Select[Any]:
    """The rows of the names, of which there is one at least."""
    return select(*(func.unnest(literal(list(each), ARRAY(Text))) for each in zip(*names, strict=True)))


def _has_ended() -> ColumnElement[bool]:
    # As the index runs_ended has it, in whose order the runs of a tenant are found.
    statuses: list[ColumnElement[str]] = [literal_column(f"'{each}'") for each in sorted(ENDED)]
    return runs.c.status.in_(statuses) & runs.c.updated_at.is_not(None)


async def _run(connection: Connection, statement: ClauseElement) -> Sequence[asyncpg.Record]:
    sql, arguments = compiled(statement)
    return await connection.fetch(sql, *arguments)


async def _fetch(scope: TenantScope | DispatchScope, statement: ClauseElement) -> Sequence[asyncpg.Record]:
    sql, arguments = compiled(statement)
    return await scope.fetch(sql, *arguments)
