-- What a worker writes for a run that it holds takes effect only while the run is running under the worker's
-- epoch, its fencing token: these functions return no row otherwise.

-- The attempt of the run, whose row is locked until the transaction ends; NULL when it is no longer held under
-- that epoch. With a lock, because without it a takeover could commit between this look and the write. FOR KEY
-- SHARE, which goes with a heartbeat, however long a large state takes to store, and not with FOR UPDATE
-- (README.tuplock of PostgreSQL 15): whatever raises the epoch or moves the status takes that lock before,
-- and so it comes wholly before the write or wholly after. In a function of several statements each sees what
-- others have stored before it.
CREATE FUNCTION hold_lease(_tenant text, _run uuid, _epoch bigint) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    held int;
BEGIN
    SELECT attempt INTO held FROM public.runs
    WHERE tenant_id = _tenant AND id = _run AND epoch = _epoch AND status = 'running' FOR KEY SHARE;
    RETURN held;
END
$$;

-- What has been done since the last statement: steps that completed, what tasks wrote (_write_… are the columns
-- of checkpoint_writes), and checkpoints, oldest first. Of the namespaces _pruned what is older than the
-- checkpoint of _oldest_needed goes, and all of the namespaces _gone. A step completes (running -> completed)
-- in one transaction with the writes that make it so, or the checkpoint that sums them up: it is completed
-- exactly when LangGraph will not run it again.
CREATE FUNCTION store_progress(_tenant text, _run uuid, _completed uuid[],
    _write_ns text[], _write_checkpoints text[], _write_tasks text[], _write_paths text[], _write_idx int[],
    _write_channels text[], _write_types text[], _write_values bytea[],
    _namespaces text[], _checkpoints text[], _parents text[], _types text[], _values bytea[], _metadata bytea[],
    _pruned text[], _oldest_needed text[], _gone text[])
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
        UPDATE public.run_steps SET status = 'completed', completed_at = greatest(public.now_ms(), started_at),
            updated_at = public.touch(updated_at)
        WHERE tenant_id = _tenant AND run_id = _run AND id = ANY(_completed) AND status = 'running';
    END IF;
    IF _pruned <> '{}' THEN
        WITH needed AS (
            SELECT ns, seq FROM unnest(_pruned, _oldest_needed) AS oldest(ns, oldest_id)
            JOIN public.checkpoints
                ON tenant_id = _tenant AND run_id = _run AND checkpoint_ns = ns AND checkpoint_id = oldest_id
        ), superseded AS (
            DELETE FROM public.checkpoints AS stored USING needed
            WHERE tenant_id = _tenant AND run_id = _run AND checkpoint_ns = ns AND stored.seq < needed.seq
            RETURNING checkpoint_ns AS ns, checkpoint_id AS superseded_id
        )
        DELETE FROM public.checkpoint_writes USING superseded
        WHERE tenant_id = _tenant AND run_id = _run AND checkpoint_ns = ns AND checkpoint_id = superseded_id;
    END IF;
    IF _gone <> '{}' THEN
        DELETE FROM public.checkpoints
        WHERE tenant_id = _tenant AND run_id = _run AND checkpoint_ns = ANY(_gone);
        DELETE FROM public.checkpoint_writes
        WHERE tenant_id = _tenant AND run_id = _run AND checkpoint_ns = ANY(_gone);
    END IF;
END
$$;

CREATE FUNCTION record_progress(_tenant text, _run uuid, _epoch bigint, _completed uuid[],
    _write_ns text[], _write_checkpoints text[], _write_tasks text[], _write_paths text[], _write_idx int[],
    _write_channels text[], _write_types text[], _write_values bytea[],
    _namespaces text[], _checkpoints text[], _parents text[], _types text[], _values bytea[], _metadata bytea[],
    _pruned text[], _oldest_needed text[], _gone text[])
RETURNS TABLE (held int) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    held := hold_lease(_tenant, _run, _epoch);
    IF held IS NULL THEN
        RETURN;
    END IF;
    PERFORM store_progress(_tenant, _run, _completed, _write_ns, _write_checkpoints, _write_tasks, _write_paths,
        _write_idx, _write_channels, _write_types, _write_values, _namespaces, _checkpoints, _parents, _types,
        _values, _metadata, _pruned, _oldest_needed, _gone);
    RETURN NEXT;
END
$$;

-- Of the tasks _ids: pending or nothing -> running; most have nothing yet. Returns which execution of its step
-- each is, from 1. An execution still marked running was stopped by its own timeout, and may still be cleaning
-- up; what it writes from now on names its own attempt, and changes nothing.
CREATE FUNCTION begin_step(_tenant text, _run uuid, _epoch bigint, _completed uuid[],
    _write_ns text[], _write_checkpoints text[], _write_tasks text[], _write_paths text[], _write_idx int[],
    _write_channels text[], _write_types text[], _write_values bytea[],
    _namespaces text[], _checkpoints text[], _parents text[], _types text[], _values bytea[], _metadata bytea[],
    _pruned text[], _oldest_needed text[], _gone text[],
    _ids uuid[], _steps text[], _skills text[], _cache_hits boolean[])
RETURNS TABLE (id uuid, attempt int) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    held int;
    begun_first uuid[];
    latest text;
    task record;
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    held := hold_lease(_tenant, _run, _epoch);
    IF held IS NULL THEN
        RETURN;
    END IF;
    PERFORM store_progress(_tenant, _run, _completed, _write_ns, _write_checkpoints, _write_tasks, _write_paths,
        _write_idx, _write_channels, _write_types, _write_values, _namespaces, _checkpoints, _parents, _types,
        _values, _metadata, _pruned, _oldest_needed, _gone);
    WITH begun AS (
        INSERT INTO public.run_steps (tenant_id, run_id, id, attempt, run_attempt, step_id, skill_id, status,
            cache_hit, started_at)
        SELECT _tenant, _run, task_id, 1, held, step, skill, 'running', is_hit, public.now_ms()
        FROM unnest(_ids, _steps, _skills, _cache_hits) WITH ORDINALITY
            AS task(task_id, step, skill, is_hit, place)
        ORDER BY place
        ON CONFLICT DO NOTHING
        RETURNING id
    )
    SELECT coalesce(array_agg(id), '{}') INTO begun_first FROM begun;
    RETURN QUERY SELECT unnest(begun_first), 1;
    IF cardinality(begun_first) = cardinality(_ids) THEN
        RETURN;
    END IF;
    FOR task IN SELECT * FROM unnest(_ids, _steps, _skills, _cache_hits) AS task(id, step, skill, is_hit) LOOP
        CONTINUE WHEN task.id = ANY(begun_first);
        LOOP
            SELECT run_steps.attempt, run_steps.status INTO attempt, latest FROM public.run_steps
            WHERE tenant_id = _tenant AND run_id = _run AND run_steps.id = task.id
            ORDER BY run_steps.attempt DESC LIMIT 1;
            IF latest = 'pending' THEN
                UPDATE public.run_steps SET status = 'running', cache_hit = task.is_hit,
                    started_at = public.now_ms(), updated_at = public.touch(updated_at)
                WHERE tenant_id = _tenant AND run_id = _run AND run_steps.id = task.id AND status = 'pending';
                EXIT;
            END IF;
            UPDATE public.run_steps SET status = 'failed', completed_at = greatest(public.now_ms(), started_at),
                updated_at = public.touch(updated_at),
                error = step_error('STEP_TIMED_OUT', 'It ran into its time limit.', step_id, run_steps.attempt)
            WHERE latest = 'running' AND tenant_id = _tenant AND run_id = _run AND run_steps.id = task.id
                AND status = 'running';
            attempt := coalesce(attempt, 0) + 1;
            INSERT INTO public.run_steps (tenant_id, run_id, id, attempt, run_attempt, step_id, skill_id,
                status, cache_hit, started_at)
            VALUES (_tenant, _run, task.id, attempt, held, task.step, task.skill, 'running', task.is_hit,
                public.now_ms())
            ON CONFLICT DO NOTHING;
            -- Not found when one that was stopped while it began has committed only now.
            EXIT WHEN FOUND;
        END LOOP;
        id := task.id;
        RETURN NEXT;
    END LOOP;
END
$$;

-- running -> failed; when its retry policy grants another execution (_again), that one is pending at once. One
-- that has failed already may turn out to be handled.
CREATE FUNCTION fail_step(_tenant text, _run uuid, _epoch bigint, _id uuid, _error jsonb, _again boolean,
    _attempt int, _handled boolean)
RETURNS TABLE (held int) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    held := hold_lease(_tenant, _run, _epoch);
    IF held IS NULL THEN
        RETURN;
    END IF;
    WITH failed AS (
        UPDATE public.run_steps SET status = 'failed', handled = _handled,
            completed_at = greatest(public.now_ms(), started_at), updated_at = public.touch(updated_at),
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

-- running or completed -> failed, when what the execution wrote turns out to be what its graph cannot take: it
-- is not stored any more, so that the node runs again when the graph resumes. The tasks of a sub-graph are no
-- steps.
CREATE FUNCTION take_back(_tenant text, _run uuid, _epoch bigint, _namespace text, _checkpoint text,
    _tasks text[], _error jsonb)
RETURNS TABLE (held int) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    held := hold_lease(_tenant, _run, _epoch);
    IF held IS NULL THEN
        RETURN;
    END IF;
    DELETE FROM public.checkpoint_writes
    WHERE tenant_id = _tenant AND run_id = _run AND checkpoint_ns = _namespace AND checkpoint_id = _checkpoint
        AND task_id = ANY(_tasks);
    UPDATE public.run_steps SET status = 'failed', completed_at = greatest(public.now_ms(), started_at),
        updated_at = public.touch(updated_at),
        error = _error || jsonb_build_object('step_id', step_id, 'attempt', attempt)
    WHERE tenant_id = _tenant AND run_id = _run AND id = ANY(_tasks::uuid[])
        AND status IN ('running', 'completed');
    RETURN NEXT;
END
$$;

-- An artifact, whose bytes are stored already, and that it is an output of an execution of a step. That lists
-- it, up to the hundredth, because the list is written again with each; the others name the execution.
CREATE FUNCTION save_artifact(_tenant text, _run uuid, _epoch bigint, _id uuid, _name text, _media_type text,
    _size bigint, _key text, _step uuid, _attempt int)
RETURNS TABLE (held int) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    is_listed boolean;
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    held := hold_lease(_tenant, _run, _epoch);
    IF held IS NULL THEN
        RETURN;
    END IF;
    UPDATE public.run_steps SET updated_at = public.touch(updated_at),
        output_artifact_ids = CASE WHEN cardinality(output_artifact_ids) < 100
            THEN output_artifact_ids || _id ELSE output_artifact_ids END
    WHERE tenant_id = _tenant AND run_id = _run AND id = _step AND attempt = _attempt AND status = 'running'
    RETURNING _id = ANY(output_artifact_ids) INTO is_listed;
    INSERT INTO public.artifacts (tenant_id, run_id, id, name, media_type, size, key, task_id, step_attempt)
    VALUES (_tenant, _run, _id, _name, _media_type, _size, _key, CASE WHEN NOT is_listed THEN _step END,
        CASE WHEN NOT is_listed THEN _attempt END);
    RETURN NEXT;
END
$$;
