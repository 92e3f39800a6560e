"""Runs are kept the way the wire wants them."""

from alembic import op

revision = "0004"
down_revision = "0003"

# A run on the wire is two parts, each a google.protobuf encoding of some of its fields, and one after
# the other they are a runengine.v1.Run. The first never changes; the second is generated from the
# columns, so that no transition can forget it. Numbers have a fixed width, which the encoding allows
# (groups of 7 bits, the high bit of each but the last one set), so that arithmetic makes them.
ENCODING = """
CREATE FUNCTION encoded_number(value bigint) RETURNS bytea LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT substring(int8send(
        ((value & 127 | 128) << 40) | ((value >> 7 & 127 | 128) << 32) | ((value >> 14 & 127 | 128) << 24)
        | ((value >> 21 & 127 | 128) << 16) | ((value >> 28 & 127 | 128) << 8) | (value >> 35 & 127)
    ) FROM 3)
$$;

CREATE FUNCTION encoded_bytes(tag bytea, value bytea) RETURNS bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT tag || int4send(
        ((length(value) & 127 | 128) << 24) | ((length(value) >> 7 & 127 | 128) << 16)
        | ((length(value) >> 14 & 127 | 128) << 8) | (length(value) >> 21 & 127)
    ) || value
$$;

CREATE FUNCTION encoded_time(tag bytea, at timestamptz) RETURNS bytea
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE ms bigint := round(date_part('epoch', at AT TIME ZONE 'UTC') * 1000);
BEGIN
    RETURN tag || '\\x0e08' || encoded_number(ms / 1000) || '\\x10' || encoded_number(ms % 1000 * 1000000);
END
$$;

-- Fields 3 and 6 to 12 of runengine.v1.Run; the error is encoded already.
CREATE FUNCTION encoded_run_state(status text, attempt int, error bytea, started_at timestamptz,
    completed_at timestamptz, created_at timestamptz, updated_at timestamptz) RETURNS bytea
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN CASE status WHEN 'queued' THEN '\\x1801' WHEN 'running' THEN '\\x1802'
            WHEN 'completed' THEN '\\x1803' WHEN 'failed' THEN '\\x1804' ELSE '\\x1805' END::bytea
        || '\\x60' || encoded_number(attempt)
        || encoded_time('\\x52', created_at) || encoded_time('\\x5a', updated_at)
        || coalesce(encoded_time('\\x3a', started_at), '')
        || coalesce(encoded_time('\\x42', completed_at), '')
        || coalesce('\\x48' || encoded_number(
            round(date_part('epoch', completed_at - started_at) * 1000)::bigint), '')
        || coalesce(encoded_bytes('\\x32', error), '');
END
$$;

-- A runengine.v1.RunError.
CREATE FUNCTION encoded_error(error jsonb) RETURNS bytea LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT encoded_bytes('\\x0a', convert_to(error ->> 'code', 'UTF8'))
        || encoded_bytes('\\x12', convert_to(error ->> 'message', 'UTF8'))
        || coalesce(encoded_bytes('\\x1a', convert_to(error ->> 'step_id', 'UTF8')), '')
        || '\\x20' || encoded_number((error ->> 'attempt')::bigint)
        || CASE WHEN (error ->> 'retryable')::boolean THEN '\\x2801' ELSE '' END::bytea
$$;
"""

# encoded_input has fields 1, 2, 4, 5 and 13 of runengine.v1.Run.
COLUMNS = """
ALTER TABLE runs NO FORCE ROW LEVEL SECURITY;
ALTER TABLE run_events NO FORCE ROW LEVEL SECURITY;
ALTER TABLE runs DROP CONSTRAINT runs_check;
ALTER TABLE runs ALTER error TYPE bytea USING encoded_error(error);
ALTER TABLE runs ADD CONSTRAINT runs_check CHECK ((error IS NOT NULL) = (status = 'failed'));
ALTER TABLE run_events ALTER error TYPE bytea USING encoded_error(error);
ALTER TABLE runs ADD COLUMN encoded_input bytea;
UPDATE runs SET encoded_input = encoded_bytes('\\x0a', convert_to(id::text, 'UTF8'))
    || encoded_bytes('\\x12', convert_to(workflow_name, 'UTF8'))
    || coalesce(encoded_bytes('\\x22', trigger_payload), '')
    || coalesce(encoded_bytes('\\x2a', context), '');
ALTER TABLE runs ALTER encoded_input SET NOT NULL;
ALTER TABLE runs DROP COLUMN trigger_payload, DROP COLUMN context;
ALTER TABLE runs ADD COLUMN encoded_state bytea NOT NULL GENERATED ALWAYS AS (encoded_run_state(
    status, attempt, error, started_at, completed_at, created_at, updated_at)) STORED;
ALTER TABLE runs FORCE ROW LEVEL SECURITY;
ALTER TABLE run_events FORCE ROW LEVEL SECURITY;
"""


def upgrade() -> None:
    """The functions that encode, and the two parts of each run."""
    for function in ENCODING.split(";\n\n"):
        op.execute(function)
    for statement in COLUMNS.split(";\n"):
        if statement.strip():
            op.execute(statement)
