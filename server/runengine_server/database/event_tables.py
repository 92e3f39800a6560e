"""The tables of what has become of runs and steps; a part of schema.py."""

from __future__ import annotations

from sqlalchemy import (
    DDL,
    BigInteger,
    Column,
    Identity,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    event,
    text,
)

from runengine_server.database.columns import TIME, metadata, tenant, transaction

# The log of transitions; each row shares the transaction of the change that it records. operation_id is the
# bulk operation that made it. Without a foreign key, whose check took a twentieth of a claim of ten runs: the
# statement that inserts an event is the one that changes its run.
run_events = Table(
    "run_events",
    metadata,
    tenant(),
    Column("run_id", Uuid, nullable=False),
    Column("seq", BigInteger, Identity(always=True), nullable=False),
    Column("at", TIME, nullable=False),
    Column("from_status", Text),
    Column("to_status", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("trace_id", Text),
    Column("error", LargeBinary),
    Column("operation_id", Uuid),
    transaction(),
    PrimaryKeyConstraint("tenant_id", "run_id", "seq"),
)
Index(
    "run_events_by_transaction",  # find_changes
    run_events.c.tenant_id,
    run_events.c.transaction,
    # Or PostgreSQL takes it in place of the primary key.
    postgresql_where=run_events.c.transaction.is_not(None),
)

# The same for steps, with seq of the same sequence, and the status that the execution has come to at that
# time. Triggers of run_steps write it, so that no statement can forget to, nor one of a server of an older
# version. Without a foreign key, whose check would take as long as the rest of an insert.
step_events = Table(
    "step_events",
    metadata,
    tenant(),
    Column("run_id", Uuid, nullable=False),
    Column("seq", BigInteger, nullable=False, server_default=text("nextval('public.run_events_seq_seq')")),
    Column("at", TIME, nullable=False),
    Column("id", Uuid, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("status", Text, nullable=False),
    transaction(),
    PrimaryKeyConstraint("tenant_id", "run_id", "seq"),
)
step_events.add_is_dependent_on(run_events)
Index(
    "step_events_by_transaction",  # find_changes
    step_events.c.tenant_id,
    step_events.c.transaction,
    postgresql_where=step_events.c.transaction.is_not(None),
)
for _trigger in (
    "log_inserted_steps AFTER INSERT ON run_steps REFERENCING NEW TABLE AS inserted",
    "log_updated_steps AFTER UPDATE ON run_steps REFERENCING OLD TABLE AS before NEW TABLE AS updated",
):
    event.listen(
        metadata,
        "after_create",
        DDL(f"CREATE TRIGGER {_trigger} FOR EACH STATEMENT EXECUTE FUNCTION {_trigger.split()[0]}()"),  # type: ignore[no-untyped-call]
    )
