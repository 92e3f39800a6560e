"""The table of runs that are handed over to Temporal; a part of schema.py."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, PrimaryKeyConstraint, Table, Text, Uuid

from runengine_server.database.columns import metadata, now, tenant

# The attempt and the epoch that a run had when it was handed over, by which worker, and to which task queue:
# see handovers.sql. UNLOGGED, because nothing is lost with it: a commit that writes here alone waits for no
# disk, and after a crash of PostgreSQL the table is empty. Without a foreign key: end_handovers deletes
# what is over.
handovers = Table(
    "handovers",
    metadata,
    tenant(),
    Column("run_id", Uuid, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("worker_id", Uuid, nullable=False),
    Column("queue", Text, nullable=False),
    now("handed_over_at"),
    PrimaryKeyConstraint("tenant_id", "run_id"),
    prefixes=["UNLOGGED"],
)
