"""What the database looks like today.

A change begins here, and a migration follows; a test says whether what is built from here is what the
migrations build, and names what differs. What a CHECK, a generated column or a policy calls names its
schema, because the search_path is empty while a dump is restored.
"""

from __future__ import annotations

from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    Double,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    event,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from runengine_server.database.bulk_tables import bulk_operations
from runengine_server.database.columns import TIME, now, of_run, tenant
from runengine_server.database.columns import metadata as metadata
from runengine_server.database.event_tables import run_events, step_events
from runengine_server.database.functions import ENCODING
from runengine_server.database.graph_tables import step_cache
from runengine_server.database.handover_tables import handovers
from runengine_server.database.retention_tables import deleted_artifacts, tenant_settings
from runengine_server.database.row_level_security import secure
from runengine_server.database.schedule_tables import schedules
from runengine_server.database.webhook_tables import campaign_events, webhook_deliveries, webhook_endpoints

# The workflows that workers have registered, for all tenants. A trigger must name one of them. description
# has the fields of a runengine.v1.Workflow from 4 on, by the worker that was started last, described_at.
workflows = Table(
    "workflows",
    metadata,
    Column("name", Text, primary_key=True),
    now("registered_at"),
    Column("description", LargeBinary),
    Column("described_at", TIME),
)

# The workers that serve each workflow, until they expire. There is no index on expires_at, so that a
# heartbeat, which moves it on, is a HOT update.
workflow_workers = Table(
    "workflow_workers",
    metadata,
    Column("workflow_name", Text, nullable=False),
    Column("worker_id", Uuid, nullable=False),
    Column("worker", Text, nullable=False),
    Column("expires_at", TIME, nullable=False),
    PrimaryKeyConstraint("workflow_name", "worker_id"),
    ForeignKeyConstraint(["workflow_name"], ["workflows.name"], ondelete="CASCADE"),
)

# The lease of each worker, which is that of every run that it holds. A heartbeat writes this row alone, as a
# HOT update: there is no index on expires_at, and room on the page. The next to claim deletes the row of a
# worker that was lost.
worker_leases = Table(
    "worker_leases",
    metadata,
    Column("worker_id", Uuid, primary_key=True),
    Column("expires_at", TIME, nullable=False),
    # By which claim_expired detects that the clock has gone back.
    Column("lease_seconds", Double, nullable=False),
    postgresql_with={"fillfactor": 50},
)

# Chores that one worker does for all, with the time at which one was begun last.
chores = Table(
    "chores",
    metadata,
    Column("name", Text, primary_key=True),
    Column("begun_at", TIME, nullable=False),
)

campaigns = Table(
    "campaigns",
    metadata,
    tenant(),
    Column("id", Uuid, nullable=False),
    Column("status", Text, nullable=False, server_default="draft"),
    Column("bundle_url", Text),
    Column("latest_run_id", Uuid),
    Column("latest_run_created_at", TIME),
    Column("latest_run_attempt", Integer),
    now("created_at"),
    now("updated_at"),
    PrimaryKeyConstraint("tenant_id", "id"),
    CheckConstraint("status IN ('draft', 'live', 'failed')", name="campaigns_status_check"),
)

# The run row is the job: a worker holds the run while its status is running, the stored epoch is the
# worker's, and the lease has not ended: that of the worker worker_id in worker_leases, where lease_expires_at
# is 'infinity', else the run's own. A running run that waits for somebody has no lease. encoded_input has
# fields 1, 2, 4, 5 and 13 of runengine.v1.Run, and never changes; encoded_state has the others, and is
# generated, so that no transition can forget it.
runs = Table(
    "runs",
    metadata,
    tenant(),
    Column("id", Uuid, nullable=False),
    Column("workflow_name", Text, nullable=False),
    Column("status", Text, nullable=False, server_default="queued"),
    Column("attempt", Integer, nullable=False, server_default=text("1")),
    Column("campaign_id", Uuid),
    Column("error", LargeBinary),
    Column("started_at", TIME),
    Column("completed_at", TIME),
    now("created_at"),
    now("updated_at"),
    now("queued_at"),
    Column("trace_id", Text),
    Column("epoch", BigInteger, nullable=False, server_default=text("0")),
    Column("losses", Integer, nullable=False, server_default=text("0")),
    Column("lease_expires_at", TIME),
    # The length of the lease, by which claim_expired detects that the clock has gone back.
    Column("lease_seconds", Double),
    Column("priority", SmallInteger, nullable=False, server_default=text("0")),
    Column("encoded_input", LargeBinary, nullable=False),
    Column(
        "encoded_state",
        LargeBinary,
        Computed(
            "public.encoded_run_state(status, attempt, error, started_at, completed_at, "
            "created_at, updated_at)",
            persisted=True,
        ),
        nullable=False,
    ),
    # By these claim_expired distinguishes a hand-back from a loss, and hand-backs in a row are counted.
    Column("handed_back", Boolean, nullable=False, server_default=text("false")),
    Column("hand_backs", Integer, nullable=False, server_default=text("0")),
    Column("steps_at_hand_back", Integer, nullable=False, server_default=text("0")),
    # A GetRunOutputResponse, set when the run completes; null of runs that completed before 0013.
    Column("encoded_output", LargeBinary),
    # Field 14 of a Run while it waits, see waiting.sql; waiting_since is of the last time that it did.
    Column("encoded_waiting", LargeBinary),
    Column("waiting_since", TIME),
    Column("waiting_expires_at", TIME),
    Column("waited_seconds", Double, nullable=False, server_default=text("0")),
    # A google.protobuf.Struct: by id, what came with ResumeRun since the run last waited.
    Column("resume_values", LargeBinary),
    # The thread that it is of, and which of its runs it is, see threads.sql; the run whose state it began
    # with, and the greatest seq of the checkpoints that are copies of that.
    Column("thread_id", Text),
    Column("thread_place", BigInteger),
    Column("thread_base", Uuid),
    Column("thread_base_seq", BigInteger),
    Column("error_code", Text, Computed("public.code_of_error(error)", persisted=True)),
    Column("worker_id", Uuid),
    PrimaryKeyConstraint("tenant_id", "id"),
    # One, because each costs every statement that updates a run: as four they took 4 % more of it.
    CheckConstraint(
        """CASE status
        WHEN 'running' THEN error IS NULL AND (lease_expires_at IS NOT NULL OR encoded_waiting IS NOT NULL)
        WHEN 'failed' THEN error IS NOT NULL AND lease_expires_at IS NULL
        WHEN 'queued' THEN error IS NULL AND lease_expires_at IS NULL
        WHEN 'completed' THEN error IS NULL AND lease_expires_at IS NULL
        WHEN 'cancelled' THEN error IS NULL AND lease_expires_at IS NULL
        ELSE false END""",
        name="runs_state_check",
    ),
)
_of_a_campaign = runs.c.campaign_id.is_not(None)
Index(
    "runs_of_campaign",  # list_campaign_runs
    runs.c.tenant_id,
    runs.c.campaign_id,
    runs.c.created_at.desc(),
    runs.c.id.desc(),
    postgresql_where=_of_a_campaign,
)
Index(
    "runs_of_campaign_by_status",  # list_campaign_runs_by_status
    runs.c.tenant_id,
    runs.c.campaign_id,
    runs.c.status,
    runs.c.created_at.desc(),
    runs.c.id.desc(),
    postgresql_where=_of_a_campaign,
)
# Those of run_search.py; those of a campaign and a status are above. None has the runs that are held, which
# are as few as there are places in workers, so that a claim and a heartbeat write to none of them; and there
# are no more than these: each costs every statement that updates a run. The condition on updated_at is
# one that its statements alone imply: PostgreSQL would take some of them for others, such as the list of a
# campaign.
_newest_first = (runs.c.created_at.desc(), runs.c.id.desc())
_has_ended = text("status IN ('completed', 'failed', 'cancelled') AND updated_at IS NOT NULL")
_is_queued = text("status = 'queued' AND updated_at IS NOT NULL")
_is_waiting = text("encoded_waiting IS NOT NULL AND status = 'running'")
_has_failed = runs.c.error_code.is_not(None)
Index("runs_ended", runs.c.tenant_id, runs.c.status, *_newest_first, postgresql_where=_has_ended)
Index(
    "runs_of_workflow_ended",
    runs.c.tenant_id,
    runs.c.workflow_name,
    runs.c.status,
    *_newest_first,
    postgresql_where=_has_ended,
)
Index("runs_queued_last", runs.c.tenant_id, *_newest_first, postgresql_where=_is_queued)
Index("runs_failed", runs.c.tenant_id, runs.c.error_code, *_newest_first, postgresql_where=_has_failed)
Index("runs_asking", runs.c.tenant_id, *_newest_first, postgresql_where=_is_waiting)
# claim_queued: the next tenant is one step in the index, and so is the next run of a tenant. workflow_name is
# in it so that runs which a worker does not serve are skipped within the index.
Index(
    "runs_queued",
    runs.c.tenant_id,
    runs.c.priority.desc(),
    runs.c.queued_at,
    runs.c.id,
    runs.c.workflow_name,
    postgresql_where=text("status = 'queued'"),
)
# release_next_of_thread: which run of a thread is running, which is due, which is the first of the rest.
Index(
    "runs_of_threads",
    runs.c.tenant_id,
    runs.c.workflow_name,
    runs.c.thread_id,
    runs.c.status,
    runs.c.queued_at,
    runs.c.thread_place,
    postgresql_where=text("thread_id IS NOT NULL AND status IN ('queued', 'running')"),
)
# claim_queued: how many runs of a tenant are held. This index and the next have no condition on the status,
# for which PostgreSQL would take one of them in place of the primary key.
_is_held = runs.c.lease_expires_at.is_not(None)
Index("runs_held", runs.c.tenant_id, runs.c.id, postgresql_where=_is_held)
# claim_expired; and the runs that a worker holds.
Index("runs_leases", runs.c.lease_expires_at, runs.c.worker_id, postgresql_where=_is_held)
Index(
    "runs_waiting",
    runs.c.waiting_expires_at,
    postgresql_where=text(
        "waiting_expires_at IS NOT NULL AND lease_expires_at IS NULL AND status = 'running'"
    ),
)

# The exact number of a campaign's runs in each status: the sum over its slots. With one row for a campaign,
# all its triggers would wait for each other's commit. The slot of a run is the end of its id.
campaign_run_counts = Table(
    "campaign_run_counts",
    metadata,
    tenant(),
    Column("campaign_id", Uuid, nullable=False),
    Column("slot", Integer, nullable=False),
    *(
        Column(status, BigInteger, nullable=False, server_default=text("0"))
        for status in ("queued", "running", "completed", "failed", "cancelled")
    ),
    PrimaryKeyConstraint("tenant_id", "campaign_id", "slot"),
    postgresql_with={"fillfactor": 50},
)

# One row for each execution of a step. id is LangGraph's task id: the same when the same task runs again,
# another when a loop reaches the node again. seq is the order of execution. handled: the step failed and an
# error handler of the graph took over, so that it does not run again. encoded_input and encoded_update are
# fields of a GetRunStepDataResponse, null where they are not kept; no list of steps reads them.
# input_refs: which of run_values were cut out of encoded_input, see values.sql.
run_steps = Table(
    "run_steps",
    metadata,
    tenant(),
    Column("run_id", Uuid, nullable=False),
    Column("id", Uuid, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("run_attempt", Integer, nullable=False),
    Column("seq", BigInteger, Identity(always=True), nullable=False),
    Column("step_id", Text, nullable=False),
    Column("skill_id", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("cache_hit", Boolean, nullable=False, server_default=text("false")),
    Column("handled", Boolean, nullable=False, server_default=text("false")),
    Column("error", JSONB),
    Column("output_artifact_ids", ARRAY(Uuid), nullable=False, server_default="{}"),
    Column("started_at", TIME),
    Column("completed_at", TIME),
    now("created_at"),
    now("updated_at"),
    Column("encoded_input", LargeBinary),
    Column("encoded_update", LargeBinary),
    Column("parent_id", Uuid),
    Column("input_refs", LargeBinary),
    PrimaryKeyConstraint("tenant_id", "run_id", "id", "attempt"),
    of_run(),
    CheckConstraint(
        "status IN ('pending', 'running', 'completed', 'failed', 'skipped')", name="run_steps_status_check"
    ),
    CheckConstraint("(error IS NOT NULL) = (status = 'failed')", name="run_steps_check"),
)

# The responses of calls with an idempotency key, kept for seven days. fingerprint is the SHA-256 of
# method and request, response the encoded message.
idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    tenant(),
    Column("key", Text, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("response", LargeBinary),
    now("created_at"),
    PrimaryKeyConstraint("tenant_id", "key"),
)
# purge_expired.
Index("idempotency_keys_by_age", idempotency_keys.c.created_at)

# What steps have saved; the bytes are in the artifact store under key. task_id and step_attempt are those of
# the execution that saved it, unless its output_artifact_ids name the artifact.
artifacts = Table(
    "artifacts",
    metadata,
    tenant(),
    Column("id", Uuid, nullable=False),
    Column("run_id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("key", Text, nullable=False),
    now("created_at"),
    Column("task_id", Uuid),
    Column("step_attempt", Integer),
    PrimaryKeyConstraint("tenant_id", "id"),
    of_run(),
)
Index("artifacts_of_runs", artifacts.c.tenant_id, artifacts.c.run_id, artifacts.c.id)  # list_run_artifacts
Index(
    "artifacts_of_steps",  # list_run_steps
    artifacts.c.tenant_id,
    artifacts.c.run_id,
    artifacts.c.task_id,
    artifacts.c.step_attempt,
    artifacts.c.id,
    postgresql_where=artifacts.c.task_id.is_not(None),
)

# The installed versions of the functions, and when a server last used each: see functions.py.
function_schemas = Table(
    "function_schemas",
    metadata,
    Column("name", Text, primary_key=True),
    now("used_at"),
)

# The tables that are used for all tenants at once: a worker claims runs, renews and gives back their leases,
# fails the steps of lost workers, and purges what has expired or been kept long enough; a server finds bulk
# operations to go on with, endpoints to which something is to be sent, and schedules that are due.
_OF_DISPATCH = {
    runs,
    campaign_run_counts,
    run_steps,
    run_events,
    step_events,
    idempotency_keys,
    step_cache,
    bulk_operations,
    handovers,
    webhook_endpoints,
    webhook_deliveries,
    campaign_events,
    tenant_settings,
    deleted_artifacts,
    schedules,
}

secure(metadata, _OF_DISPATCH)

for _statement in ENCODING:
    event.listen(metadata, "before_create", DDL(_statement.replace("%", "%%")))  # type: ignore[no-untyped-call]
