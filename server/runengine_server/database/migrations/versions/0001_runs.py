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
    trace_id         text,
    epoch            bigint NOT NULL DEFAULT 0,
    losses           int NOT NULL DEFAULT 0,
    lease_expires_at timestamptz,
    PRIMARY KEY (tenant_id, id),
    CHECK ((error IS NOT NULL) = (status = 'failed')),
    CHECK ((lease_expires_at IS NOT NULL) = (status = 'running'))
);
-- list_of_campaign, all statuses: the page.
CREATE INDEX runs_of_campaign ON runs (tenant_id, campaign_id, created_at DESC, id DESC)
    WHERE campaign_id IS NOT NULL;
-- list_of_campaign, some statuses: the page.
CREATE INDEX runs_of_campaign_by_status ON runs (tenant_id, campaign_id, status, created_at DESC, id DESC)
    WHERE campaign_id IS NOT NULL;
-- claim_queued.
CREATE INDEX runs_queued ON runs (queued_at, id) WHERE status = 'queued';
-- claim_expired.
CREATE INDEX runs_leased ON runs (lease_expires_at) WHERE status = 'running';

-- How many runs of a campaign are in which status, exactly: the sum over its slots. With one row for
-- a campaign all its triggers would wait for one another's commit; a run's slot is the end of its id.
CREATE TABLE campaign_run_counts (
    tenant_id   text NOT NULL,
    campaign_id uuid NOT NULL,
    slot        int NOT NULL,
    queued      bigint NOT NULL DEFAULT 0,
    running     bigint NOT NULL DEFAULT 0,
    completed   bigint NOT NULL DEFAULT 0,
    failed      bigint NOT NULL DEFAULT 0,
    cancelled   bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, campaign_id, slot)
) WITH (fillfactor = 50);

-- One row for each execution of a step. id is LangGraph's task id: the same when the same task
-- runs again, another when the node comes round again in a loop. seq is the order of execution.
-- handled: it failed, and an error handler of the graph went on; it does not run again.
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
    handled             boolean NOT NULL DEFAULT false,
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
    reason      text NOT NULL,
    trace_id    text,
    error       jsonb,
    PRIMARY KEY (tenant_id, run_id, seq),
    FOREIGN KEY (tenant_id, run_id) REFERENCES runs
);

-- The answers of calls that came with an idempotency key, for seven days. fingerprint is the SHA-256
-- of method and request, response the encoded message.
CREATE TABLE idempotency_keys (
    tenant_id   text NOT NULL,
    key         text NOT NULL,
    fingerprint bytea NOT NULL,
    response    bytea,
    created_at  timestamptz NOT NULL DEFAULT now_ms(),
    PRIMARY KEY (tenant_id, key)
);
-- forget_old.
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);

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

-- LangGraph's checkpoints of runs that have not completed. The one with the greatest seq is current:
-- their ids tell the time too, but that of the worker, and its successor's clock may be behind.
CREATE TABLE checkpoints (
    tenant_id            text NOT NULL,
    run_id               uuid NOT NULL,
    checkpoint_ns        text NOT NULL,
    checkpoint_id        text NOT NULL,
    parent_checkpoint_id text,
    seq                  bigint GENERATED ALWAYS AS IDENTITY,
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
-- forget_old.
CREATE INDEX step_cache_by_age ON step_cache (expires_at) WHERE expires_at IS NOT NULL;
"""


def upgrade() -> None:
    """Creates everything."""
    for statement in SCHEMA.split(";\n"):
        if statement.strip():
            op.execute(statement)
