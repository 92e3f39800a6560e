"""Workflows, campaigns, runs, their steps, events, artifacts, checkpoints and cache."""

from alembic import op

revision = "0001"
down_revision = None

SCHEMA = """
-- The clock of everything stored: whole milliseconds, so that what REST shows adds up.
CREATE FUNCTION now_ms() RETURNS timestamptz LANGUAGE sql VOLATILE
    AS $$ SELECT date_trunc('milliseconds', clock_timestamp()) $$;

-- The next updated_at after the given one: strictly later, even within one millisecond.
CREATE FUNCTION touch(before timestamptz) RETURNS timestamptz LANGUAGE sql VOLATILE
    AS $$ SELECT greatest(now_ms(), before + interval '1 millisecond') $$;

-- Names that workers have registered. Of no tenant; a trigger must name one of them.
CREATE TABLE workflows (
    name          text PRIMARY KEY,
    registered_at timestamptz NOT NULL DEFAULT now_ms()
);

CREATE TABLE campaigns (
    tenant_id             text NOT NULL,
    id                    uuid NOT NULL,
    status                text NOT NULL DEFAULT 'draft' CHECK (status IN ('draft', 'live', 'failed')),
    bundle_url            text,
    latest_run_id         uuid,
    latest_run_created_at timestamptz,
    latest_run_attempt    int,
    created_at            timestamptz NOT NULL DEFAULT now_ms(),
    updated_at            timestamptz NOT NULL DEFAULT now_ms(),
    PRIMARY KEY (tenant_id, id)
);

-- The run row is the job: a worker holds it while status is running, its epoch is the stored one,
-- and the lease has not ended. trigger_payload and context are encoded google.protobuf.Struct.
CREATE TABLE runs (
    tenant_id        text NOT NULL,
    id               uuid NOT NULL,
    workflow_name    text NOT NULL,
    status           text NOT NULL DEFAULT 'queued'
                     CHECK (status IN ('queued', 'running', 'completed', 'failed', 'cancelled')),
    attempt          int NOT NULL DEFAULT 1,
    trigger_payload  bytea,
    context          bytea,
    campaign_id      uuid,
    error            jsonb,
    started_at       timestamptz,
    completed_at     timestamptz,
    created_at       timestamptz NOT NULL DEFAULT now_ms(),
    updated_at       timestamptz NOT NULL DEFAULT now_ms(),
    queued_at        timestamptz NOT NULL DEFAULT now_ms(),
    epoch            bigint NOT NULL DEFAULT 0,
    losses           int NOT NULL DEFAULT 0,
    lease_expires_at timestamptz,
    PRIMARY KEY (tenant_id, id),
    CHECK ((error IS NOT NULL) = (status = 'failed')),
    CHECK ((lease_expires_at IS NOT NULL) = (status = 'running'))
);
-- list_campaign_runs, all statuses: page and total.
CREATE INDEX runs_of_campaign ON runs (tenant_id, campaign_id, created_at DESC, id DESC)
    WHERE campaign_id IS NOT NULL;
-- list_campaign_runs, some statuses: page and total.
CREATE INDEX runs_of_campaign_by_status ON runs (tenant_id, campaign_id, status, created_at DESC, id DESC)
    WHERE campaign_id IS NOT NULL;
-- claim_queued.
CREATE INDEX runs_queued ON runs (queued_at, id) WHERE status = 'queued';
-- claim_expired.
CREATE INDEX runs_leased ON runs (lease_expires_at) WHERE status = 'running';

-- One row for each execution of a step. id is LangGraph's task id: the same when the same task
-- runs again, another when the node comes round again in a loop. seq is the order of execution.
CREATE TABLE run_steps (
    tenant_id           text NOT NULL,
    run_id              uuid NOT NULL,
    id                  uuid NOT NULL,
    attempt             int NOT NULL,
    run_attempt         int NOT NULL,
    seq                 bigint GENERATED ALWAYS AS IDENTITY,
    step_id             text NOT NULL,
    skill_id            text NOT NULL,
    status              text NOT NULL
                        CHECK (status IN ('pending', 'running', 'completed', 'failed', 'skipped')),
    cache_hit           boolean NOT NULL DEFAULT false,
    error               jsonb,
    output_artifact_ids uuid[] NOT NULL DEFAULT '{}',
    started_at          timestamptz,
    completed_at        timestamptz,
    created_at          timestamptz NOT NULL DEFAULT now_ms(),
    updated_at          timestamptz NOT NULL DEFAULT now_ms(),
    PRIMARY KEY (tenant_id, run_id, id, attempt),
    FOREIGN KEY (tenant_id, run_id) REFERENCES runs,
    CHECK ((error IS NOT NULL) = (status = 'failed'))
);

-- The log of transitions; each row shares the transaction of the change that it tells.
CREATE TABLE run_events (
    tenant_id   text NOT NULL,
    run_id      uuid NOT NULL,
    seq         bigint GENERATED ALWAYS AS IDENTITY,
    at          timestamptz NOT NULL,
    from_status text,
    to_status   text NOT NULL,
    attempt     int NOT NULL,
    actor       text NOT NULL,
    error       jsonb,
    PRIMARY KEY (tenant_id, run_id, seq),
    FOREIGN KEY (tenant_id, run_id) REFERENCES runs
);

-- What steps have saved; the bytes lie in the artifact store under key.
CREATE TABLE artifacts (
    tenant_id  text NOT NULL,
    id         uuid NOT NULL,
    run_id     uuid NOT NULL,
    name       text NOT NULL,
    media_type text NOT NULL,
    size       bigint NOT NULL,
    key        text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now_ms(),
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, run_id) REFERENCES runs
);

-- LangGraph's checkpoints of runs that have not completed.
CREATE TABLE checkpoints (
    tenant_id            text NOT NULL,
    run_id               uuid NOT NULL,
    checkpoint_ns        text NOT NULL,
    checkpoint_id        text NOT NULL,
    parent_checkpoint_id text,
    type                 text NOT NULL,
    checkpoint           bytea NOT NULL,
    metadata             bytea NOT NULL,
    PRIMARY KEY (tenant_id, run_id, checkpoint_ns, checkpoint_id),
    FOREIGN KEY (tenant_id, run_id) REFERENCES runs
);
CREATE TABLE checkpoint_writes (
    tenant_id     text NOT NULL,
    run_id        uuid NOT NULL,
    checkpoint_ns text NOT NULL,
    checkpoint_id text NOT NULL,
    task_id       text NOT NULL,
    idx           int NOT NULL,
    task_path     text NOT NULL,
    channel       text NOT NULL,
    type          text NOT NULL,
    value         bytea NOT NULL,
    PRIMARY KEY (tenant_id, run_id, checkpoint_ns, checkpoint_id, task_id, idx),
    FOREIGN KEY (tenant_id, run_id) REFERENCES runs
);

-- What nodes with a CachePolicy returned. key is the SHA-256 of the policy's key.
CREATE TABLE step_cache (
    tenant_id     text NOT NULL,
    workflow_name text NOT NULL,
    step_id       text NOT NULL,
    key           bytea NOT NULL,
    type          text NOT NULL,
    value         bytea NOT NULL,
    expires_at    timestamptz,
    PRIMARY KEY (tenant_id, workflow_name, step_id, key)
);
"""


def upgrade() -> None:
    """Creates everything."""
    for statement in SCHEMA.split(";\n"):
        if statement.strip():
            op.execute(statement)
