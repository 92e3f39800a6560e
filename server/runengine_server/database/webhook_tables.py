"""The tables of webhooks; a part of schema.py."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
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
from sqlalchemy.dialects.postgresql import ARRAY

from runengine_server.database.columns import TIME, metadata, now, tenant, transaction
from runengine_server.database.event_tables import run_events

# Where transitions are sent to, and how far each endpoint has read in the log of them: all that the snapshot
# `since` has, and of what `until` has beside that, where it is not null, those up to the number `last`.
# read_at is when it last found one. No events mean all. The secret signs, and so no hash of it would do.
# So do the old ones, the most recent first, each until the time at its place in old_until.
webhook_endpoints = Table(
    "webhook_endpoints",
    metadata,
    tenant(),
    Column("id", Uuid, nullable=False),
    Column("url", Text, nullable=False),
    Column("secret", LargeBinary, nullable=False),
    Column("old_secrets", ARRAY(LargeBinary), nullable=False, server_default="{}"),
    Column("old_until", ARRAY(TIME), nullable=False, server_default="{}"),
    Column("events", ARRAY(Text), nullable=False),
    Column("is_disabled", Boolean, nullable=False),
    Column("note", Text),
    now("created_at"),
    now("updated_at"),
    Column("since", Text, nullable=False),
    Column("until", Text),
    Column("last", BigInteger, nullable=False, server_default=text("0")),
    now("read_at"),
    PrimaryKeyConstraint("tenant_id", "id"),
)

# One row for each transition that an endpoint wants, made by the server that reads the log for it, and so not
# by the transition. seq is that of the transition, payload the body of the request. While one sends it,
# next_attempt_at is when another may. expires_at is when a pending one is dead, and when another one is
# deleted. Without a foreign key, which each insert would look up: they are inserted and deleted under their
# endpoint's lock.
webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    tenant(),
    Column("endpoint_id", Uuid, nullable=False),
    Column("id", Uuid, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("event", Text, nullable=False),
    Column("run_id", Uuid, nullable=False),
    Column("campaign_id", Uuid),
    Column("payload", Text, nullable=False),
    Column("status", Text, nullable=False, server_default="pending"),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("attempted_at", TIME),
    Column("next_attempt_at", TIME),
    Column("response_status", Integer),
    Column("error", Text),
    now("created_at"),
    Column("expires_at", TIME, nullable=False),
    PrimaryKeyConstraint("tenant_id", "endpoint_id", "id"),
    CheckConstraint("status IN ('pending', 'delivered', 'dead')", name="webhook_deliveries_status_check"),
    CheckConstraint("(status = 'pending') = (next_attempt_at IS NOT NULL)", name="webhook_deliveries_check"),
)
Index(
    "webhook_deliveries_by_status",  # list_webhook_deliveries
    webhook_deliveries.c.tenant_id,
    webhook_deliveries.c.endpoint_id,
    webhook_deliveries.c.status,
    webhook_deliveries.c.seq.desc(),
    # Or PostgreSQL takes it in place of the primary key.
    postgresql_where=webhook_deliveries.c.seq.is_not(None),
)
Index(
    "webhook_deliveries_due",  # due_webhook_endpoints, claim_webhook_deliveries
    webhook_deliveries.c.tenant_id,
    webhook_deliveries.c.endpoint_id,
    webhook_deliveries.c.next_attempt_at,
    postgresql_where=webhook_deliveries.c.next_attempt_at.is_not(None),
)
Index(
    "webhook_deliveries_ended",  # purge_expired
    webhook_deliveries.c.expires_at,
    postgresql_where=text("status <> 'pending'"),
)

# The log of transitions of campaigns, with seq of the same sequence as those of runs: written only for
# tenants that have an endpoint, and kept for seven days.
campaign_events = Table(
    "campaign_events",
    metadata,
    tenant(),
    Column("campaign_id", Uuid, nullable=False),
    Column("seq", BigInteger, nullable=False, server_default=text("nextval('public.run_events_seq_seq')")),
    Column("at", TIME, nullable=False),
    Column("status", Text, nullable=False),
    Column("run_id", Uuid, nullable=False),
    transaction(),
    PrimaryKeyConstraint("tenant_id", "campaign_id", "seq"),
)
campaign_events.add_is_dependent_on(run_events)
Index(
    "campaign_events_by_transaction",  # find_webhook_events
    campaign_events.c.tenant_id,
    campaign_events.c.transaction,
    postgresql_where=campaign_events.c.transaction.is_not(None),
)
Index("campaign_events_by_age", campaign_events.c.at)  # purge_expired
