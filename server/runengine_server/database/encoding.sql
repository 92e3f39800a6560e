-- What tables, policies and the view call, in the schema `public`, and every function with its schema's name:
-- the search_path is empty while a dump is restored. Each migration that changes one of them executes the
-- whole file; servers of the version before may still call encoded_bytes().

-- The next four have bodies that are parsed when they are made, and not, as those in quotes are, on the
-- search_path of each caller.

-- The clock of everything stored: whole milliseconds, so that what REST shows adds up.
CREATE OR REPLACE FUNCTION public.now_ms() RETURNS timestamptz LANGUAGE sql VOLATILE
    RETURN date_trunc('milliseconds', clock_timestamp());

-- The next updated_at after the given one: strictly later, even within one millisecond.
CREATE OR REPLACE FUNCTION public.touch(before timestamptz) RETURNS timestamptz LANGUAGE sql VOLATILE
    RETURN greatest(public.now_ms(), before + interval '1 millisecond');

-- The settings that the policies read. After a transaction that set it, a setting reads as '' and not as NULL.
CREATE OR REPLACE FUNCTION public.current_tenant() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
    RETURN nullif(current_setting('runengine.tenant', true), '');

CREATE OR REPLACE FUNCTION public.is_dispatch() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
    RETURN coalesce(current_setting('runengine.dispatch', true), '') = 'on';

-- Encoding: shortest varints, because protobufjs 6 and 7 take one of 6 to 9 bytes in a 32-bit field for ten bytes;
-- fields in the order of their numbers, and no zero where a field has no presence.
--
-- PostgreSQL prepares an expression for each statement, and in PL/pgSQL for each transaction, at 0.1 µs a
-- node: more than it takes to evaluate it for one run. So what is common has few nodes and what is rare a
-- function of its own; all of it in one inlined expression took 45 µs more a statement.

-- A varint of any length, 64 bits wide; a negative one has ten bytes.
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

-- The tag of field `field` (1 to 15) and wire type `wire`, and a varint.
CREATE OR REPLACE FUNCTION public.encoded_field(field int, wire int, value bigint) RETURNS bytea
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
BEGIN
    IF value BETWEEN 0 AND 127 THEN
        RETURN int2send((field << 11 | (wire << 8) | value)::smallint);
    ELSIF value BETWEEN 128 AND 16383 THEN
        RETURN substring(int4send(
            (field << 19 | (wire << 16) | x'8000'::int | ((value & 127) << 8) | (value >> 7))::int) FROM 2);
    END IF;
    RETURN substring(int2send((field << 3 | wire)::smallint) FROM 2) || public.encoded_number(value);
END
$$;

-- Called by the servers before this version.
CREATE OR REPLACE FUNCTION public.encoded_bytes(tag bytea, value bytea) RETURNS bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT tag || public.encoded_number(octet_length(value)) || value
$$;

-- The groups of 7 bits of a number below 2^35 as the low five bytes, the lowest group first. For a varint
-- they lack the high bit of all bytes but the last.
CREATE OR REPLACE FUNCTION public.encoded_groups(value bigint) RETURNS bigint
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT ((value & 127) << 32) | (value << 17 & 2130706432) | (value << 2 & 8323072)
        | (value >> 13 & 32512) | (value >> 28)
$$;

-- A google.protobuf.Timestamp as field `field`. Numbers of five bytes are one int8send: seconds from 1978
-- to 3058, and nanoseconds from 269 ms on; from 3 ms on those have four.
CREATE OR REPLACE FUNCTION public.encoded_time(field bigint, at timestamptz) RETURNS bytea
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    ms bigint := date_part('epoch', at) * 1000;
    seconds bigint;
    nanos bigint;
    encoded bytea;
BEGIN
    IF ms BETWEEN 268435456000 AND 34359738367999 THEN
        IF ms % 1000 >= 269 THEN
            RETURN int8send((field << 59) | x'020c088080808000'::bigint | public.encoded_groups(ms / 1000))
                || substring(int8send(x'108080808000'::bigint
                    | public.encoded_groups(ms % 1000 * 1000000)) FROM 3);
        ELSIF ms % 1000 >= 3 THEN
            RETURN int8send((field << 59) | x'020b088080808000'::bigint | public.encoded_groups(ms / 1000))
                || substring(int8send(x'1080808000'::bigint
                    | (public.encoded_groups(ms % 1000 * 1000000) >> 8)) FROM 4);
        END IF;
    END IF;
    seconds := floor(ms / 1000.0);
    nanos := (ms - seconds * 1000) * 1000000;
    encoded := CASE WHEN seconds <> 0 THEN public.encoded_field(1, 0, seconds) ELSE '' END
        || CASE WHEN nanos <> 0 THEN public.encoded_field(2, 0, nanos) ELSE '' END;
    RETURN public.encoded_field(field::int, 2, length(encoded)) || encoded;
END
$$;

-- Fields 3 and 6 to 12 of runengine.v1.Run; the error is encoded already. The first two bytes are field 3.
CREATE OR REPLACE FUNCTION public.encoded_run_state(status text, attempt int, error bytea,
    started_at timestamptz, completed_at timestamptz, created_at timestamptz, updated_at timestamptz)
    RETURNS bytea LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    encoded bytea := CASE status WHEN 'queued' THEN '\x1801' WHEN 'running' THEN '\x1802'
        WHEN 'completed' THEN '\x1803' WHEN 'failed' THEN '\x1804' ELSE '\x1805' END::bytea;
BEGIN
    IF error IS NOT NULL THEN
        encoded := encoded || public.encoded_field(6, 2, octet_length(error)) || error;
    END IF;
    IF started_at IS NOT NULL THEN
        encoded := encoded || public.encoded_time(7, started_at);
    END IF;
    IF completed_at IS NOT NULL THEN
        encoded := encoded || public.encoded_time(8, completed_at);
        IF started_at IS NOT NULL THEN
            encoded := encoded || public.encoded_field(9, 0,
                (date_part('epoch', completed_at - started_at) * 1000)::bigint);
        END IF;
    END IF;
    encoded := encoded || public.encoded_time(10, created_at) || public.encoded_time(11, updated_at);
    IF attempt BETWEEN 1 AND 127 THEN
        RETURN encoded || int2send((24576 | attempt)::smallint);
    ELSIF attempt <> 0 THEN
        RETURN encoded || public.encoded_field(12, 0, attempt);
    END IF;
    RETURN encoded;
END
$$;

-- The code of an encoded runengine.v1.RunError: field 1, and of fewer than 128 bytes.
CREATE OR REPLACE FUNCTION public.code_of_error(error bytea) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN CASE WHEN octet_length(error) > 2
        THEN convert_from(substring(error FROM 3 FOR get_byte(error, 1)), 'UTF8') END;

-- As encoded_response, for any input: field 13 is the priority, and a name that can be indexed is shorter
-- than 16,384 bytes. Slices, because a large input is compressed.
CREATE OR REPLACE FUNCTION public.encoded_rare_response(encoded_input bytea, encoded_state bytea,
    priority smallint) RETURNS bytea LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    head bytea := substring(encoded_input FROM 40 FOR 2);
    named int := 40 + get_byte(head, 0);
    last bytea := '';
BEGIN
    IF named >= 40 + 128 THEN
        named := named - 127 + (get_byte(head, 1) << 7);
    END IF;
    IF priority <> 0 THEN
        last := public.encoded_field(13, 0, priority);
    END IF;
    RETURN public.encoded_field(1, 2, octet_length(encoded_input) + octet_length(encoded_state))
        || substring(encoded_input FROM 1 FOR named) || substring(encoded_state FROM 1 FOR 2)
        || substring(encoded_input FROM named + 1
            FOR octet_length(encoded_input) - named - octet_length(last))
        || substring(encoded_state FROM 3) || last;
END
$$;

-- A runengine.v1.Run as field 1 of a message. Fields 1, 2, 4, 5 and 13 are those of encoded_input, the others
-- of encoded_state. Field 1 is a UUID and takes 38 bytes, then come a tag and the length of the name.
CREATE OR REPLACE FUNCTION public.encoded_response(encoded_input bytea, encoded_state bytea,
    priority smallint) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN priority = 0
            AND abs(octet_length(encoded_input) + octet_length(encoded_state) - 1128) <= 1000
            AND get_byte(encoded_input, 39) < 128
        -- The length is 128 to 2,128 and has two bytes: times 2^15 + 1 it is there once for each group.
        THEN substring(int4send(x'0a8000'::int | ((octet_length(encoded_input) + octet_length(encoded_state))
                * 32769 >> 7 & x'7f7f'::int)) FROM 2)
            || overlay(encoded_input PLACING substring(encoded_state FROM 1 FOR 2)
                FROM get_byte(encoded_input, 39) + 41 FOR 0)
            || substring(encoded_state FROM 3)
        ELSE public.encoded_rare_response(encoded_input, encoded_state, priority)
    END
$$;

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

CREATE OR REPLACE FUNCTION public.decoded_double(encoded bytea) RETURNS float8
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    bits bigint := 0;
    exponent int;
    fraction float8;
BEGIN
    FOR place IN REVERSE 7..0 LOOP
        bits := (bits << 8) | get_byte(encoded, place);
    END LOOP;
    exponent := bits >> 52 & 2047;
    fraction := bits & 4503599627370495;
    RETURN CASE WHEN bits < 0 THEN -1 ELSE 1 END * CASE exponent
        WHEN 2047 THEN NULL
        WHEN 0 THEN fraction * 2::float8 ^ -1074
        ELSE (1 + fraction / 4503599627370496) * 2::float8 ^ (exponent - 1023)
    END;
END
$$;

CREATE OR REPLACE FUNCTION public.decoded_struct(encoded bytea) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
BEGIN
    RETURN (SELECT coalesce(jsonb_object_agg(
            coalesce((SELECT convert_from(bytes, 'UTF8') FROM public.decoded_fields(member.bytes)
                WHERE field = 1), ''),
            public.decoded_value((SELECT bytes FROM public.decoded_fields(member.bytes)
                WHERE field = 2))), '{}')
        FROM public.decoded_fields(encoded) AS member);
END
$$;

CREATE OR REPLACE FUNCTION public.decoded_value(encoded bytea) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
BEGIN
    RETURN (SELECT CASE field
            WHEN 2 THEN to_jsonb(public.decoded_double(bytes))
            WHEN 3 THEN to_jsonb(convert_from(bytes, 'UTF8'))
            WHEN 4 THEN to_jsonb(number <> 0)
            WHEN 5 THEN public.decoded_struct(bytes)
            WHEN 6 THEN (SELECT coalesce(jsonb_agg(public.decoded_value(item.bytes)), '[]')
                FROM public.decoded_fields(value.bytes) AS item)
        END
        FROM public.decoded_fields(encoded) AS value);
END
$$;

-- A runengine.v1.RunError with the keys that REST shows.
CREATE OR REPLACE FUNCTION public.decoded_error(encoded bytea) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT jsonb_build_object('code', coalesce(max(convert_from(bytes, 'UTF8')) FILTER (WHERE field = 1), ''),
        'message', coalesce(max(convert_from(bytes, 'UTF8')) FILTER (WHERE field = 2), ''),
        'stepId', max(convert_from(bytes, 'UTF8')) FILTER (WHERE field = 3),
        'attempt', coalesce(max(number) FILTER (WHERE field = 4), 0),
        'retryable', coalesce(bool_or(number <> 0) FILTER (WHERE field = 5), false))
    FROM public.decoded_fields(encoded) HAVING encoded IS NOT NULL
$$;

-- Each transition of a step becomes a row of step_events.
CREATE OR REPLACE FUNCTION public.log_inserted_steps() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.step_events (tenant_id, run_id, at, id, attempt, status)
    SELECT tenant_id, run_id, updated_at, id, attempt, status FROM inserted ORDER BY seq;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION public.log_updated_steps() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.step_events (tenant_id, run_id, at, id, attempt, status)
    SELECT updated.tenant_id, updated.run_id, updated.updated_at, updated.id, updated.attempt, updated.status
    FROM updated JOIN before USING (seq) WHERE updated.status <> before.status ORDER BY seq;
    RETURN NULL;
END
$$;
