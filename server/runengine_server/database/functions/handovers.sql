-- Runs that are handed over to Temporal, which only RUNENGINE_DISPATCH=temporal does. The row of a run that is
-- queued, or whose lease has ended, is the outbox: it was written in the run's own transaction. A handover only says
-- that Temporal has been given the run as it was at that attempt and epoch. Without any, all are handed over again,
-- which is harmless: a claim counts for that attempt and epoch alone, and raises the epoch.

-- Notes which runs are to be handed over to the task queue `_queue`, those first that are running and whose lease has
-- ended, up to `_limit` that no worker has claimed yet. The rest waits here and not in Temporal, so that an order by
-- tenants and priorities, which is that of claim_queued, holds for what is triggered later.
CREATE FUNCTION hand_over_runs(_workflows text[], _limit int, _lease float, _worker uuid, _queue text, _cursor text,
    _running_limit int)
RETURNS TABLE (tenant_id text, run_id uuid, attempt int, epoch bigint, round_robin_cursor text)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    free int;
    never CONSTANT timestamptz := 'infinity';
    no_id CONSTANT uuid := '00000000-0000-0000-0000-000000000000';
BEGIN
    PERFORM set_config('runengine.dispatch', 'on', true);
    -- One worker at a time: others would choose the same runs, and count the tenants' runs without these.
    PERFORM pg_advisory_xact_lock(7405113219);
    PERFORM end_leases_of_lost_workers();
    PERFORM renew_leases_ahead(_lease);
    SELECT _limit - count(*) INTO free FROM public.handovers WHERE worker_id = _worker AND is_unclaimed(handovers);
    IF free <= 0 THEN
        RETURN;
    END IF;
    RETURN QUERY WITH RECURSIVE candidate AS (
        SELECT _cursor AS tenant_id, false AS wrapped, 0::bigint AS capacity, 0 AS served, 0 AS step
        UNION ALL
        SELECT next.tenant_id, next.wrapped, next.capacity, served + (next.capacity > 0)::int, step + 1
        FROM candidate CROSS JOIN LATERAL (
            SELECT found.*, CASE WHEN _running_limit IS NULL THEN free
                ELSE _running_limit - running_or_handed_over(found.tenant_id, _running_limit) END AS capacity
            FROM (
                (SELECT tenant_id, candidate.wrapped FROM public.runs
                WHERE status = 'queued' AND (queued_at, id) < (never, no_id)
                    AND workflow_name = ANY(_workflows) AND tenant_id > candidate.tenant_id
                    AND NOT is_handed_over(runs)
                ORDER BY tenant_id, priority DESC LIMIT 1)
                UNION ALL
                (SELECT tenant_id, true FROM public.runs
                WHERE status = 'queued' AND (queued_at, id) < (never, no_id)
                    AND workflow_name = ANY(_workflows) AND NOT candidate.wrapped AND NOT is_handed_over(runs)
                ORDER BY tenant_id, priority DESC LIMIT 1)
                LIMIT 1
            ) AS found
        ) AS next
        WHERE served < free AND NOT (next.wrapped AND next.tenant_id > _cursor)
    ), due AS (
        SELECT * FROM (
            SELECT tenant_id, id, attempt, epoch FROM public.runs
            WHERE status = 'running' AND lease_expires_at < statement_timestamp()
                AND workflow_name = ANY(_workflows) AND NOT is_handed_over(runs)
            ORDER BY lease_expires_at LIMIT free
        ) AS lost UNION ALL SELECT * FROM (
            SELECT tenant_id, id, attempt, epoch FROM public.runs
            WHERE status = 'running' AND lease_expires_at IS NULL AND waiting_expires_at < statement_timestamp()
                AND workflow_name = ANY(_workflows) AND NOT is_handed_over(runs)
            ORDER BY waiting_expires_at LIMIT free
        ) AS timed_out UNION ALL SELECT run.* FROM candidate CROSS JOIN LATERAL (
            SELECT tenant_id, id, attempt, epoch FROM public.runs
            WHERE runs.tenant_id = candidate.tenant_id AND status = 'queued'
                AND (queued_at, id) < (never, no_id) AND workflow_name = ANY(_workflows)
                AND NOT is_handed_over(runs)
            ORDER BY priority DESC, queued_at, id
            LIMIT least(candidate.capacity, greatest(1, free / (SELECT max(served) FROM candidate)))
        ) AS run WHERE candidate.capacity > 0
        LIMIT free
    ), noted AS (
        INSERT INTO public.handovers (tenant_id, run_id, attempt, epoch, worker_id, queue)
        SELECT tenant_id, id, attempt, epoch, _worker, _queue FROM due
        ON CONFLICT (tenant_id, run_id) DO UPDATE SET attempt = excluded.attempt, epoch = excluded.epoch,
            worker_id = excluded.worker_id, queue = excluded.queue, handed_over_at = excluded.handed_over_at
        RETURNING handovers.tenant_id, handovers.run_id, handovers.attempt, handovers.epoch
    )
    SELECT noted.*, coalesce((SELECT tenant_id FROM candidate ORDER BY step DESC LIMIT 1), _cursor) FROM noted;
END
$$;

CREATE FUNCTION is_handed_over(_run public.runs) RETURNS boolean LANGUAGE sql STABLE
RETURN EXISTS (SELECT FROM public.handovers
    WHERE handovers.tenant_id = (_run).tenant_id AND run_id = (_run).id AND handovers.attempt = (_run).attempt
        AND handovers.epoch = (_run).epoch);

-- Whether its run is still as it was when it was handed over.
CREATE FUNCTION is_unclaimed(_handover public.handovers) RETURNS boolean LANGUAGE sql STABLE
RETURN EXISTS (SELECT FROM public.runs
    WHERE runs.tenant_id = (_handover).tenant_id AND id = (_handover).run_id AND attempt = (_handover).attempt
        AND epoch = (_handover).epoch AND status IN ('queued', 'running'));

-- How many of a tenant's runs are held, or will be; up to _limit of each.
CREATE FUNCTION running_or_handed_over(_of text, _limit int) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT (SELECT count(*) FROM (
            SELECT FROM public.runs WHERE tenant_id = _of AND lease_expires_at IS NOT NULL LIMIT _limit) AS held)
        + (SELECT count(*) FROM public.handovers JOIN public.runs
            ON runs.tenant_id = handovers.tenant_id AND runs.id = run_id AND runs.attempt = handovers.attempt
                AND runs.epoch = handovers.epoch
            WHERE handovers.tenant_id = _of AND status = 'queued')
$$;

-- Forgets handovers of runs that nobody executes any more; and those that nobody has claimed within _seconds, which
-- are so handed over again. Returns the ones of runs that were cancelled, for which Temporal may still have something
-- to do. Those whose run is held stay until it has ended.
CREATE FUNCTION end_handovers(_seconds float)
RETURNS TABLE (tenant_id text, run_id uuid, attempt int, epoch bigint, queue text)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('runengine.dispatch', 'on', true);
    RETURN QUERY WITH ended AS (
        DELETE FROM public.handovers USING (
            SELECT handover.tenant_id, handover.run_id, handover.attempt, handover.epoch,
                coalesce(status = 'cancelled' OR run.attempt > handover.attempt, false) AS is_cancelled
            FROM public.handovers AS handover LEFT JOIN public.runs AS run
                ON run.tenant_id = handover.tenant_id AND run.id = run_id
            WHERE (run.attempt = handover.attempt AND (
                run.epoch = handover.epoch AND status IN ('queued', 'running')
                    AND handed_over_at > clock_timestamp() - make_interval(secs => _seconds)
                OR run.epoch = handover.epoch + 1 AND status = 'running' AND lease_expires_at IS NOT NULL
            )) IS NOT TRUE
        ) AS over
        WHERE handovers.tenant_id = over.tenant_id AND handovers.run_id = over.run_id
            AND handovers.attempt = over.attempt AND handovers.epoch = over.epoch
        RETURNING handovers.*, is_cancelled
    )
    SELECT tenant_id, run_id, attempt, epoch, queue FROM ended WHERE is_cancelled;
END
$$;
