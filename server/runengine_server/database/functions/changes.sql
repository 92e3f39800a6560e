-- Transitions of runs and steps, for those who watch. A transaction that commits later may have rows with
-- smaller numbers, so whoever goes on after the last number would miss some. What has become visible between
-- two snapshots is exact; and of one run, whose row each transition locks, it is in the order of the numbers.

-- A transition: of a run, or, where `id` is not NULL, of a step.
CREATE TYPE found_change AS (seq bigint, run_id uuid, id uuid, attempt int, status text, at timestamptz);

-- The transitions that the snapshot _until has, and _since has not, with a number after _after, in order, up
-- to _limit: of all runs of the tenant, or of those in _runs. _since NULL is one that has nothing. A database
-- that was restored from another server's dump has transactions of that server, which a snapshot of this one
-- may have by chance: hence the bound of a day.
CREATE FUNCTION find_changes(_tenant text, _since pg_snapshot, _until pg_snapshot, _after bigint, _runs uuid[],
    _limit int)
RETURNS SETOF found_change LANGUAGE plpgsql STABLE ROWS 10 AS $$
DECLARE
    oldest timestamptz := statement_timestamp() - interval '1 day';
BEGIN
    IF cardinality(_runs) = 1 THEN
        -- With coalesce(), by which PostgreSQL does not take the index of transactions.
        RETURN QUERY SELECT * FROM (
            SELECT seq, run_id, NULL::uuid, NULL::int, NULL::text, at FROM public.run_events
            WHERE tenant_id = _tenant AND run_id = _runs[1] AND seq > _after
                AND (_since IS NULL OR NOT coalesce(pg_visible_in_snapshot(transaction, _since), true))
                AND coalesce(pg_visible_in_snapshot(transaction, _until), true)
                AND (_since IS NULL OR at > oldest)
            UNION ALL
            SELECT seq, run_id, id, attempt, status, at FROM public.step_events
            WHERE tenant_id = _tenant AND run_id = _runs[1] AND seq > _after
                AND (_since IS NULL OR NOT coalesce(pg_visible_in_snapshot(transaction, _since), true))
                AND coalesce(pg_visible_in_snapshot(transaction, _until), true)
                AND (_since IS NULL OR at > oldest)
        ) AS change ORDER BY seq LIMIT _limit;
    ELSE
        RETURN QUERY SELECT * FROM (
            SELECT seq, run_id, NULL::uuid, NULL::int, NULL::text, at FROM public.run_events
            WHERE tenant_id = _tenant AND transaction >= pg_snapshot_xmin(_since)
                AND NOT pg_visible_in_snapshot(transaction, _since)
                AND pg_visible_in_snapshot(transaction, _until)
                AND seq > _after AND at > oldest AND (_runs IS NULL OR run_id = ANY(_runs))
            UNION ALL
            SELECT seq, run_id, id, attempt, status, at FROM public.step_events
            WHERE tenant_id = _tenant AND transaction >= pg_snapshot_xmin(_since)
                AND NOT pg_visible_in_snapshot(transaction, _since)
                AND pg_visible_in_snapshot(transaction, _until)
                AND seq > _after AND at > oldest AND (_runs IS NULL OR run_id = ANY(_runs))
        ) AS change ORDER BY seq LIMIT _limit;
    END IF;
END
$$;

-- The same with all that they show, of the runs in _runs, an array as text, or of all where it is NULL; _until
-- NULL is the snapshot of this statement. The first row has that snapshot alone. Of a step, what never changes
-- is from its row, as is what its execution ended with.
CREATE FUNCTION list_changes(_tenant text, _since text, _until text, _after bigint, _runs text, _limit int)
RETURNS TABLE (snapshot text, seq bigint, run_id uuid, epoch bigint, workflow_name text, campaign_id uuid,
    at timestamptz, from_status text, to_status text, run_attempt int, actor text, reason text, trace_id text,
    error bytea, operation_id uuid, id uuid, parent_id uuid, step_id text, skill_id text, status text,
    cache_hit boolean, attempt int, step_error jsonb, output_artifact_ids uuid[], started_at timestamptz,
    completed_at timestamptz, created_at timestamptz)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    snapshot := pg_current_snapshot();
    RETURN NEXT;
    RETURN QUERY SELECT NULL::text, found.seq, found.run_id, runs.epoch, runs.workflow_name, runs.campaign_id,
        found.at, event.from_status, event.to_status, event.attempt, event.actor, event.reason, event.trace_id,
        event.error, event.operation_id, found.id, step.parent_id, step.step_id, step.skill_id, found.status,
        step.cache_hit, found.attempt, step.error,
        step.output_artifact_ids || CASE WHEN found.status IN ('completed', 'failed')
            THEN ARRAY(
                SELECT artifacts.id FROM public.artifacts
                WHERE artifacts.tenant_id = _tenant AND artifacts.run_id = found.run_id AND task_id = found.id
                    AND step_attempt = found.attempt
                ORDER BY artifacts.id) END,
        step.started_at, step.completed_at, step.created_at
    FROM find_changes(_tenant, _since::pg_snapshot, coalesce(_until::pg_snapshot, pg_current_snapshot()),
        _after, _runs::uuid[], _limit) AS found
    -- LIMIT, or PostgreSQL may read all runs of the tenant for a few transitions.
    CROSS JOIN LATERAL (
        SELECT * FROM public.runs WHERE tenant_id = _tenant AND id = found.run_id LIMIT 1
    ) AS runs
    LEFT JOIN LATERAL (
        SELECT * FROM public.run_events
        WHERE found.id IS NULL AND tenant_id = _tenant AND run_id = found.run_id AND seq = found.seq LIMIT 1
    ) AS event ON true
    LEFT JOIN LATERAL (
        SELECT * FROM public.run_steps
        WHERE tenant_id = _tenant AND run_id = found.run_id AND id = found.id AND attempt = found.attempt
        LIMIT 1
    ) AS step ON true
    ORDER BY found.seq;
END
$$;

-- list_changes of each, from one snapshot.
CREATE FUNCTION list_changes_of_readers(_tenant text[], _since text[], _until text[], _after bigint[],
    _runs text[], _limit int[])
RETURNS TABLE (place int, snapshot text, seq bigint, run_id uuid, epoch bigint, workflow_name text,
    campaign_id uuid, at timestamptz, from_status text, to_status text, run_attempt int, actor text,
    reason text, trace_id text, error bytea, operation_id uuid, id uuid, parent_id uuid, step_id text,
    skill_id text, status text, cache_hit boolean, attempt int, step_error jsonb, output_artifact_ids uuid[],
    started_at timestamptz, completed_at timestamptz, created_at timestamptz)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
BEGIN
    FOR reader IN 1..cardinality(_tenant) LOOP
        RETURN QUERY SELECT reader, change.* FROM list_changes(_tenant[reader], _since[reader], _until[reader],
            _after[reader], _runs[reader], _limit[reader]) AS change;
    END LOOP;
END
$$;

-- Whether a reader of the run, or of all of the tenant where that is NULL, who knows the snapshot _since can
-- go on. It must not be of the future, as it is when the database was restored, nothing that the reader
-- misses may be older than find_changes returns, and there may be fewer than _most transitions of the tenant
-- since. Returns the status of the run, too.
CREATE FUNCTION resume_watch(_tenant text, _run uuid, _since text, _most int)
RETURNS TABLE (can_go_on boolean, run_status text)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
DECLARE
    since pg_snapshot := _since;
    now pg_snapshot := pg_current_snapshot();
    oldest timestamptz := statement_timestamp() - interval '1 day';
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    IF _run IS NULL THEN
        SELECT count(*) < _most AND coalesce(min(at) > oldest, true) INTO can_go_on FROM (
            (SELECT at FROM public.run_events
            WHERE tenant_id = _tenant AND transaction >= pg_snapshot_xmin(since) LIMIT _most)
            UNION ALL
            (SELECT at FROM public.step_events
            WHERE tenant_id = _tenant AND transaction >= pg_snapshot_xmin(since) LIMIT _most)
        ) AS come;
    ELSE
        can_go_on := NOT EXISTS (
            SELECT FROM public.run_events
            WHERE tenant_id = _tenant AND run_id = _run AND at <= oldest
                AND NOT coalesce(pg_visible_in_snapshot(transaction, since), true)
                AND coalesce(pg_visible_in_snapshot(transaction, now), true)
        ) AND NOT EXISTS (
            SELECT FROM public.step_events
            WHERE tenant_id = _tenant AND run_id = _run AND at <= oldest
                AND NOT coalesce(pg_visible_in_snapshot(transaction, since), true)
                AND coalesce(pg_visible_in_snapshot(transaction, now), true)
        );
    END IF;
    can_go_on := since IS NULL OR (can_go_on AND pg_snapshot_xmax(since) <= pg_snapshot_xmax(now));
    SELECT status INTO run_status FROM public.runs WHERE tenant_id = _tenant AND id = _run;
    RETURN NEXT;
END
$$;

-- What a stream begins with, from one snapshot: the run _run, or else up to _limit runs of the campaign, or
-- of the tenant where that is NULL, most recent first, each as get_run returns it; then the steps, of _run or
-- else of those that have not ended. The first row has the snapshot alone.
CREATE FUNCTION begin_watch(_tenant text, _run uuid, _campaign uuid, _limit int)
RETURNS TABLE (snapshot text, run_id uuid, response bytea, epoch bigint, run_status text, place bigint,
    id uuid, parent_id uuid, step_id text, skill_id text, status text, cache_hit boolean, attempt int,
    error jsonb, output_artifact_ids uuid[], started_at timestamptz, completed_at timestamptz,
    created_at timestamptz, updated_at timestamptz)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
DECLARE
    shown uuid[];
    of_steps uuid[] := '{}';
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    snapshot := pg_current_snapshot();
    RETURN NEXT;
    snapshot := NULL;
    IF _run IS NOT NULL THEN
        shown := ARRAY[_run];
    ELSIF _campaign IS NOT NULL THEN
        shown := ARRAY(SELECT runs.id FROM public.runs WHERE tenant_id = _tenant AND campaign_id = _campaign
            ORDER BY runs.created_at DESC, runs.id DESC LIMIT _limit);
    ELSE
        shown := newest_runs(_tenant, _limit);
    END IF;
    FOREACH run_id IN ARRAY shown LOOP
        SELECT run_response(encoded_input, encoded_state, priority, encoded_waiting), runs.epoch, runs.status
        INTO response, epoch, run_status FROM public.runs WHERE tenant_id = _tenant AND runs.id = run_id;
        IF FOUND THEN
            RETURN NEXT;
            IF run_status IN ('queued', 'running') OR run_id = _run THEN
                of_steps := of_steps || run_id;
            END IF;
        END IF;
    END LOOP;
    FOREACH run_id IN ARRAY of_steps LOOP
        RETURN QUERY SELECT NULL::text, run_id, NULL::bytea, NULL::bigint, NULL::text, step.*
            FROM list_run_steps(_tenant, run_id, NULL, 0, NULL) AS step WHERE step.id IS NOT NULL;
    END LOOP;
END
$$;

-- The most recent runs of the tenant: each part comes in order from an index of run_search.py.
CREATE FUNCTION newest_runs(_tenant text, _limit int) RETURNS uuid[] LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN ARRAY(SELECT id FROM (
        (SELECT id, created_at FROM public.runs
        WHERE tenant_id = _tenant AND status = 'completed' AND updated_at < 'infinity'
        ORDER BY created_at DESC, id DESC LIMIT _limit)
        UNION ALL
        (SELECT id, created_at FROM public.runs
        WHERE tenant_id = _tenant AND status = 'failed' AND updated_at < 'infinity'
        ORDER BY created_at DESC, id DESC LIMIT _limit)
        UNION ALL
        (SELECT id, created_at FROM public.runs
        WHERE tenant_id = _tenant AND status = 'cancelled' AND updated_at < 'infinity'
        ORDER BY created_at DESC, id DESC LIMIT _limit)
        UNION ALL
        (SELECT id, created_at FROM public.runs
        WHERE tenant_id = _tenant AND status = 'queued' AND updated_at < 'infinity'
        ORDER BY created_at DESC, id DESC LIMIT _limit)
        UNION ALL
        (SELECT id, created_at FROM public.runs
        WHERE tenant_id = _tenant AND status = 'running' AND lease_expires_at IS NOT NULL
        ORDER BY created_at DESC, id DESC LIMIT _limit)
        UNION ALL
        (SELECT id, created_at FROM public.runs
        WHERE tenant_id = _tenant AND status = 'running' AND encoded_waiting IS NOT NULL
            AND lease_expires_at IS NULL
        ORDER BY created_at DESC, id DESC LIMIT _limit)
    ) AS newest ORDER BY created_at DESC, id DESC LIMIT _limit);
END
$$;

-- Up to _limit transitions of a run, or all with NULL, after the one of _after, in order; where there is none,
-- a row of nulls. No row means no run.
CREATE FUNCTION list_run_events(_tenant text, _id uuid, _after bigint, _limit int)
RETURNS TABLE (seq bigint, at timestamptz, from_status text, to_status text, attempt int, actor text,
    reason text, trace_id text, error bytea, operation_id uuid)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    RETURN QUERY SELECT event.seq, event.at, event.from_status, event.to_status, event.attempt, event.actor,
            event.reason, event.trace_id, event.error, event.operation_id
        FROM public.runs LEFT JOIN public.run_events AS event
            ON event.tenant_id = _tenant AND event.run_id = _id AND event.seq > _after
        WHERE runs.tenant_id = _tenant AND runs.id = _id ORDER BY event.seq LIMIT _limit;
END
$$;
