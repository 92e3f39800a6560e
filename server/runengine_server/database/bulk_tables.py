"""The tables of operations on many runs; a part of schema.py."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from runengine_server.database.columns import TIME, metadata, now, tenant

# What has become of an operation so far. filter is an encoded runengine.v1.RunFilter, null where the runs
# were named one by one; refused has a number for each reason. It is 'starting' within the transaction that
# stores its runs.
bulk_operations = Table(
    "bulk_operations",
    metadata,
    tenant(),
    Column("id", Uuid, nullable=False),
    Column("action", Text, nullable=False),
    Column("status", Text, nullable=False, server_default="starting"),
    Column("filter", LargeBinary),
    Column("reason", Text),
    Column("pace", Integer, nullable=False),
    Column("matched", Integer, nullable=False, server_default=text("0")),
    Column("processed", Integer, nullable=False, server_default=text("0")),
    Column("done", Integer, nullable=False, server_default=text("0")),
    Column("refused", JSONB, nullable=False, server_default="{}"),
    Column("actor", Text, nullable=False),
    Column("trace_id", Text),
    now("created_at"),
    Column("ended_at", TIME),
    # When a server may go on with it, as its pace has it; and whether it waits because of the quota.
    now("next_batch_at"),
    Column("is_over_quota", Boolean, nullable=False, server_default=text("false")),
    PrimaryKeyConstraint("tenant_id", "id"),
    CheckConstraint("action IN ('retry', 'cancel')", name="bulk_operations_action_check"),
    CheckConstraint(
        "status IN ('starting', 'running', 'completed', 'aborted')", name="bulk_operations_status_check"
    ),
)
# running_bulk_operations. The condition on created_at is one that its statements alone imply: PostgreSQL
# would take it for others in place of the primary key.
Index(
    "bulk_operations_running",
    bulk_operations.c.next_batch_at,
    postgresql_where=text("status = 'running' AND created_at IS NOT NULL"),
)

# The runs of an operation, in the order in which it comes to them. outcome is null until then. Without a
# foreign key to runs: one that was named need not be there; and none to bulk_operations, which 100,000 rows
# would look up.
bulk_operation_items = Table(
    "bulk_operation_items",
    metadata,
    tenant(),
    Column("operation_id", Uuid, nullable=False),
    Column("place", Integer, nullable=False),
    Column("run_id", Uuid, nullable=False),
    Column("outcome", Text),
    Column("reason", Text),
    Column("at", TIME),
    PrimaryKeyConstraint("tenant_id", "operation_id", "place"),
    CheckConstraint("outcome IN ('done', 'refused')", name="bulk_operation_items_outcome_check"),
)
# list_bulk_operation_items.
Index(
    "bulk_operation_items_by_outcome",
    bulk_operation_items.c.tenant_id,
    bulk_operation_items.c.operation_id,
    bulk_operation_items.c.outcome,
    bulk_operation_items.c.place,
    postgresql_where=bulk_operation_items.c.outcome.is_not(None),
)
