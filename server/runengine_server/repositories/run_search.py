"""Finds the runs of one tenant that a filter takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    LargeBinary,
    Select,
    Uuid,
    func,
    insert,
    literal,
    literal_column,
    select,
    tuple_,
    union_all,
)

from runengine_server.database import functions
from runengine_server.database.bulk_tables import bulk_operation_items
from runengine_server.database.composed import compiled
from runengine_server.database.schema import runs
from runengine_server.database.scopes import TenantScope
from runengine_server.domain.run import RunStatus
from runengine_server.domain.run_filter import RunFilter

_NEWEST_FIRST = (runs.c.created_at.desc(), runs.c.id.desc())


@dataclass(frozen=True, slots=True)
class FoundRuns:
    """`runs` are encoded, each in field 1; `last` is (created_at, id) of the last of them, where there are
    more.
    """

    runs: bytes
    last: tuple[datetime, UUID] | None


def items_of(
    tenant_id: str, operation_id: UUID, wanted: RunFilter, limit: int
) -> tuple[str, Sequence[object]] | None:
    """The statement, with its arguments, that stores the most recent `limit` of the runs as those of a bulk
    operation, the oldest first. None where there can be none.
    """
    if _holds_nul(wanted):
        return None
    found = _statement_of(tenant_id, wanted, limit, None, runs.c.status).subquery("found")
    place = func.row_number().over(order_by=(found.c.created_at, found.c.id))
    columns = bulk_operation_items.c
    return compiled(
        insert(bulk_operation_items).from_select(
            [columns.tenant_id, columns.operation_id, columns.place, columns.run_id],
            select(literal(tenant_id), literal(operation_id, Uuid), place, found.c.id),
        )
    )


async def count_found(
    scope: TenantScope, tenant_id: str, wanted: RunFilter, limit: int
) -> dict[str | None, int]:
    """How many of the most recent `limit` of the runs are in each status."""
    if _holds_nul(wanted):
        return {}
    found = _statement_of(tenant_id, wanted, limit, None, runs.c.status).subquery("found")
    sql, arguments = compiled(select(found.c.status, func.count()).group_by(found.c.status))
    return {row[0]: row[1] for row in await scope.fetch(sql, *arguments)}


async def find_runs(
    scope: TenantScope, tenant_id: str, wanted: RunFilter, limit: int, after: tuple[datetime, UUID] | None
) -> FoundRuns:
    """Up to `limit` runs, most recent first, after the one of `after`, its (created_at, id)."""
    if _holds_nul(wanted):
        return FoundRuns(b"", None)
    # One more than the page, to know whether there is another.
    sql, arguments = compiled(statement_of(tenant_id, wanted, limit + 1, after))
    found = await scope.fetch(sql, *arguments)
    page = found[:limit]
    last = (page[-1]["created_at"], page[-1]["id"]) if len(found) > limit else None
    return FoundRuns(b"".join([row["response"] for row in page]), last)


def statement_of(
    tenant_id: str, wanted: RunFilter, limit: int, after: tuple[datetime, UUID] | None
) -> Select[tuple[datetime, UUID, bytes]]:
    """Returns (created_at, id, response) of each run."""
    response = getattr(func, functions.schema()).run_response(
        runs.c.encoded_input, runs.c.encoded_state, runs.c.priority, runs.c.encoded_waiting, type_=LargeBinary
    )
    return _statement_of(tenant_id, wanted, limit, after, response.label("response"))


def _statement_of(
    tenant_id: str,
    wanted: RunFilter,
    limit: int,
    after: tuple[datetime, UUID] | None,
    shown: ColumnElement[Any],
) -> Select[Any]:
    common = list(_conditions(tenant_id, wanted, after))

    def newest(*conditions: ColumnElement[bool]) -> Select[Any]:
        columns = select(runs.c.created_at, runs.c.id, shown)
        return columns.where(*common, *conditions).order_by(*_NEWEST_FIRST).limit(limit)

    if wanted.error_code is not None:
        return newest(runs.c.error_code == wanted.error_code)
    if wanted.is_waiting:
        return newest(*_waiting())
    if wanted.campaign_id is not None and not wanted.statuses:
        return newest()
    # Those of each part come in order from an index, and are merged: PostgreSQL would otherwise read all of
    # them to sort them.
    conditions = [
        each
        for status in wanted.statuses or RunStatus
        for each in ([(_has_status(status),)] if wanted.campaign_id is not None else _conditions_of(status))
    ]
    parts = [newest(*each).subquery(f"part_{number}").select() for number, each in enumerate(conditions)]
    merged = union_all(*parts).subquery("merged")
    return select(merged).order_by(merged.c.created_at.desc(), merged.c.id.desc()).limit(limit)


def _holds_nul(wanted: RunFilter) -> bool:
    # No text of PostgreSQL does, so it finds nothing.
    return "\0" in f"{wanted.workflow_name}{wanted.error_code}"


def _conditions_of(status: RunStatus) -> Iterator[tuple[ColumnElement[bool], ...]]:
    """Conditions of parts that make up all runs of the status, each the condition of an index."""
    if status is RunStatus.RUNNING:
        yield _has_status(status), runs.c.lease_expires_at.is_not(None)
        yield *_waiting(), runs.c.lease_expires_at.is_(None)
    else:
        yield _has_status(status), runs.c.updated_at < literal_column("'infinity'::timestamptz")


def _waiting() -> tuple[ColumnElement[bool], ...]:
    return _has_status(RunStatus.RUNNING), runs.c.encoded_waiting.is_not(None)


def _has_status(status: RunStatus) -> ColumnElement[bool]:
    # Not as a parameter, of which PostgreSQL does not know that it implies the condition of an index.
    return runs.c.status == literal_column(f"'{status.value}'")


def _conditions(
    tenant_id: str, wanted: RunFilter, after: tuple[datetime, UUID] | None
) -> Iterator[ColumnElement[bool]]:
    yield runs.c.tenant_id == tenant_id
    if wanted.workflow_name is not None:
        yield runs.c.workflow_name == wanted.workflow_name
    if wanted.campaign_id is not None:
        yield runs.c.campaign_id == wanted.campaign_id
    if wanted.created_after is not None:
        yield runs.c.created_at >= wanted.created_after
    if wanted.created_before is not None:
        yield runs.c.created_at < wanted.created_before
    if after is not None:
        yield tuple_(runs.c.created_at, runs.c.id) < tuple_(*after)
