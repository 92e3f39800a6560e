CREATE FUNCTION get_run(_tenant text, _id uuid) RETURNS TABLE (response bytea)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    RETURN QUERY SELECT run_response(encoded_input, encoded_state, priority, encoded_waiting)
        FROM public.runs WHERE tenant_id = _tenant AND id = _id;
END
$$;

-- What the graph of a run returned: see end_run. NULL unless it has completed with one.
CREATE FUNCTION get_run_output(_tenant text, _id uuid)
RETURNS TABLE (status text, attempt int, encoded_output bytea)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    RETURN QUERY SELECT status, attempt, encoded_output FROM public.runs WHERE tenant_id = _tenant AND id = _id;
END
$$;

-- queued | running -> cancelled; a cancelled run is returned unchanged. Pending steps are skipped, and running
-- ones fail. The worker that holds the run is notified and stops the graph; what it writes before that changes
-- nothing, because every write of a worker requires the status 'running'.
CREATE FUNCTION cancel_run(_tenant text, _id uuid, _actor text, _trace text, _key text, _fingerprint bytea)
RETURNS mutation_result LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    result mutation_result;
    is_of_thread boolean;
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    is_of_thread := lock_thread_of(_tenant, _id);
    result := lock_run(_tenant, _id, _key, _fingerprint, ARRAY['queued', 'running', 'cancelled']);
    IF result.outcome IS NOT NULL THEN
        RETURN result;
    END IF;
    IF result.status <> 'cancelled' THEN
        result.response := make_cancelled(_tenant, _id, result.status, _actor, _trace, is_of_thread, NULL);
        result.is_of_thread := is_of_thread;
    END IF;
    PERFORM store_response(_tenant, _key, result.response);
    result.outcome := 'applied';
    RETURN result;
END
$$;

-- queued | running -> cancelled, of a run that is locked, as is its thread where it is of one. Returns the encoded
-- response. With an `_operation` its campaign is not counted: see count_transitions.
CREATE FUNCTION make_cancelled(_tenant text, _id uuid, _source text, _actor text, _trace text,
    _is_of_thread boolean, _operation uuid)
RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE
    run record;
BEGIN
    UPDATE public.runs SET status = 'cancelled', completed_at = greatest(public.now_ms(), started_at),
        lease_expires_at = NULL, encoded_waiting = NULL, updated_at = public.touch(updated_at)
    WHERE tenant_id = _tenant AND id = _id AND status = _source
    RETURNING campaign_id, attempt, updated_at, coalesce(_trace, trace_id) AS trace_id,
        public.encoded_response(encoded_input, encoded_state, priority) AS response
    INTO STRICT run;
    PERFORM end_steps(_tenant, ARRAY[_id], ARRAY[]::uuid[], ARRAY[]::bytea[], 'RUN_CANCELLED',
        'The run was cancelled.');
    PERFORM record_transition(_tenant, _id, CASE WHEN _operation IS NULL THEN run.campaign_id END, _source,
        'cancelled', run.attempt, run.updated_at, _actor, 'CANCELLED', run.trace_id, NULL, _operation);
    IF _is_of_thread THEN
        PERFORM leave_thread(_tenant, _id, 'cancelled', NULL);
    ELSE
        PERFORM prune_checkpoints_of(_tenant, _id);
    END IF;
    RETURN run.response;
END
$$;

-- failed | cancelled -> queued, attempt + 1, where the tenant may have one more queued.
CREATE FUNCTION retry_run(_tenant text, _id uuid, _actor text, _trace text, _key text, _fingerprint bytea,
    _queued_limit int)
RETURNS mutation_result LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    result mutation_result;
    is_of_thread boolean;
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    is_of_thread := lock_thread_of(_tenant, _id);
    result := lock_run(_tenant, _id, _key, _fingerprint, ARRAY['failed', 'cancelled']);
    IF result.outcome IS NULL AND queue_capacity(_tenant, _queued_limit, 1) = 0 THEN
        result.outcome := 'over quota';
        PERFORM release_idempotency_key(_tenant, _key);
    END IF;
    IF result.outcome IS NOT NULL THEN
        RETURN result;
    END IF;
    result.response := make_queued(_tenant, _id, result.status, _actor, _trace, is_of_thread, NULL);
    PERFORM store_response(_tenant, _key, result.response);
    result.outcome := 'applied';
    RETURN result;
END
$$;

-- failed | cancelled -> queued, attempt + 1, as make_cancelled. Steps that failed or were skipped become pending
-- again, unless they are within one that has completed all the same.
CREATE FUNCTION make_queued(_tenant text, _id uuid, _source text, _actor text, _trace text,
    _is_of_thread boolean, _operation uuid)
RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE
    run record;
BEGIN
    UPDATE public.runs SET status = 'queued', attempt = attempt + 1, error = NULL, started_at = NULL,
        completed_at = NULL, losses = 0, hand_backs = 0, queued_at = public.now_ms(),
        trace_id = coalesce(_trace, trace_id), updated_at = public.touch(updated_at)
    WHERE tenant_id = _tenant AND id = _id AND status = _source
    RETURNING campaign_id, attempt, updated_at, trace_id,
        public.encoded_response(encoded_input, encoded_state, priority) AS response
    INTO STRICT run;
    WITH RECURSIVE latest AS (
        SELECT DISTINCT ON (id) id, attempt, step_id, skill_id, parent_id, status, handled FROM public.run_steps
        WHERE tenant_id = _tenant AND run_id = _id
        ORDER BY id, attempt DESC
    ), over AS (
        SELECT id FROM latest WHERE status = 'completed'
        UNION SELECT latest.id FROM latest JOIN over ON latest.parent_id = over.id
    )
    INSERT INTO public.run_steps (tenant_id, run_id, id, attempt, run_attempt, step_id, skill_id, parent_id, status)
    SELECT _tenant, _id, latest.id, latest.attempt + 1, run.attempt, latest.step_id, latest.skill_id,
        latest.parent_id, 'pending'
    FROM latest
    WHERE latest.status IN ('failed', 'skipped') AND NOT latest.handled
        AND latest.id NOT IN (SELECT over.id FROM over);
    PERFORM record_transition(_tenant, _id, CASE WHEN _operation IS NULL THEN run.campaign_id END, _source,
        'queued', run.attempt, run.updated_at, _actor, 'RETRIED', run.trace_id, NULL, _operation);
    IF _is_of_thread THEN
        PERFORM queue_in_thread(_tenant, _id);
    END IF;
    RETURN run.response;
END
$$;

-- The idempotency key claimed and the run locked, as it is before it moves, for a transition from one of
-- `_sources`. An outcome that is not NULL is the end of the call: it is a replay, or it is refused. The lock is
-- a statement of its own, so that the snapshots of those after it have every step that a worker recorded while
-- it held the row: in one statement the step that was just being started would stay running for ever.
CREATE FUNCTION lock_run(_tenant text, _id uuid, _key text, _fingerprint bytea, _sources text[])
RETURNS mutation_result LANGUAGE plpgsql AS $$
DECLARE
    result mutation_result;
BEGIN
    result := claim_idempotency_key(_tenant, _key, _fingerprint);
    IF result.outcome IS NOT NULL THEN
        RETURN result;
    END IF;
    SELECT status, attempt, public.encoded_response(encoded_input, encoded_state, priority)
    INTO result.status, result.attempt, result.response
    FROM public.runs WHERE tenant_id = _tenant AND id = _id FOR UPDATE;
    IF NOT FOUND THEN
        result.outcome := 'run not found';
    ELSIF result.status <> ALL(_sources) THEN
        result.outcome := 'wrong status';
    END IF;
    IF result.outcome IS NOT NULL THEN
        PERFORM release_idempotency_key(_tenant, _key);
    END IF;
    RETURN result;
END
$$;

-- What becomes of the steps of runs that end: running ones have completed, if they are among `_completed`, or
-- have failed with this error; pending ones are skipped. `_updates` is what those completed have written.
CREATE FUNCTION end_steps(_tenant text, _runs uuid[], _completed uuid[], _updates bytea[], _code text,
    _message text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE public.run_steps SET
        status = CASE WHEN status = 'pending' THEN 'skipped' WHEN id = ANY(_completed) THEN 'completed'
            ELSE 'failed' END,
        error = CASE WHEN status = 'running' AND id <> ALL(_completed) THEN step_error(_code, _message, step_id,
            attempt) END,
        completed_at = CASE WHEN status = 'running' THEN greatest(public.now_ms(), started_at) END,
        updated_at = public.touch(updated_at), encoded_update = _updates[array_position(_completed, id)]
    WHERE tenant_id = _tenant AND run_id = ANY(_runs) AND status IN ('pending', 'running');
END
$$;

-- The error of a step that the engine stopped; a retry runs it again.
CREATE FUNCTION step_error(_code text, _message text, _step text, _attempt int) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN jsonb_build_object('code', _code, 'message', _message, 'step_id', _step, 'attempt', _attempt,
    'retryable', true);

-- The steps of a run, each at its current attempt; or, with `_attempt`, those that have that attempt, at it. A
-- step keeps the place of its first attempt. LEFT JOIN: a run without steps is one row, a run that is not there
-- is none. The artifacts of a step: see save_artifact. Up to _limit steps, or all with NULL, after the place
-- _after.
CREATE FUNCTION list_run_steps(_tenant text, _id uuid, _attempt int, _after bigint, _limit int)
RETURNS TABLE (place bigint, id uuid, parent_id uuid, step_id text, skill_id text, status text, cache_hit boolean, attempt int,
    error jsonb, output_artifact_ids uuid[], started_at timestamptz, completed_at timestamptz, created_at timestamptz,
    updated_at timestamptz)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    RETURN QUERY SELECT place, step.id, parent_id, step_id, skill_id, step.status, cache_hit, step.attempt, step.error,
            output_artifact_ids || ARRAY(
                SELECT artifacts.id FROM public.artifacts
                WHERE artifacts.tenant_id = _tenant AND artifacts.run_id = _id AND task_id = step.id
                    AND step_attempt = step.attempt
                ORDER BY artifacts.id),
            step.started_at, step.completed_at, step.created_at, step.updated_at
        FROM public.runs LEFT JOIN LATERAL (
            SELECT id, parent_id, step_id, skill_id, status, cache_hit, attempt, error, output_artifact_ids, started_at,
                completed_at, created_at, updated_at,
                min(seq) OVER step AS place, max(attempt) OVER step AS current
            FROM public.run_steps
            WHERE tenant_id = _tenant AND run_id = _id WINDOW step AS (PARTITION BY id)
        ) AS step ON step.attempt = coalesce(_attempt, step.current) AND step.place > _after
        WHERE runs.tenant_id = _tenant AND runs.id = _id ORDER BY place LIMIT _limit;
END
$$;

-- What one execution of a step was called with and wrote: the current one, unless `_attempt` names another. A
-- run without that step, or that attempt of it, is one row with nulls, a run that is not there is none.
CREATE FUNCTION get_run_step_data(_tenant text, _run uuid, _id uuid, _attempt int)
RETURNS TABLE (status text, attempt int, encoded_input bytea, encoded_update bytea)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    RETURN QUERY SELECT step.status, step.attempt,
            with_values(_tenant, _run, true, step.encoded_input, step.input_refs), step.encoded_update
        FROM public.runs LEFT JOIN LATERAL (
            SELECT * FROM public.run_steps AS executed
            WHERE executed.tenant_id = _tenant AND executed.run_id = _run AND executed.id = _id
                AND executed.attempt = coalesce(_attempt, executed.attempt)
            ORDER BY executed.attempt DESC LIMIT 1
        ) AS step ON true
        WHERE runs.tenant_id = _tenant AND runs.id = _run;
END
$$;

-- running -> completed | failed, and its campaign, where there is one, with it. `_completed` are steps that have
-- completed; the other running steps were stopped by the failure of one of them. A completed run is final, so
-- nothing resumes from its checkpoints any more. The lock is a statement of its own, so that those after it see
-- every step that was recorded under it. `_output` is an encoded GetRunOutputResponse; where that names an
-- artifact, whose bytes are stored already, it is saved as one of the run. `_thread_checkpoints`, NULL unless it is of
-- a thread, is as in leave_thread.
CREATE FUNCTION end_run(_tenant text, _id uuid, _epoch bigint, _target text, _error bytea, _worker text,
    _reason text, _campaign uuid, _campaign_status text, _bundle_url text, _latest_run uuid,
    _completed uuid[], _updates bytea[], _output bytea, _artifact uuid, _artifact_name text,
    _artifact_media_type text, _artifact_size bigint, _artifact_key text,
    _thread_checkpoints int)
RETURNS TABLE (ended int) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    run record;
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    IF _thread_checkpoints IS NOT NULL THEN
        PERFORM lock_thread_of(_tenant, _id);
    END IF;
    PERFORM FROM public.runs
    WHERE tenant_id = _tenant AND id = _id AND epoch = _epoch AND status = 'running' FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    UPDATE public.runs SET status = _target, error = _error, encoded_output = _output,
        completed_at = greatest(public.now_ms(), started_at), lease_expires_at = NULL,
        updated_at = public.touch(updated_at)
    WHERE tenant_id = _tenant AND id = _id AND epoch = _epoch AND status = 'running'
    RETURNING campaign_id, attempt, updated_at, trace_id INTO STRICT run;
    PERFORM end_steps(_tenant, ARRAY[_id], _completed, _updates, 'STEP_INTERRUPTED',
        'It was stopped because the run ended without it.');
    PERFORM record_transition(_tenant, _id, run.campaign_id, 'running', _target, run.attempt, run.updated_at,
        _worker, _reason, run.trace_id, _error);
    IF _thread_checkpoints IS NOT NULL THEN
        PERFORM leave_thread(_tenant, _id, _target, _thread_checkpoints);
    ELSIF _target = 'completed' THEN
        PERFORM drop_checkpoints_of(_tenant, ARRAY[_id]);
    ELSE
        PERFORM prune_checkpoints_of(_tenant, _id);
    END IF;
    IF _artifact IS NOT NULL THEN
        INSERT INTO public.artifacts (tenant_id, run_id, id, name, media_type, size, key)
        VALUES (_tenant, _id, _artifact, _artifact_name, _artifact_media_type, _artifact_size, _artifact_key);
    END IF;
    IF _campaign IS NOT NULL THEN
        PERFORM move_campaign(_tenant, _campaign, _campaign_status, _bundle_url, _latest_run);
    END IF;
    ended := 1;
    RETURN NEXT;
END
$$;

-- end_run of some runs of a tenant that complete, are of no thread and have no artifact as their output: each
-- statement for all of them. They are in the order of their ids; then come the counts and then the campaigns, as in
-- end_run, so that two batches cannot deadlock. A wait for a lock of longer than 0.1 s fails: then each has to wait
-- alone. `_completed_run` is the place in `_ids` of the run that a completed step is of. A run may be there twice,
-- under two epochs, of which one is held at most. Returns the place of each run that was still held.
CREATE FUNCTION complete_runs(_tenant text, _ids uuid[], _epochs bigint[], _workers text[], _campaigns uuid[],
    _campaign_statuses text[], _bundle_urls text[], _latest_runs uuid[], _outputs bytea[], _completed_run int[],
    _completed uuid[], _updates bytea[])
RETURNS TABLE (place int) LANGUAGE plpgsql SET search_path FROM CURRENT SET lock_timeout = '100ms' AS $$
#variable_conflict use_column
DECLARE
    held uuid[] := '{}';
    places int[] := '{}';
    completed uuid[];
    updates bytea[];
    moved record;
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    FOR number IN 1..cardinality(_ids) LOOP
        PERFORM FROM public.runs
        WHERE tenant_id = _tenant AND id = _ids[number] AND epoch = _epochs[number] AND status = 'running'
        FOR UPDATE;
        IF FOUND THEN
            held := held || _ids[number];
            places := places || number;
            place := number;
            RETURN NEXT;
        END IF;
    END LOOP;
    -- The transitions of steps before that of their run, with which its watchers stop to read.
    SELECT coalesce(array_agg(step), '{}'), array_agg(made) INTO completed, updates
    FROM unnest(_completed_run, _completed, _updates) AS done(place, step, made) WHERE place = ANY(places);
    PERFORM end_steps(_tenant, held, completed, updates, 'STEP_INTERRUPTED',
        'It was stopped because the run ended without it.');
    WITH ended AS (
        UPDATE public.runs SET status = 'completed', encoded_output = _outputs[places[array_position(held, id)]],
            completed_at = greatest(public.now_ms(), started_at), lease_expires_at = NULL,
            updated_at = public.touch(updated_at)
        WHERE tenant_id = _tenant AND id = ANY(held)
        RETURNING id, attempt, updated_at, trace_id
    )
    INSERT INTO public.run_events (tenant_id, run_id, at, from_status, to_status, attempt, actor, reason, trace_id)
    SELECT _tenant, id, updated_at, 'running', 'completed', attempt, _workers[places[array_position(held, id)]],
        'COMPLETED', trace_id
    FROM ended;
    PERFORM count_transitions(_tenant, held, array_fill('running'::text, ARRAY[cardinality(held)]), 'completed');
    PERFORM drop_checkpoints_of(_tenant, held);
    FOR moved IN
        SELECT campaign, campaign_status, bundle_url, latest
        FROM unnest(_campaigns, _campaign_statuses, _bundle_urls, _latest_runs) WITH ORDINALITY
            AS ended(campaign, campaign_status, bundle_url, latest, number)
        WHERE number = ANY(places) AND campaign IS NOT NULL ORDER BY campaign
    LOOP
        PERFORM move_campaign(_tenant, moved.campaign, moved.campaign_status, moved.bundle_url, moved.latest);
    END LOOP;
END
$$;

-- complete_runs for runs of several tenants: _tenant has that of each run.
CREATE FUNCTION complete_runs_of_tenants(_tenant text[], _ids uuid[], _epochs bigint[], _workers text[],
    _campaigns uuid[], _campaign_statuses text[], _bundle_urls text[], _latest_runs uuid[], _outputs bytea[],
    _completed_run int[], _completed uuid[], _updates bytea[])
RETURNS TABLE (place int) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    own text;
    own_ids uuid[];
BEGIN
    -- In one order, so that two batches cannot deadlock.
    FOR own IN SELECT DISTINCT unnest(_tenant) ORDER BY 1 LOOP
        SELECT array_agg(CASE WHEN each_tenant = own THEN each_id END ORDER BY number) INTO own_ids
        FROM unnest(_tenant, _ids) WITH ORDINALITY AS each(each_tenant, each_id, number);
        RETURN QUERY SELECT * FROM complete_runs(own, own_ids, _epochs, _workers, _campaigns, _campaign_statuses,
            _bundle_urls, _latest_runs, _outputs, _completed_run, _completed, _updates);
    END LOOP;
END
$$;
