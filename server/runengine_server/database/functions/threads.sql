-- Runs of one thread, which is named by tenant, workflow and thread_id, are executed one at a time, in the order of
-- their thread_place. Of those that are queued one at most is due. The others have the queued_at 'infinity', which
-- claim_queued passes over, so that a claim costs the same whatever waits in threads.
--
-- Whatever makes a run of the thread due, or ends it, holds the thread's lock until its commit. It takes it before
-- all other locks, so that it cannot deadlock. A claim takes none.

-- No other lock has 7406 as the first of two numbers. Threads whose names have the same hash wait for each other,
-- and nothing worse.
CREATE FUNCTION lock_thread(_tenant text, _workflow text, _thread text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(7406, hashtext(concat_ws('/', _tenant, _workflow, _thread)));
END
$$;

-- The lock of the thread that a run is of. Returns whether it is of one.
CREATE FUNCTION lock_thread_of(_tenant text, _run uuid) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    run record;
BEGIN
    SELECT workflow_name, thread_id INTO run FROM public.runs WHERE tenant_id = _tenant AND id = _run;
    IF run.thread_id IS NULL THEN
        RETURN false;
    END IF;
    PERFORM lock_thread(_tenant, run.workflow_name, run.thread_id);
    RETURN true;
END
$$;

-- As trigger_run, of a run of a thread; it is the last of the thread.
CREATE FUNCTION trigger_run_of_thread(_tenant text, _id uuid, _workflow text, _input bytea, _campaign uuid,
    _priority int, _actor text, _trace text, _key text, _fingerprint bytea, _queued_limit int,
    _check_campaign boolean, _thread text)
RETURNS mutation_result LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    result mutation_result;
    place bigint;
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    PERFORM lock_thread(_tenant, _workflow, _thread);
    result := trigger_run(_tenant, _id, _workflow, _input, _campaign, _priority, _actor, _trace, _key, _fingerprint,
        _queued_limit, _check_campaign);
    IF result.outcome = 'applied' THEN
        INSERT INTO public.threads AS thread (tenant_id, workflow_name, thread_id, last_place)
        VALUES (_tenant, _workflow, _thread, 1)
        ON CONFLICT (tenant_id, workflow_name, thread_id) DO UPDATE
            SET last_place = thread.last_place + 1, used_at = public.now_ms()
        RETURNING last_place INTO place;
        UPDATE public.runs SET thread_id = _thread, thread_place = place, queued_at = 'infinity'
        WHERE tenant_id = _tenant AND id = _id;
        PERFORM release_next_of_thread(_tenant, _workflow, _thread);
    END IF;
    RETURN result;
END
$$;

-- Puts a run of a thread, which was queued again, back into its place.
CREATE FUNCTION queue_in_thread(_tenant text, _run uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    run record;
BEGIN
    UPDATE public.runs SET queued_at = 'infinity' WHERE tenant_id = _tenant AND id = _run
    RETURNING workflow_name, thread_id INTO STRICT run;
    UPDATE public.threads SET used_at = public.now_ms()
    WHERE tenant_id = _tenant AND workflow_name = run.workflow_name AND thread_id = run.thread_id;
    PERFORM release_next_of_thread(_tenant, run.workflow_name, run.thread_id);
END
$$;

-- Makes the first of the thread's runs that are queued due, unless one is running or is due already. One that
-- is due and comes after the first, which was retried, has to wait again: unless it is just being claimed, which
-- the statement that sets it back waits for, and the one after it sees.
CREATE FUNCTION release_next_of_thread(_tenant text, _workflow text, _thread text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    next record;
BEGIN
    SELECT id, thread_place INTO next FROM public.runs
    WHERE tenant_id = _tenant AND workflow_name = _workflow AND thread_id = _thread AND status = 'queued'
        AND queued_at = 'infinity'
    ORDER BY thread_place LIMIT 1;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    UPDATE public.runs SET queued_at = 'infinity'
    WHERE tenant_id = _tenant AND workflow_name = _workflow AND thread_id = _thread AND status = 'queued'
        AND queued_at < 'infinity' AND thread_place > next.thread_place;
    IF NOT EXISTS (
        SELECT FROM public.runs
        WHERE tenant_id = _tenant AND workflow_name = _workflow AND thread_id = _thread AND status = 'running'
    ) AND NOT EXISTS (
        SELECT FROM public.runs
        WHERE tenant_id = _tenant AND workflow_name = _workflow AND thread_id = _thread AND status = 'queued'
            AND queued_at < 'infinity'
    ) THEN
        -- When it was triggered or retried: nothing that others see of it has changed since.
        UPDATE public.runs SET queued_at = updated_at WHERE tenant_id = _tenant AND id = next.id;
    END IF;
END
$$;

-- What a run that is held begins with, unless it has checkpoints of its own: the state that the last run of its
-- thread has left, copied. Returns whether it begins.
CREATE FUNCTION begin_in_thread(_tenant text, _run uuid, _epoch bigint)
RETURNS TABLE (begins boolean) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    run record;
    former uuid;
    last_seq bigint;
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    IF hold_lease(_tenant, _run, _epoch) IS NULL THEN
        RETURN;
    END IF;
    SELECT workflow_name, thread_id, thread_base_seq INTO STRICT run FROM public.runs
    WHERE tenant_id = _tenant AND id = _run;
    begins := NOT EXISTS (
        SELECT FROM public.checkpoints
        WHERE tenant_id = _tenant AND run_id = _run AND seq > coalesce(run.thread_base_seq, 0));
    IF begins THEN
        -- An earlier attempt may have begun with another state.
        PERFORM drop_checkpoints_of(_tenant, ARRAY[_run]);
        SELECT state_run_id INTO former FROM public.threads
        WHERE tenant_id = _tenant AND workflow_name = run.workflow_name AND thread_id = run.thread_id;
        WITH copied AS (
            INSERT INTO public.checkpoints (tenant_id, run_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id,
                type, checkpoint, metadata, value_refs)
            SELECT _tenant, _run, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata,
                value_refs
            FROM public.checkpoints WHERE tenant_id = _tenant AND run_id = former ORDER BY seq
            RETURNING seq
        )
        SELECT max(seq) INTO last_seq FROM copied;
        INSERT INTO public.checkpoint_writes (tenant_id, run_id, checkpoint_ns, checkpoint_id, task_id, idx,
            task_path, channel, type, value)
        SELECT _tenant, _run, checkpoint_ns, checkpoint_id, task_id, idx, task_path, channel, type, value
        FROM public.checkpoint_writes WHERE tenant_id = _tenant AND run_id = former;
        INSERT INTO public.run_values (tenant_id, run_id, of_steps, hash, value)
        SELECT _tenant, _run, false, hash, value
        FROM public.run_values WHERE tenant_id = _tenant AND run_id = former AND NOT of_steps;
        UPDATE public.runs SET thread_base = former, thread_base_seq = last_seq
        WHERE tenant_id = _tenant AND id = _run;
    END IF;
    RETURN NEXT;
END
$$;

-- What a run that ends leaves to its thread, whose lock is held: its state, when it has completed, and no other run
-- has since it began, whose part would be lost. _checkpoints says of how many checkpoints of the graph that state is
-- made. Then the next run is due.
CREATE FUNCTION leave_thread(_tenant text, _run uuid, _target text, _checkpoints int) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    run record;
BEGIN
    SELECT workflow_name, thread_id, thread_base INTO STRICT run FROM public.runs
    WHERE tenant_id = _tenant AND id = _run;
    IF _target <> 'completed' THEN
        PERFORM prune_checkpoints_of(_tenant, _run);
        UPDATE public.threads SET used_at = public.now_ms()
        WHERE tenant_id = _tenant AND workflow_name = run.workflow_name AND thread_id = run.thread_id;
    ELSE
        UPDATE public.threads SET state_run_id = _run, used_at = public.now_ms()
        WHERE tenant_id = _tenant AND workflow_name = run.workflow_name AND thread_id = run.thread_id
            AND state_run_id IS NOT DISTINCT FROM run.thread_base;
        IF FOUND THEN
            PERFORM keep_state_of(_tenant, _run, _checkpoints);
            PERFORM drop_checkpoints_of(_tenant, ARRAY[run.thread_base]);
        ELSE
            PERFORM drop_checkpoints_of(_tenant, ARRAY[_run]);
        END IF;
    END IF;
    PERFORM release_next_of_thread(_tenant, run.workflow_name, run.thread_id);
END
$$;

-- Keeps of a run's checkpoints what the next run of its thread begins with: the newest of the graph, and of the
-- sub-graphs that keep their state from call to call, whose namespaces name no task.
CREATE FUNCTION keep_state_of(_tenant text, _run uuid, _checkpoints int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM prune_checkpoints_of(_tenant, _run);
    DELETE FROM public.checkpoints AS stored
    WHERE tenant_id = _tenant AND run_id = _run AND (position(':' IN checkpoint_ns) > 0
        OR checkpoint_ns = '' AND checkpoint_id NOT IN (
            SELECT newest.checkpoint_id FROM public.checkpoints AS newest
            WHERE newest.tenant_id = _tenant AND newest.run_id = _run AND newest.checkpoint_ns = ''
            ORDER BY newest.seq DESC LIMIT _checkpoints));
    DELETE FROM public.checkpoint_writes AS stored
    WHERE tenant_id = _tenant AND run_id = _run AND NOT EXISTS (
        SELECT FROM public.checkpoints AS kept
        WHERE kept.tenant_id = _tenant AND kept.run_id = _run AND kept.checkpoint_ns = stored.checkpoint_ns
            AND kept.checkpoint_id = stored.checkpoint_id);
    PERFORM delete_unused_values(_tenant, _run, '');
END
$$;
