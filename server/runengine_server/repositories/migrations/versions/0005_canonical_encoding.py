"""Runs are stored as the canonical protobuf encoder would write them, by functions that name their schema."""

from alembic import op

revision = "0005"
down_revision = "0004"

# Shortest varints, because protobufjs 6 and 7 take one of 6 to 9 bytes in a 32-bit field for ten bytes;
# fields in the order of their numbers, and no zero where a field has no presence. Every function names its
# schema: the search_path is empty while a dump is restored. What has a CASE is not STRICT, because PostgreSQL
# would not inline it.
ENCODING = r"""
CREATE OR REPLACE FUNCTION public.touch(before timestamptz) RETURNS timestamptz LANGUAGE sql VOLATILE
    AS $$ SELECT greatest(public.now_ms(), before + interval '1 millisecond') $$;

-- A varint of any length, 64 bits wide; a negative one has ten bytes. The slow way, for what is rare.
CREATE OR REPLACE FUNCTION public.encoded_number(value bigint) RETURNS bytea
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    encoded bytea := '';
BEGIN
    WHILE value NOT BETWEEN 0 AND 127 LOOP
        encoded := encoded || substring(int2send((value & 127 | 128)::smallint) FROM 2);
        value := value >> 7 & 144115188075855871;
    END LOOP;
    RETURN encoded || substring(int2send(value::smallint) FROM 2);
END
$$;

-- The groups of 7 bits of a number below 2^35 as the low five bytes, the lowest group first. For a varint
-- they lack the high bit of all bytes but the last.
CREATE OR REPLACE FUNCTION public.encoded_groups(value bigint) RETURNS bigint
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT ((value & 127) << 32) | (value << 17 & 2130706432) | (value << 2 & 8323072)
        | (value >> 13 & 32512) | (value >> 28)
$$;

-- The tag of field `field` (1 to 15) and wire type `wire`, and a varint.
CREATE OR REPLACE FUNCTION public.encoded_field(field int, wire int, value bigint) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN value BETWEEN 0 AND 127 THEN int2send((field << 11 | (wire << 8) | value)::smallint)
        WHEN value BETWEEN 128 AND 16383 THEN
            substring(int4send((field << 19 | (wire << 16) | x'8000'::int | ((value & 127) << 8)
                | (value >> 7))::int) FROM 2)
        WHEN value BETWEEN 16384 AND 2097151 THEN
            int4send((field << 27 | (wire << 24) | x'808000'::int | ((value & 127) << 16)
                | (value << 1 & 32512) | (value >> 14))::int)
        ELSE substring(int2send((field << 3 | wire)::smallint) FROM 2) || public.encoded_number(value)
    END
$$;

-- Called by the servers before this version.
CREATE OR REPLACE FUNCTION public.encoded_bytes(tag bytea, value bytea) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT public.encoded_field(get_byte(tag, 0) >> 3, 2, octet_length(value)) || value
$$;

CREATE OR REPLACE FUNCTION public.encoded_rare_time(field int, ms bigint) RETURNS bytea
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    seconds bigint := floor(ms / 1000.0);
    nanos bigint := (ms - seconds * 1000) * 1000000;
    encoded bytea := CASE WHEN seconds <> 0 THEN public.encoded_field(1, 0, seconds) ELSE '' END
        || CASE WHEN nanos <> 0 THEN public.encoded_field(2, 0, nanos) ELSE '' END;
BEGIN
    RETURN public.encoded_field(field, 2, length(encoded)) || encoded;
END
$$;

-- A google.protobuf.Timestamp as field `field`. Numbers of five bytes are one int8send: seconds from 1978
-- to 3058, and nanoseconds from 269 ms on; from 3 ms on those have four.
CREATE OR REPLACE FUNCTION public.encoded_time(field int, ms bigint) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN ms BETWEEN 268435456000 AND 34359738367999 AND ms % 1000 >= 269 THEN
            int8send((field::bigint << 59) | x'020c088080808000'::bigint | public.encoded_groups(ms / 1000))
            || substring(int8send(x'108080808000'::bigint
                | public.encoded_groups(ms % 1000 * 1000000)) FROM 3)
        WHEN ms BETWEEN 268435456000 AND 34359738367999 AND ms % 1000 >= 3 THEN
            int8send((field::bigint << 59) | x'020b088080808000'::bigint | public.encoded_groups(ms / 1000))
            || substring(int8send(x'1080808000'::bigint
                | (public.encoded_groups(ms % 1000 * 1000000) >> 8)) FROM 4)
        ELSE public.encoded_rare_time(field, ms)
    END
$$;

-- Fields 3 and 6 to 12 of runengine.v1.Run; the error is encoded already. The first two bytes are field 3.
-- In PL/pgSQL, which keeps its plans: inlined into the column, it would be planned anew at each write.
CREATE OR REPLACE FUNCTION public.encoded_run_state(status text, attempt int, error bytea,
    started_at timestamptz, completed_at timestamptz, created_at timestamptz, updated_at timestamptz)
    RETURNS bytea LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    created bigint := round(date_part('epoch', created_at) * 1000);
    updated bigint := round(date_part('epoch', updated_at) * 1000);
    started bigint;
    completed bigint;
BEGIN
    IF status = 'queued' AND error IS NULL AND started_at IS NULL AND completed_at IS NULL
        AND attempt <> 0 THEN
        RETURN '\x1801' || public.encoded_time(10, created) || public.encoded_time(11, updated)
            || public.encoded_field(12, 0, attempt);
    END IF;
    started := round(date_part('epoch', started_at) * 1000);
    completed := round(date_part('epoch', completed_at) * 1000);
    RETURN CASE status WHEN 'queued' THEN '\x1801' WHEN 'running' THEN '\x1802'
            WHEN 'completed' THEN '\x1803' WHEN 'failed' THEN '\x1804' ELSE '\x1805' END::bytea
        || coalesce(public.encoded_field(6, 2, octet_length(error)) || error, '')
        || coalesce(public.encoded_time(7, started), '')
        || coalesce(public.encoded_time(8, completed), '')
        || coalesce(public.encoded_field(9, 0, completed - started), '')
        || public.encoded_time(10, created) || public.encoded_time(11, updated)
        || CASE WHEN attempt <> 0 THEN public.encoded_field(12, 0, attempt) ELSE '' END;
END
$$;

-- Where field 2 of an encoded_input ends: field 1 is a UUID, which takes 38 bytes, and a name that can be
-- indexed is shorter than 16,384 bytes. Slices, because a large input is compressed.
CREATE OR REPLACE FUNCTION public.encoded_name_end(encoded_input bytea) RETURNS int
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN get_byte(substring(encoded_input FROM 40 FOR 1), 0) < 128
            THEN 40 + get_byte(substring(encoded_input FROM 40 FOR 1), 0)
        ELSE 41 + (get_byte(substring(encoded_input FROM 40 FOR 1), 0) & 127)
            + (get_byte(substring(encoded_input FROM 41 FOR 1), 0) << 7)
    END
$$;

-- A runengine.v1.Run as field 1 of a message. Fields 1, 2, 4, 5 and 13 are those of encoded_input, the others
-- of encoded_state; field 13 is the priority, of two, three or eleven bytes.
CREATE OR REPLACE FUNCTION public.encoded_response(encoded_input bytea, encoded_state bytea,
    priority smallint) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE priority WHEN 0 THEN
        public.encoded_field(1, 2, octet_length(encoded_input) + octet_length(encoded_state))
        || substring(encoded_input FROM 1 FOR public.encoded_name_end(encoded_input))
        || substring(encoded_state FROM 1 FOR 2)
        || substring(encoded_input FROM public.encoded_name_end(encoded_input) + 1)
        || substring(encoded_state FROM 3)
    ELSE
        public.encoded_field(1, 2, octet_length(encoded_input) + octet_length(encoded_state))
        || substring(encoded_input FROM 1 FOR public.encoded_name_end(encoded_input))
        || substring(encoded_state FROM 1 FOR 2)
        || substring(encoded_input FROM public.encoded_name_end(encoded_input) + 1 FOR
            octet_length(encoded_input) - octet_length(public.encoded_field(13, 0, priority))
            - public.encoded_name_end(encoded_input))
        || substring(encoded_state FROM 3)
        || public.encoded_field(13, 0, priority)
    END
$$;

DROP FUNCTION IF EXISTS public.encoded_time(bytea, timestamptz);

DROP FUNCTION IF EXISTS public.encoded_error(jsonb);

-- The fields of an encoded message in the order in which they stand: a varint is `number`; fixed64 and what
-- has a length are `bytes`.
CREATE OR REPLACE FUNCTION public.decoded_fields(encoded bytea)
    RETURNS TABLE (field int, number bigint, bytes bytea)
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    place int := 0;
    size int := length(encoded);
    tag bigint;
    digit int;
    shift int;
BEGIN
    WHILE place < size LOOP
        number := 0;
        shift := 0;
        LOOP
            digit := get_byte(encoded, place);
            place := place + 1;
            number := number | ((digit & 127)::bigint << shift);
            shift := shift + 7;
            EXIT WHEN digit < 128;
        END LOOP;
        bytes := NULL;
        IF tag IS NULL THEN
            tag := number;
            field := tag >> 3;
            CONTINUE WHEN tag & 7 IN (0, 2);
            number := 8;
        END IF;
        IF tag & 7 <> 0 THEN
            bytes := substring(encoded FROM place + 1 FOR number::int);
            place := place + number;
            number := NULL;
        END IF;
        tag := NULL;
        RETURN NEXT;
    END LOOP;
END
$$;

-- The message with the same fields as the canonical encoder writes them; of those in `without_presence` no
-- zero and no empty one. What has a length is taken over as it is.
CREATE OR REPLACE FUNCTION public.encoded_again(encoded bytea, without_presence int[]) RETURNS bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT coalesce(string_agg(public.encoded_field(field, (bytes IS NOT NULL)::int * 2,
        coalesce(number, octet_length(bytes))) || coalesce(bytes, ''), '' ORDER BY field), '')
    FROM public.decoded_fields(encoded)
    WHERE field <> ALL (without_presence) OR coalesce(number, octet_length(bytes)) <> 0
$$;
"""

# Up to a thousand runs after the given one that are not stored canonically, in a transaction of their own;
# it returns the last of them. Locked ones are passed over, because a heartbeat locks many in any order. The
# setting shows the owner, whom the policies bind, the runs of all tenants. Field 13 was left out when
# runs that had a priority became encoded, and their input is the one with lengths of four bytes.
ENCODE_RUNS_AGAIN = r"""
CREATE OR REPLACE FUNCTION public.encode_runs_again(after_tenant text, after_id uuid)
    RETURNS TABLE (tenant_id text, id uuid) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('runengine.dispatch', 'on', true), set_config('enable_seqscan', 'off', true);
    RETURN QUERY WITH due AS (
        SELECT tenant_id, id FROM public.runs
        WHERE (tenant_id, id) > (after_tenant, after_id) AND (
            substring(encoded_input FROM 2 FOR 1) = '\xa4' OR encoded_state <> public.encoded_run_state(
                status, attempt, public.encoded_again(error, '{1,2,4,5}'), started_at, completed_at,
                created_at, updated_at))
        ORDER BY tenant_id, id LIMIT 1000 FOR UPDATE SKIP LOCKED
    ), done AS (
        UPDATE public.runs SET error = public.encoded_again(error, '{1,2,4,5}'),
            encoded_input = CASE WHEN substring(encoded_input FROM 2 FOR 1) = '\xa4' THEN
                public.encoded_again(encoded_input, '{1,2}')
                || CASE WHEN priority <> 0 THEN public.encoded_field(13, 0, priority) ELSE '' END
            ELSE encoded_input END
        FROM due WHERE runs.tenant_id = due.tenant_id AND runs.id = due.id
        RETURNING runs.tenant_id, runs.id
    )
    SELECT tenant_id, id FROM done ORDER BY tenant_id DESC, id DESC LIMIT 1;
END
$$
"""

EVENTS = r"""
DO $$ BEGIN
    PERFORM set_config('runengine.dispatch', 'on', true);
    UPDATE public.run_events SET error = public.encoded_again(error, '{1,2,4,5}')
    WHERE get_byte(error, 1) > 127;
END $$
"""


def upgrade() -> None:
    """Replaces the functions, then encodes again what is stored, while servers go on."""
    # Whoever writes a run now has done so when this is granted, and whoever does so later sees the new
    # functions: nothing is stored by the old ones after this transaction.
    op.execute("LOCK TABLE public.runs, public.run_events IN SHARE ROW EXCLUSIVE MODE")
    for function in ENCODING.split(";\n\n"):
        op.execute(function)
    op.execute(ENCODE_RUNS_AGAIN)
    with op.get_context().autocommit_block():
        op.execute(EVENTS)
        while _encode_runs_again():
            pass
    op.execute("DROP FUNCTION public.encode_runs_again(text, uuid)")


def _encode_runs_again() -> bool:
    """Goes through all runs once; whether there was one to encode."""
    found = False
    after: tuple[str, str] = ("", "00000000-0000-0000-0000-000000000000")
    while rows := op.get_bind().exec_driver_sql(
        "SELECT tenant_id, id::text FROM public.encode_runs_again($1::text, $2::text::uuid)", after
    ).all():  # fmt: skip
        found, after = True, (rows[0][0], rows[0][1])
    return found
