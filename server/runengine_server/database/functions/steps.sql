-- What a worker writes for a run that it holds takes effect only while the run is running under the worker's
-- epoch, its fencing token: these functions return no row otherwise.

-- The attempt of the run, whose row is locked until the transaction ends; NULL when it is no longer held under
-- that epoch. FOR SHARE, because without the lock a takeover could commit between this look and the write.
-- A claim raises the epoch and skips locked rows, so it comes wholly before or wholly after. In a function
-- of several statements each sees what others have stored before it.
CREATE FUNCTION hold_lease(_tenant text, _run uuid, _epoch bigint) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    held int;
BEGIN
    SELECT attempt INTO held FROM public.runs
    WHERE tenant_id = _tenant AND id = _run AND epoch = _epoch AND status = 'running' FOR SHARE;
    RETURN held;
END
$$;

-- What has been done since the last statement: steps that completed, what tasks wrote (_of_… are the columns of
-- checkpoint_writes), and checkpoints, oldest first. A step completes (running -> completed) in one
-- transaction with the writes that make it so: it is completed exactly when LangGraph will not run it again.
CREATE FUNCTION store_progress(_tenant text, _run uuid, _completed uuid[],
    _write_ns text[], _write_checkpoints text[], _write_tasks text[], _write_paths text[], _write_idx int[],
    _write_channels text[], _write_types text[], _write_values bytea[],
    _namespaces text[], _checkpoints text[], _parents text[], _types text[], _values bytea[], _metadata bytea[])
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF _write_ns <> '{}' THEN
        INSERT INTO public.checkpoint_writes (tenant_id, run_id, checkpoint_ns, checkpoint_id, task_id,
            task_path, idx, channel, type, value)
        SELECT _tenant, _run, written.* FROM unnest(_write_ns, _write_checkpoints, _write_tasks, _write_paths,
            _write_idx, _write_channels, _write_types, _write_values) AS written
        ON CONFLICT (tenant_id, run_id, checkpoint_ns, checkpoint_id, task_id, idx) DO UPDATE
            SET channel = excluded.channel, type = excluded.type, value = excluded.value;
    END IF;
    IF _namespaces <> '{}' THEN
        INSERT INTO public.checkpoints (tenant_id, run_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id,
            type, checkpoint, metadata)
        SELECT _tenant, _run, saved.*
        FROM unnest(_namespaces, _checkpoints, _parents, _types, _values, _metadata) AS saved
        ON CONFLICT (tenant_id, run_id, checkpoint_ns, checkpoint_id) DO UPDATE
            SET checkpoint = excluded.checkpoint, metadata = excluded.metadata;
    END IF;
    IF _completed <> '{}' THEN
        UPDATE public.run_steps SET status = 'completed', completed_at = public.now_ms(),
            updated_at = public.touch(updated_at)
        WHERE tenant_id = _tenant AND run_id = _run AND id = ANY(_completed) AND status = 'running';
    END IF;
END
$$;

CREATE FUNCTION record_progress(_tenant text, _run uuid, _epoch bigint, _completed uuid[],
    _write_ns text[], _write_checkpoints text[], _write_tasks text[], _write_paths text[], _write_idx int[],
    _write_channels text[], _write_types text[], _write_values bytea[],
    _namespaces text[], _checkpoints text[], _parents text[], _types text[], _values bytea[], _metadata bytea[])
RETURNS TABLE (attempt int) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    attempt := hold_lease(_tenant, _run, _epoch);
    IF attempt IS NULL THEN
        RETURN;
    END IF;
    PERFORM store_progress(_tenant, _run, _completed, _write_ns, _write_checkpoints, _write_tasks, _write_paths,
        _write_idx, _write_channels, _write_types, _write_values, _namespaces, _checkpoints, _parents, _types,
        _values, _metadata);
    RETURN NEXT;
END
$$;

-- pending or nothing -> running. An execution still marked running was stopped by its own timeout, and may
-- still be cleaning up; what it writes from now on names its own attempt, and changes nothing.
CREATE FUNCTION begin_step(_tenant text, _run uuid, _epoch bigint, _completed uuid[],
    _write_ns text[], _write_checkpoints text[], _write_tasks text[], _write_paths text[], _write_idx int[],
    _write_channels text[], _write_types text[], _write_values bytea[],
    _namespaces text[], _checkpoints text[], _parents text[], _types text[], _values bytea[], _metadata bytea[],
    _id uuid, _step text, _skill text, _cache_hit boolean)
RETURNS TABLE (attempt int) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    attempt_of_run int := NULL;
    latest text;
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    attempt_of_run := hold_lease(_tenant, _run, _epoch);
    IF attempt_of_run IS NULL THEN
        RETURN;
    END IF;
    PERFORM store_progress(_tenant, _run, _completed, _write_ns, _write_checkpoints, _write_tasks, _write_paths,
        _write_idx, _write_channels, _write_types, _write_values, _namespaces, _checkpoints, _parents, _types,
        _values, _metadata);
    LOOP
        SELECT run_steps.attempt, run_steps.status INTO attempt, latest FROM public.run_steps
        WHERE tenant_id = _tenant AND run_id = _run AND id = _id ORDER BY run_steps.attempt DESC LIMIT 1;
        IF latest = 'pending' THEN
            UPDATE public.run_steps SET status = 'running', cache_hit = _cache_hit,
                started_at = public.now_ms(), updated_at = public.touch(updated_at)
            WHERE tenant_id = _tenant AND run_id = _run AND id = _id AND status = 'pending';
            EXIT;
        END IF;
        UPDATE public.run_steps SET status = 'failed', completed_at = public.now_ms(),
            updated_at = public.touch(updated_at),
            error = step_error('STEP_TIMED_OUT', 'It ran into its time limit.', step_id, run_steps.attempt)
        WHERE latest = 'running' AND tenant_id = _tenant AND run_id = _run AND id = _id AND status = 'running';
        attempt := coalesce(attempt, 0) + 1;
        INSERT INTO public.run_steps (tenant_id, run_id, id, attempt, run_attempt, step_id, skill_id, status,
            cache_hit, started_at)
        VALUES (_tenant, _run, _id, attempt, attempt_of_run, _step, _skill, 'running', _cache_hit,
            public.now_ms())
        ON CONFLICT DO NOTHING;
        -- Not found when one that was stopped while it began has committed only now.
        EXIT WHEN FOUND;
    END LOOP;
    RETURN NEXT;
END
$$;

-- running -> failed; when its retry policy grants another execution (_again), that one is pending at once. One
-- that has failed already may turn out to be handled.
CREATE FUNCTION fail_step(_tenant text, _run uuid, _epoch bigint, _id uuid, _error jsonb, _again boolean,
    _attempt int, _handled boolean)
RETURNS TABLE (held int) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    held := hold_lease(_tenant, _run, _epoch);
    IF held IS NULL THEN
        RETURN;
    END IF;
    WITH failed AS (
        UPDATE public.run_steps SET status = 'failed', handled = _handled, completed_at = public.now_ms(),
            updated_at = public.touch(updated_at),
            error = _error || jsonb_build_object('step_id', step_id, 'attempt', attempt)
        WHERE tenant_id = _tenant AND run_id = _run AND id = _id AND attempt = _attempt
            AND status = 'running'
        RETURNING attempt, run_attempt, step_id, skill_id
    )
    INSERT INTO public.run_steps (tenant_id, run_id, id, attempt, run_attempt, step_id, skill_id, status)
    SELECT _tenant, _run, _id, attempt + 1, run_attempt, step_id, skill_id, 'pending' FROM failed WHERE _again;
    IF _handled THEN
        UPDATE public.run_steps SET handled = true
        WHERE tenant_id = _tenant AND run_id = _run AND id = _id AND attempt = _attempt
            AND status = 'failed' AND NOT handled;
    END IF;
    RETURN NEXT;
END
$$;

-- An artifact, whose bytes are stored already, and that it is an output of an execution of a step.
CREATE FUNCTION save_artifact(_tenant text, _run uuid, _epoch bigint, _id uuid, _name text, _media_type text,
    _size bigint, _key text, _step uuid, _attempt int)
RETURNS TABLE (held int) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    held := hold_lease(_tenant, _run, _epoch);
    IF held IS NULL THEN
        RETURN;
    END IF;
    INSERT INTO public.artifacts (tenant_id, run_id, id, name, media_type, size, key)
    VALUES (_tenant, _run, _id, _name, _media_type, _size, _key);
    UPDATE public.run_steps SET output_artifact_ids = output_artifact_ids || _id,
        updated_at = public.touch(updated_at)
    WHERE tenant_id = _tenant AND run_id = _run AND id = _step AND attempt = _attempt AND status = 'running';
    RETURN NEXT;
END
$$;
