"""The tables of what is kept for how long; a part of schema.py."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, Integer, PrimaryKeyConstraint, Table, Text

from runengine_server.database.columns import metadata, tenant

# What an operator has set for one tenant alone. retention_days: for how many days runs are kept after they
# have ended; null for ever.
tenant_settings = Table(
    "tenant_settings",
    metadata,
    tenant(),
    Column("retention_days", Integer),
    PrimaryKeyConstraint("tenant_id"),
    CheckConstraint("retention_days > 0", name="tenant_settings_retention_days_check"),
)

# Keys of artifacts that have no row any more, and whose bytes are still to be deleted: written by the
# transaction that deletes the rows, so that a worker that dies in between leaves no bytes for ever.
deleted_artifacts = Table(
    "deleted_artifacts",
    metadata,
    tenant(),
    Column("key", Text, nullable=False),
    PrimaryKeyConstraint("tenant_id", "key"),
)
