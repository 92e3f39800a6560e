"""The table of schedules; a part of schema.py."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Index,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
)

from runengine_server.database.columns import TIME, metadata, now, tenant

# request is a runengine.v1.TriggerRunRequest. next_at is the next firing, null while it is paused; due_at is
# when a server looks at it next, which is later while the firing waits, or while a server is at it. last_at
# is the last firing, and last_run_id the last run that one has triggered.
schedules = Table(
    "schedules",
    metadata,
    tenant(),
    Column("id", Uuid, nullable=False),
    Column("cron", Text, nullable=False),
    Column("time_zone", Text, nullable=False),
    Column("request", LargeBinary, nullable=False),
    Column("overlap", Text, nullable=False),
    Column("is_paused", Boolean, nullable=False),
    Column("next_at", TIME),
    Column("due_at", TIME),
    Column("last_at", TIME),
    Column("last_run_id", Uuid),
    Column("note", Text),
    now("created_at"),
    now("updated_at"),
    PrimaryKeyConstraint("tenant_id", "id"),
    CheckConstraint("overlap IN ('skip', 'queue', 'cancel')", name="schedules_overlap_check"),
    CheckConstraint("is_paused = (next_at IS NULL) AND is_paused = (due_at IS NULL)", name="schedules_check"),
)
Index("schedules_due", schedules.c.due_at, postgresql_where=schedules.c.due_at.is_not(None))  # due_schedules
