"""The tables that keep what graphs need from step to step and from run to run; a part of schema.py."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Identity,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
)
from sqlalchemy.dialects.postgresql import JSON

from runengine_server.database.columns import TIME, metadata, now, of_run, tenant

# Each step of a run replaces its checkpoint, and a large state has a thousand rows in the TOAST table. By
# default autovacuum would wait until a fifth of these are dead, and then pause between pages.
_VACUUMED_OFTEN = {
    "autovacuum_vacuum_scale_factor": 0.05,
    "autovacuum_vacuum_cost_delay": 0,
    "toast.autovacuum_vacuum_scale_factor": 0.05,
    "toast.autovacuum_vacuum_threshold": 1000,
    "toast.autovacuum_vacuum_cost_delay": 0,
}

# LangGraph's checkpoints of runs that have not completed, and of the last of each thread that has. That with
# the greatest seq is current. Their ids contain a time too, but by the worker's clock, and that of its
# successor may be behind. value_refs: which of run_values were cut out of `checkpoint`, see values.sql.
checkpoints = Table(
    "checkpoints",
    metadata,
    tenant(),
    Column("run_id", Uuid, nullable=False),
    Column("checkpoint_ns", Text, nullable=False),
    Column("checkpoint_id", Text, nullable=False),
    Column("parent_checkpoint_id", Text),
    Column("seq", BigInteger, Identity(always=True), nullable=False),
    Column("type", Text, nullable=False),
    Column("checkpoint", LargeBinary, nullable=False),
    Column("metadata", LargeBinary, nullable=False),
    Column("value_refs", LargeBinary),
    PrimaryKeyConstraint("tenant_id", "run_id", "checkpoint_ns", "checkpoint_id"),
    of_run(),
    postgresql_with=_VACUUMED_OFTEN,
)
checkpoint_writes = Table(
    "checkpoint_writes",
    metadata,
    tenant(),
    Column("run_id", Uuid, nullable=False),
    Column("checkpoint_ns", Text, nullable=False),
    Column("checkpoint_id", Text, nullable=False),
    Column("task_id", Text, nullable=False),
    Column("idx", Integer, nullable=False),
    Column("task_path", Text, nullable=False),
    Column("channel", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("value", LargeBinary, nullable=False),
    PrimaryKeyConstraint("tenant_id", "run_id", "checkpoint_ns", "checkpoint_id", "task_id", "idx"),
    of_run(),
    postgresql_with=_VACUUMED_OFTEN,
)

# Large values of a run's checkpoints and of its steps' inputs, stored once however many of these have them.
# Those of checkpoints are deleted with the last that has them. hash is the beginning of its SHA-256. The
# foreign key deletes too, because the purge of the version before does not know of them.
run_values = Table(
    "run_values",
    metadata,
    tenant(),
    Column("run_id", Uuid, nullable=False),
    Column("of_steps", Boolean, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("value", LargeBinary, nullable=False),
    PrimaryKeyConstraint("tenant_id", "run_id", "of_steps", "hash"),
    of_run(ondelete="CASCADE"),
    postgresql_with=_VACUUMED_OFTEN,
)

# What nodes with a CachePolicy returned. key is the SHA-256 of the node's code and the policy's key.
step_cache = Table(
    "step_cache",
    metadata,
    tenant(),
    Column("workflow_name", Text, nullable=False),
    Column("step_id", Text, nullable=False),
    Column("key", LargeBinary, nullable=False),
    Column("type", Text, nullable=False),
    Column("value", LargeBinary, nullable=False),
    Column("expires_at", TIME),
    PrimaryKeyConstraint("tenant_id", "workflow_name", "step_id", "key"),
)
# purge_expired.
Index("step_cache_by_age", step_cache.c.expires_at, postgresql_where=step_cache.c.expires_at.is_not(None))

# What nodes have put into runtime.store. namespace is the path with a dot before, between and after its
# labels, ".users.42.", so that a prefix of a path is a prefix of the text; in the order of its bytes, so that
# an index finds it by that. value is JSON as it was written: jsonb would change numbers and order.
store_items = Table(
    "store_items",
    metadata,
    tenant(),
    Column("namespace", Text(collation="C"), nullable=False),
    Column("key", Text(collation="C"), nullable=False),
    Column("value", JSON, nullable=False),
    Column("created_at", TIME, nullable=False),
    Column("updated_at", TIME, nullable=False),
    PrimaryKeyConstraint("tenant_id", "namespace", "key"),
)

# The threads of runs. last_place is that of the run that was triggered last. The checkpoints of the run
# state_run_id are the state of the thread, which has none where that is NULL. used_at: when a run of it was
# triggered, was retried or ended last.
threads = Table(
    "threads",
    metadata,
    tenant(),
    Column("workflow_name", Text, nullable=False),
    Column("thread_id", Text, nullable=False),
    Column("last_place", BigInteger, nullable=False),
    Column("state_run_id", Uuid),
    now("used_at"),
    PrimaryKeyConstraint("tenant_id", "workflow_name", "thread_id"),
)
