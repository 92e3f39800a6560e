-- A worker's writes for a run that it holds. They take effect only while the run is running under the
-- worker's epoch, its fencing token: otherwise these functions return no row.

-- The attempt of the run, whose row stays locked until the transaction ends; NULL when it is no longer held
-- under that epoch. Without the lock a takeover could commit between this check and the write. FOR KEY SHARE
-- does not conflict with a heartbeat, however long a large state takes to store, but with FOR UPDATE
-- (README.tuplock of PostgreSQL 15), which everything that raises the epoch or moves the status takes first:
-- that comes wholly before the write or wholly after. Each statement of a function sees what was committed
-- before it.
CREATE FUNCTION hold_lease(_tenant text, _run uuid, _epoch bigint) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    held int;
BEGIN
    SELECT attempt INTO held FROM public.runs
    WHERE tenant_id = _tenant AND id = _run AND epoch = _epoch AND status = 'running' FOR KEY SHARE;
    RETURN held;
END
$$;

-- All that has been done for some runs of a tenant since the last statement: steps that completed, what tasks
-- wrote (_write_… are the columns of checkpoint_writes), checkpoints, oldest first of each run, and the steps
-- that begin (_begun_…). In the namespaces _pruned the checkpoints older than the one of _oldest_needed are
-- deleted, and the namespaces _dropped as a whole. _values are large values that are cut out of checkpoints and
-- inputs (_…_refs, see values.sql); of the runs _swept those of checkpoints are deleted that are not used and whose
-- hashes are not in _kept. _…_run is the place in _runs of the run that each is of. A
-- step completes (running -> completed) in one transaction with the writes that make it so, or with the
-- checkpoint that sums them up: it is completed exactly when LangGraph will not run it again. _updates and
-- _begun_inputs are kept with the steps. NULL is no rows of a kind. Returns the place of each run that is still
-- held, and nothing is written for another; and a row for each step that begins, with its attempt. A run may be
-- there twice, under two epochs, of which one is held at most. Several runs, which are in the order of their
-- ids, so that two batches cannot deadlock, wait 0.1 s for a lock at most: then each has to wait alone.
CREATE FUNCTION record_progress(_tenant text, _runs uuid[], _epochs bigint[], _completed_run int[],
    _completed uuid[], _updates bytea[], _write_run int[], _write_ns text[], _write_checkpoints text[],
    _write_tasks text[], _write_paths text[], _write_idx int[], _write_channels text[], _write_types text[],
    _write_values bytea[], _checkpoint_run int[], _namespaces text[], _checkpoints text[], _parents text[],
    _types text[], _bytes bytea[], _metadata bytea[], _checkpoint_refs bytea[], _pruned_run int[], _pruned text[],
    _oldest_needed text[], _dropped_run int[], _dropped text[], _begun_run int[], _begun uuid[], _begun_steps text[],
    _begun_skills text[], _begun_cache_hits boolean[], _begun_inputs bytea[], _begun_parents uuid[],
    _begun_refs bytea[], _value_run int[], _of_steps boolean[], _hashes bytea[], _values bytea[], _swept int[],
    _kept bytea[])
RETURNS TABLE (place int, id uuid, attempt int) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    run uuid;
    held int[];
    any_held boolean := false;
    completed uuid[];
    updates bytea[];
    begun_first uuid[];
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    IF cardinality(_runs) > 1 THEN
        PERFORM set_config('lock_timeout', '100ms', true);
    END IF;
    FOR number IN 1..cardinality(_runs) LOOP
        run := _runs[number];
        IF run IS NOT NULL THEN
            place := number;
            held[place] := hold_lease(_tenant, run, _epochs[place]);
            IF held[place] IS NOT NULL THEN
                any_held := true;
                RETURN NEXT;
            END IF;
        END IF;
    END LOOP;
    IF NOT any_held THEN
        RETURN;
    END IF;
    IF _write_run IS NOT NULL THEN
        INSERT INTO public.checkpoint_writes (tenant_id, run_id, checkpoint_ns, checkpoint_id, task_id,
            task_path, idx, channel, type, value)
        SELECT _tenant, _runs[place], ns, checkpoint, task, path, idx, channel, type, value
        FROM unnest(_write_run, _write_ns, _write_checkpoints, _write_tasks, _write_paths, _write_idx,
            _write_channels, _write_types, _write_values)
            AS written(place, ns, checkpoint, task, path, idx, channel, type, value)
        WHERE held[place] IS NOT NULL
        ON CONFLICT (tenant_id, run_id, checkpoint_ns, checkpoint_id, task_id, idx) DO UPDATE
            SET channel = excluded.channel, type = excluded.type, value = excluded.value;
    END IF;
    IF _value_run IS NOT NULL THEN
        INSERT INTO public.run_values (tenant_id, run_id, of_steps, hash, value)
        SELECT _tenant, _runs[place], is_of_steps, value_hash, cut
        FROM unnest(_value_run, _of_steps, _hashes, _values) AS large(place, is_of_steps, value_hash, cut)
        WHERE held[place] IS NOT NULL
        ON CONFLICT DO NOTHING;
    END IF;
    IF _checkpoint_run IS NOT NULL THEN
        INSERT INTO public.checkpoints (tenant_id, run_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id,
            type, checkpoint, metadata, value_refs)
        SELECT _tenant, _runs[place], ns, saved_id, parent, type, saved_bytes, metadata, refs
        FROM unnest(_checkpoint_run, _namespaces, _checkpoints, _parents, _types, _bytes, _metadata,
            _checkpoint_refs) AS saved(place, ns, saved_id, parent, type, saved_bytes, metadata, refs)
        WHERE held[place] IS NOT NULL
        ON CONFLICT (tenant_id, run_id, checkpoint_ns, checkpoint_id) DO UPDATE
            SET checkpoint = excluded.checkpoint, metadata = excluded.metadata, value_refs = excluded.value_refs;
    END IF;
    IF _completed_run IS NOT NULL THEN
        SELECT array_agg(step), array_agg(made) INTO completed, updates
        FROM unnest(_completed_run, _completed, _updates) AS done(place, step, made)
        WHERE held[place] IS NOT NULL;
        -- Without a join, for which PostgreSQL may read all steps of the tenant when it has planned it while the
        -- table had few: 3,170 steps a run, after 1,500 runs. No two runs have a step of the same id.
        UPDATE public.run_steps SET status = 'completed', completed_at = greatest(public.now_ms(), started_at),
            updated_at = public.touch(updated_at), encoded_update = updates[array_position(completed, id)]
        WHERE tenant_id = _tenant AND run_id = ANY(_runs) AND id = ANY(completed) AND status = 'running';
    END IF;
    IF _pruned_run IS NOT NULL OR _dropped_run IS NOT NULL THEN
        PERFORM delete_superseded_checkpoints(_tenant, _runs, held, _pruned_run, _pruned, _oldest_needed,
            _dropped_run, _dropped);
    END IF;
    FOR number IN 1..coalesce(cardinality(_swept), 0) LOOP
        IF held[_swept[number]] IS NOT NULL THEN
            PERFORM delete_unused_values(_tenant, _runs[_swept[number]], _kept[number]);
        END IF;
    END LOOP;
    IF _begun_run IS NULL THEN
        RETURN;
    END IF;
    -- Most steps have no row yet.
    WITH begun AS (
        INSERT INTO public.run_steps (tenant_id, run_id, id, attempt, run_attempt, step_id, skill_id, status,
            cache_hit, parent_id, started_at, encoded_input, input_refs)
        SELECT _tenant, _runs[place], begun_id, 1, held[place], step, skill, 'running', is_hit, parent,
            public.now_ms(), input, refs
        FROM unnest(_begun_run, _begun, _begun_steps, _begun_skills, _begun_cache_hits, _begun_inputs,
            _begun_parents, _begun_refs) WITH ORDINALITY
            AS task(place, begun_id, step, skill, is_hit, input, parent, refs, number)
        WHERE held[place] IS NOT NULL
        ORDER BY number
        ON CONFLICT DO NOTHING
        RETURNING id
    )
    SELECT coalesce(array_agg(id), '{}') INTO begun_first FROM begun;
    FOR number IN 1..cardinality(_begun) LOOP
        place := _begun_run[number];
        IF held[place] IS NOT NULL THEN
            id := _begun[number];
            attempt := CASE WHEN cardinality(begun_first) = cardinality(_begun) OR id = ANY(begun_first) THEN 1
                ELSE begin_step_again(_tenant, _runs[place], held[place], id, _begun_steps[number],
                    _begun_skills[number], _begun_cache_hits[number], _begun_inputs[number],
                    _begun_parents[number], _begun_refs[number]) END;
            RETURN NEXT;
        END IF;
    END LOOP;
END
$$;

-- record_progress for what most statements of a run have: the step that begins next, after at most one that
-- has completed and one checkpoint. Without arrays it takes half the time; NULL is no row of a kind.
CREATE FUNCTION record_next_step(_tenant text, _run uuid, _epoch bigint, _completed uuid, _update bytea,
    _namespace text, _checkpoint text, _parent text, _type text, _bytes bytea, _metadata bytea,
    _checkpoint_refs bytea, _begun uuid, _step text, _skill text, _cache_hit boolean, _input bytea,
    _begun_parent uuid, _input_refs bytea)
RETURNS TABLE (place int, id uuid, attempt int) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    held int;
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    held := hold_lease(_tenant, _run, _epoch);
    IF held IS NULL THEN
        RETURN;
    END IF;
    IF _checkpoint IS NOT NULL THEN
        INSERT INTO public.checkpoints (tenant_id, run_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id,
            type, checkpoint, metadata, value_refs)
        VALUES (_tenant, _run, _namespace, _checkpoint, _parent, _type, _bytes, _metadata, _checkpoint_refs)
        ON CONFLICT (tenant_id, run_id, checkpoint_ns, checkpoint_id) DO UPDATE
            SET checkpoint = excluded.checkpoint, metadata = excluded.metadata, value_refs = excluded.value_refs;
    END IF;
    IF _completed IS NOT NULL THEN
        UPDATE public.run_steps SET status = 'completed', completed_at = greatest(public.now_ms(), started_at),
            updated_at = public.touch(updated_at), encoded_update = _update
        WHERE tenant_id = _tenant AND run_id = _run AND id = _completed AND status = 'running';
    END IF;
    INSERT INTO public.run_steps (tenant_id, run_id, id, attempt, run_attempt, step_id, skill_id, status,
        cache_hit, parent_id, started_at, encoded_input, input_refs)
    VALUES (_tenant, _run, _begun, 1, held, _step, _skill, 'running', _cache_hit, _begun_parent,
        public.now_ms(), _input, _input_refs)
    ON CONFLICT DO NOTHING;
    place := 1;
    id := _begun;
    attempt := CASE WHEN FOUND THEN 1 ELSE begin_step_again(_tenant, _run, held, _begun, _step, _skill,
        _cache_hit, _input, _begun_parent, _input_refs) END;
    RETURN NEXT;
END
$$;

-- record_progress for runs of several tenants: _tenant has that of each run.
CREATE FUNCTION record_progress_of_tenants(_tenant text[], _runs uuid[], _epochs bigint[],
    _completed_run int[], _completed uuid[], _updates bytea[], _write_run int[], _write_ns text[],
    _write_checkpoints text[], _write_tasks text[], _write_paths text[], _write_idx int[],
    _write_channels text[], _write_types text[], _write_values bytea[], _checkpoint_run int[],
    _namespaces text[], _checkpoints text[], _parents text[], _types text[], _bytes bytea[], _metadata bytea[],
    _checkpoint_refs bytea[], _pruned_run int[], _pruned text[], _oldest_needed text[], _dropped_run int[],
    _dropped text[], _begun_run int[], _begun uuid[], _begun_steps text[], _begun_skills text[],
    _begun_cache_hits boolean[], _begun_inputs bytea[], _begun_parents uuid[], _begun_refs bytea[],
    _value_run int[], _of_steps boolean[], _hashes bytea[], _values bytea[], _swept int[], _kept bytea[])
RETURNS TABLE (place int, id uuid, attempt int) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    own text;
    own_runs uuid[];
BEGIN
    -- In one order, so that two batches cannot deadlock.
    FOR own IN SELECT DISTINCT unnest(_tenant) ORDER BY 1 LOOP
        SELECT array_agg(CASE WHEN each_tenant = own THEN each_run END ORDER BY number) INTO own_runs
        FROM unnest(_tenant, _runs) WITH ORDINALITY AS each(each_tenant, each_run, number);
        RETURN QUERY SELECT * FROM record_progress(own, own_runs, _epochs, _completed_run, _completed, _updates,
            _write_run, _write_ns, _write_checkpoints, _write_tasks, _write_paths, _write_idx, _write_channels,
            _write_types, _write_values, _checkpoint_run, _namespaces, _checkpoints, _parents, _types, _bytes,
            _metadata, _checkpoint_refs, _pruned_run, _pruned, _oldest_needed, _dropped_run, _dropped, _begun_run,
            _begun, _begun_steps, _begun_skills, _begun_cache_hits, _begun_inputs, _begun_parents, _begun_refs,
            _value_run, _of_steps, _hashes, _values, _swept, _kept);
    END LOOP;
END
$$;

-- One namespace after the other, and one run after the other: joined with arrays, PostgreSQL may read all checkpoints
-- of the tenant when it has planned it while the table had few.
CREATE FUNCTION delete_superseded_checkpoints(_tenant text, _runs uuid[], _held int[], _pruned_run int[],
    _pruned text[], _oldest_needed text[], _dropped_run int[], _dropped text[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    place int;
    run uuid;
    deleted text[];
    namespaces text[];
BEGIN
    FOR number IN 1..coalesce(cardinality(_pruned_run), 0) LOOP
        place := _pruned_run[number];
        WITH superseded AS (
            DELETE FROM public.checkpoints
            WHERE _held[place] IS NOT NULL AND tenant_id = _tenant AND run_id = _runs[place]
                AND checkpoint_ns = _pruned[number] AND seq < (
                    SELECT seq FROM public.checkpoints AS oldest
                    WHERE tenant_id = _tenant AND run_id = _runs[place] AND checkpoint_ns = _pruned[number]
                        AND checkpoint_id = _oldest_needed[number])
            RETURNING checkpoint_id
        )
        SELECT array_agg(checkpoint_id) INTO deleted FROM superseded;
        DELETE FROM public.checkpoint_writes
        WHERE tenant_id = _tenant AND run_id = _runs[place] AND checkpoint_ns = _pruned[number]
            AND checkpoint_id = ANY(deleted);
    END LOOP;
    FOR run, namespaces IN
        SELECT _runs[each.place], array_agg(ns) FROM unnest(_dropped_run, _dropped) AS each(place, ns)
        WHERE _held[each.place] IS NOT NULL GROUP BY each.place
    LOOP
        DELETE FROM public.checkpoints
        WHERE tenant_id = _tenant AND run_id = run AND checkpoint_ns = ANY(namespaces);
        DELETE FROM public.checkpoint_writes
        WHERE tenant_id = _tenant AND run_id = run AND checkpoint_ns = ANY(namespaces);
    END LOOP;
END
$$;

-- pending -> running, or another execution of a step that has had one; returns its attempt. An execution
-- still marked running was stopped by its own timeout, and may still be cleaning up; what it writes from now
-- on names its own attempt, and changes nothing.
CREATE FUNCTION begin_step_again(_tenant text, _run uuid, _run_attempt int, _id uuid, _step text, _skill text,
    _cache_hit boolean, _input bytea, _parent uuid, _refs bytea)
RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    latest int;
    latest_status text;
BEGIN
    LOOP
        SELECT attempt, status INTO latest, latest_status FROM public.run_steps
        WHERE tenant_id = _tenant AND run_id = _run AND id = _id
        ORDER BY attempt DESC LIMIT 1;
        IF latest_status = 'pending' THEN
            UPDATE public.run_steps SET status = 'running', cache_hit = _cache_hit, encoded_input = _input, input_refs = _refs,
                started_at = public.now_ms(), updated_at = public.touch(updated_at)
            WHERE tenant_id = _tenant AND run_id = _run AND id = _id AND status = 'pending';
            RETURN latest;
        END IF;
        UPDATE public.run_steps SET status = 'failed', completed_at = greatest(public.now_ms(), started_at),
            updated_at = public.touch(updated_at),
            error = step_error('STEP_TIMED_OUT', 'It ran into its time limit.', step_id, attempt)
        WHERE latest_status = 'running' AND tenant_id = _tenant AND run_id = _run AND id = _id
            AND status = 'running';
        INSERT INTO public.run_steps (tenant_id, run_id, id, attempt, run_attempt, step_id, skill_id, status,
            cache_hit, parent_id, started_at, encoded_input, input_refs)
        VALUES (_tenant, _run, _id, coalesce(latest, 0) + 1, _run_attempt, _step, _skill, 'running',
            _cache_hit, _parent, public.now_ms(), _input, _refs)
        ON CONFLICT DO NOTHING;
        -- Not found when a begin that was cancelled while under way has committed only now.
        IF FOUND THEN
            RETURN coalesce(latest, 0) + 1;
        END IF;
    END LOOP;
END
$$;

-- running -> failed; when its retry policy grants another execution (_again), that one is pending at once. A
-- step that has failed already is marked as handled where _handled.
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
        RETURNING attempt, run_attempt, step_id, skill_id, parent_id
    )
    INSERT INTO public.run_steps (tenant_id, run_id, id, attempt, run_attempt, step_id, skill_id, parent_id, status)
    SELECT _tenant, _run, _id, attempt + 1, run_attempt, step_id, skill_id, parent_id, 'pending'
    FROM failed WHERE _again;
    IF _handled THEN
        UPDATE public.run_steps SET handled = true
        WHERE tenant_id = _tenant AND run_id = _run AND id = _id AND attempt = _attempt
            AND status = 'failed' AND NOT handled;
    END IF;
    RETURN NEXT;
END
$$;

-- running -> failed: the step that these are within is over, and they were stopped with it.
CREATE FUNCTION interrupt_steps(_tenant text, _run uuid, _epoch bigint, _ids uuid[])
RETURNS TABLE (held int) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    held := hold_lease(_tenant, _run, _epoch);
    IF held IS NULL THEN
        RETURN;
    END IF;
    UPDATE public.run_steps SET status = 'failed', completed_at = greatest(public.now_ms(), started_at),
        updated_at = public.touch(updated_at),
        error = step_error('STEP_INTERRUPTED', 'It was stopped because the step that it is within ended without it.',
            step_id, attempt)
    WHERE tenant_id = _tenant AND run_id = _run AND id = ANY(_ids) AND status = 'running';
    RETURN NEXT;
END
$$;

-- running or completed -> failed, when the graph cannot take what the executions _ids wrote: the writes of
-- their tasks are deleted, so that the nodes run again when the graph resumes.
CREATE FUNCTION discard_writes(_tenant text, _run uuid, _epoch bigint, _namespace text, _checkpoint text,
    _tasks text[], _ids uuid[], _error jsonb)
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
    WHERE tenant_id = _tenant AND run_id = _run AND id = ANY(_ids)
        AND status IN ('running', 'completed');
    RETURN NEXT;
END
$$;

-- An artifact, whose bytes are stored already, is an output of an execution of a step. The step lists its
-- first hundred, because that list is written again with each one; later artifacts name the execution
-- themselves.
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
