-- Runs that wait for somebody: running, without a lease. `encoded_waiting` has field 14 of runengine.v1.Run, and
-- is NULL of all others.

-- running -> running, waiting for what is named by _ids, _steps, _values and _notes: see WaitingFor in run.proto.
-- The epoch rises, so that nothing which the worker still does for the run has any effect. Steps that were being
-- executed are due again. What came with the last resume has been used, except _kept, an encoded
-- google.protobuf.Struct; NULL is nothing. After _timeout seconds, unless that is NULL, claim_expired takes the run.
CREATE FUNCTION wait_run(_tenant text, _id uuid, _epoch bigint, _worker text, _ids text[], _steps text[],
    _values text[], _notes text[], _timeout float, _kept bytea)
RETURNS TABLE (waiting int) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    since timestamptz := public.now_ms();
    run record;
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    PERFORM FROM public.runs
    WHERE tenant_id = _tenant AND id = _id AND epoch = _epoch AND status = 'running' FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    UPDATE public.runs SET epoch = epoch + 1, lease_expires_at = NULL, hand_backs = 0, resume_values = _kept,
        waiting_since = since, waiting_expires_at = since + make_interval(secs => _timeout),
        updated_at = public.touch(updated_at),
        encoded_waiting = (
            SELECT string_agg(public.encoded_field(14, 2, octet_length(entry)) || entry, '' ORDER BY place)
            FROM unnest(_ids, _steps, _values, _notes) WITH ORDINALITY
                AS waiting_for(waiting_id, step, waiting_value, note, place)
            CROSS JOIN LATERAL (SELECT encoded_text(1, waiting_id) || encoded_text(2, step)
                || encoded_text(3, waiting_value) || public.encoded_time(4, since)
                || coalesce(encoded_text(5, note), '')) AS encoded(entry))
    WHERE tenant_id = _tenant AND id = _id
    RETURNING attempt, updated_at, trace_id INTO STRICT run;
    UPDATE public.run_steps SET status = 'pending', started_at = NULL, updated_at = public.touch(updated_at)
    WHERE tenant_id = _tenant AND run_id = _id AND status = 'running';
    -- No campaign, because its counts stay.
    PERFORM record_transition(_tenant, _id, NULL, 'running', 'running', run.attempt, run.updated_at,
        _worker, 'WAITING', run.trace_id, NULL);
    waiting := 1;
    RETURN NEXT;
END
$$;

-- running, waiting -> running, due to be taken by the next worker, as if it had been handed back; nobody was lost
-- and the time that it waited is not counted. Either _value, an encoded google.protobuf.Value, for the one thing
-- that the run waits for, or _values, an encoded google.protobuf.Struct with the keys _ids.
CREATE FUNCTION resume_run(_tenant text, _id uuid, _actor text, _trace text, _key text, _fingerprint bytea,
    _value bytea, _values bytea, _ids text[])
RETURNS mutation_result LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    result mutation_result;
    run record;
    waiting_ids text[];
    entry bytea;
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    result := lock_run(_tenant, _id, _key, _fingerprint, ARRAY['running']);
    IF result.outcome IS NOT NULL THEN
        RETURN result;
    END IF;
    SELECT array_agg(convert_from(field_1.bytes, 'UTF8')) INTO waiting_ids
    FROM public.runs, public.decoded_fields(encoded_waiting) AS waiting_for,
        public.decoded_fields(waiting_for.bytes) AS field_1
    WHERE tenant_id = _tenant AND id = _id AND field_1.field = 1;
    IF waiting_ids IS NULL THEN
        result.outcome := 'not waiting';
    ELSIF _value IS NOT NULL AND cardinality(waiting_ids) > 1 THEN
        result.outcome := 'ambiguous';
    ELSIF NOT _ids <@ waiting_ids THEN
        result.outcome := 'unknown id';
    END IF;
    IF result.outcome IS NOT NULL THEN
        PERFORM release_idempotency_key(_tenant, _key);
        RETURN result;
    END IF;
    IF _value IS NOT NULL THEN
        entry := encoded_text(1, waiting_ids[1]) || public.encoded_field(2, 2, octet_length(_value)) || _value;
        _values := public.encoded_field(1, 2, octet_length(entry)) || entry;
    END IF;
    -- One encoded Struct after the other is the Struct that has the keys of both.
    UPDATE public.runs SET encoded_waiting = NULL, waiting_expires_at = NULL,
        resume_values = coalesce(resume_values, '') || _values,
        waited_seconds = waited_seconds + seconds_since(waiting_since),
        lease_expires_at = '-infinity', handed_back = true, trace_id = coalesce(_trace, trace_id),
        updated_at = public.touch(updated_at)
    WHERE tenant_id = _tenant AND id = _id
    RETURNING attempt, updated_at, trace_id,
        public.encoded_response(encoded_input, encoded_state, priority) AS response
    INTO STRICT run;
    PERFORM record_transition(_tenant, _id, NULL, 'running', 'running', run.attempt, run.updated_at,
        _actor, 'RESUMED', run.trace_id, NULL);
    PERFORM store_response(_tenant, _key, run.response);
    result.outcome := 'applied';
    result.response := run.response;
    RETURN result;
END
$$;

CREATE FUNCTION waiting_response(_input bytea, _state bytea, _priority smallint, _waiting bytea) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    response bytea := public.encoded_response(_input, _state, _priority);
    size int := octet_length(_input) + octet_length(_state);
BEGIN
    -- A server of the version before cancels a run without clearing what it waits for.
    IF substring(_state FROM 1 FOR 2) <> '\x1802' THEN
        RETURN response;
    END IF;
    RETURN public.encoded_field(1, 2, size + octet_length(_waiting))
        || substring(response FROM octet_length(response) - size + 1) || _waiting;
END
$$;

-- As public.encoded_response, with what the run waits for. Its body is parsed when it is made, so that it may be
-- called whatever the search_path is.
CREATE FUNCTION run_response(_input bytea, _state bytea, _priority smallint, _waiting bytea) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN _waiting IS NULL THEN public.encoded_response(_input, _state, _priority)
    ELSE waiting_response(_input, _state, _priority, _waiting) END;

-- A string as field `_field`; an empty one, as protobuf has it, is not there.
CREATE FUNCTION encoded_text(_field int, _text text) RETURNS bytea LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    RETURN CASE WHEN _text = '' THEN '' ELSE
        public.encoded_field(_field, 2, octet_length(convert_to(_text, 'UTF8'))) || convert_to(_text, 'UTF8') END;
END
$$;
