-- The queue, across all tenants.

CREATE TYPE claimed_run AS (tenant_id text, id uuid, epoch bigint, workflow_name text, attempt int, losses int,
    hand_backs int, campaign_id uuid, encoded_input bytea, running_seconds float, resume_values bytea,
    waiting_timed_out boolean, thread_id text, trace_id text, lease_left float, round_robin_cursor text);

-- queued -> running. The other way to claim, claim_expired, is a function of its own, so that each uses its
-- partial index: one statement with OR uses neither (105 against 3,900 claims/s).
--
-- Tenants are served round-robin: those after the one served last (_cursor), in the order of their ids, then
-- from the start. A tenant that has as many running as it may (_running_limit) has no capacity and is passed
-- over; `served` counts the others. Each step is one descent of the index runs_queued, so the cost depends on
-- the batch and not on how many are queued; with the priority in the ORDER BY PostgreSQL does not choose the
-- primary key, where completed runs lie in between. Each tenant gets an equal share of the batch, in the
-- order of its priorities. Runs of threads that are not due have the queued_at 'infinity', see threads.sql;
-- with a condition on the queued_at alone PostgreSQL 18 would look for it at each priority (a skip scan), and for
-- the workflow, the last column of the index, at each run: 60 µs of the 400 that it takes to find ten.
--
-- With a _run, that one alone, where it is still to be claimed as it was when it was handed over: see handovers.sql.
CREATE FUNCTION claim_queued(_workflows text[], _limit int, _lease float, _worker_id uuid, _worker text,
    _cursor text, _running_limit int, _tenant text, _run uuid, _attempt int, _epoch bigint)
RETURNS SETOF claimed_run LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    tenant_ids text[];
    ids uuid[];
    campaign_ids uuid[];
    of_campaigns int;
    next_cursor text;
    seconds_left float;
    never CONSTANT timestamptz := 'infinity';
    no_id CONSTANT uuid := '00000000-0000-0000-0000-000000000000';
BEGIN
    PERFORM set_config('runengine.dispatch', 'on', true);
    IF _run IS NOT NULL THEN
        SELECT ARRAY[tenant_id], ARRAY[id], ARRAY[campaign_id], (campaign_id IS NOT NULL)::int
        INTO tenant_ids, ids, campaign_ids, of_campaigns FROM public.runs
        WHERE tenant_id = _tenant AND id = _run AND attempt = _attempt AND epoch = _epoch AND status = 'queued'
            AND queued_at < never AND workflow_name = ANY(_workflows)
        FOR UPDATE;
    ELSE
        -- Under a limit, no two workers may count the running runs at the same time.
        IF _running_limit IS NOT NULL THEN
            PERFORM pg_advisory_xact_lock(7405113218);
        END IF;
        WITH RECURSIVE candidate AS (
            SELECT _cursor AS tenant_id, false AS wrapped, 0::bigint AS capacity, 0 AS served, 0 AS step
            UNION ALL
            SELECT next.tenant_id, next.wrapped, next.capacity, served + (next.capacity > 0)::int, step + 1
            FROM candidate CROSS JOIN LATERAL (
                SELECT found.*, CASE WHEN _running_limit IS NULL THEN _limit ELSE _running_limit - (
                    SELECT count(*) FROM (
                        SELECT FROM public.runs WHERE runs.tenant_id = found.tenant_id
                            AND lease_expires_at IS NOT NULL
                        LIMIT _running_limit
                    ) AS running) END AS capacity
                FROM (
                    (SELECT tenant_id, candidate.wrapped FROM public.runs
                    WHERE status = 'queued' AND (queued_at, id) < (never, no_id)
                        AND workflow_name = ANY(_workflows) AND tenant_id > candidate.tenant_id
                    ORDER BY tenant_id, priority DESC LIMIT 1)
                    UNION ALL
                    (SELECT tenant_id, true FROM public.runs
                    WHERE status = 'queued' AND (queued_at, id) < (never, no_id)
                        AND workflow_name = ANY(_workflows) AND NOT candidate.wrapped
                    ORDER BY tenant_id, priority DESC LIMIT 1)
                    LIMIT 1
                ) AS found
            ) AS next
            WHERE served < _limit AND NOT (next.wrapped AND next.tenant_id > _cursor)
        ), due AS (
            SELECT run.* FROM candidate CROSS JOIN LATERAL (
                SELECT tenant_id, id, campaign_id FROM public.runs
                WHERE runs.tenant_id = candidate.tenant_id AND status = 'queued'
                    AND (queued_at, id) < (never, no_id) AND workflow_name = ANY(_workflows)
                ORDER BY priority DESC, queued_at, id
                LIMIT least(candidate.capacity, greatest(1, _limit / (SELECT max(served) FROM candidate)))
                FOR UPDATE SKIP LOCKED
            ) AS run WHERE candidate.capacity > 0
        )
        SELECT array_agg(tenant_id), array_agg(id), array_agg(campaign_id), count(campaign_id),
            (SELECT tenant_id FROM candidate ORDER BY step DESC LIMIT 1)
        INTO tenant_ids, ids, campaign_ids, of_campaigns, next_cursor FROM due;
    END IF;
    IF ids IS NULL THEN
        RETURN;
    END IF;
    seconds_left := keep_lease(_worker_id, _lease);

    -- Joined with arrays, which PostgreSQL expects to be short: otherwise it reads all that is queued to
    -- update ten rows.
    RETURN QUERY WITH claimed AS (
        UPDATE public.runs SET status = 'running', epoch = epoch + 1, started_at = public.now_ms(),
            handed_back = false, worker_id = _worker_id, lease_expires_at = 'infinity', lease_seconds = _lease,
            encoded_waiting = NULL, waiting_expires_at = NULL, waited_seconds = 0, resume_values = NULL,
            updated_at = public.touch(updated_at)
        FROM unnest(tenant_ids, ids) AS due(tenant_id, id)
        WHERE runs.tenant_id = due.tenant_id AND runs.id = due.id
        RETURNING runs.tenant_id, runs.id, epoch, workflow_name, attempt, losses, hand_backs, campaign_id,
            encoded_input, started_at, thread_id, updated_at, trace_id
    ), logged AS (
        INSERT INTO public.run_events (tenant_id, run_id, at, from_status, to_status, attempt, actor, reason,
            trace_id)
        SELECT tenant_id, id, updated_at, 'queued', 'running', attempt, _worker, 'CLAIMED', trace_id
        FROM claimed
    )
    SELECT tenant_id, id, epoch, workflow_name, attempt, losses, hand_backs, campaign_id, encoded_input,
        seconds_since(started_at), NULL::bytea, false, thread_id, trace_id, coalesce(seconds_left, _lease),
        next_cursor
    FROM claimed;

    -- In a statement of its own: as a part of the other it would be prepared for runs of no campaign too, 40 µs.
    IF of_campaigns > 0 THEN
        -- Sorted, so that two claims lock the counts in the same order and cannot deadlock.
        INSERT INTO public.campaign_run_counts AS counts (tenant_id, campaign_id, slot, queued, running)
        SELECT tenant_id, campaign_id, slot_of_run(id) AS slot, -count(*), count(*)
        FROM unnest(tenant_ids, ids, campaign_ids) AS claimed(tenant_id, id, campaign_id)
        WHERE campaign_id IS NOT NULL
        GROUP BY tenant_id, campaign_id, slot ORDER BY tenant_id, campaign_id, slot
        ON CONFLICT (tenant_id, campaign_id, slot) DO UPDATE
            SET queued = counts.queued + excluded.queued, running = counts.running + excluded.running;
    END IF;
    -- Last, because a heartbeat waits for whoever renews the lease.
    IF seconds_left IS NULL THEN
        PERFORM renew_lease(_worker_id, _lease);
    END IF;
END
$$;

CREATE FUNCTION seconds_since(_at timestamptz) RETURNS float LANGUAGE sql VOLATILE
RETURN greatest(0, extract(epoch FROM clock_timestamp() - _at))::float;

-- running -> running under another worker: because the lease has ended, or nobody has resumed a waiting run in
-- time. statement_timestamp(), because clock_timestamp() is volatile and
-- no index condition: 5.9 ms instead of 0.01 ms with 50,000 running runs. A run that was lost
-- _quarantine_losses times may be what kills its workers, and with each worker everything that runs beside
-- it. So a worker has one such run at a time (_quarantine is how many it may take now), those that were lost
-- least often first: the innocent get through, and the culprit is left alone with its losses.
--
-- With a _run, that one alone, as claim_queued.
CREATE FUNCTION claim_expired(_workflows text[], _limit int, _lease float, _worker_id uuid, _worker text,
    _quarantine_losses int, _quarantine int, _tenant text, _run uuid, _attempt int, _epoch bigint)
RETURNS SETOF claimed_run LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    tenant_ids text[];
    ids uuid[];
    lost_workers int[];
    seconds_left float;
BEGIN
    PERFORM set_config('runengine.dispatch', 'on', true);
    IF _run IS NOT NULL THEN
        seconds_left := keep_or_renew_lease(_worker_id, _lease);
        SELECT ARRAY[tenant_id], ARRAY[id], ARRAY[loss] INTO tenant_ids, ids, lost_workers
        FROM public.runs CROSS JOIN LATERAL (SELECT coalesce(is_loss(runs), 0)) AS lost(loss)
        WHERE tenant_id = _tenant AND id = _run AND attempt = _attempt AND epoch = _epoch AND status = 'running'
            AND coalesce(lease_expires_at, waiting_expires_at) < statement_timestamp()
            AND workflow_name = ANY(_workflows) AND (losses + loss < _quarantine_losses OR _quarantine > 0)
        FOR UPDATE OF runs;
    ELSE
        -- Its own lease before those of others, so that two workers whose leases have ended cannot deadlock.
        PERFORM FROM public.worker_leases WHERE worker_id = _worker_id AND expires_at < clock_timestamp() FOR UPDATE;
        PERFORM end_leases_of_lost_workers();
        seconds_left := keep_or_renew_lease(_worker_id, _lease);
        PERFORM renew_leases_ahead(_lease);
        SELECT array_agg(tenant_id), array_agg(id), array_agg(loss) INTO tenant_ids, ids, lost_workers FROM (
            SELECT * FROM (
                SELECT tenant_id, id, is_loss(runs) AS loss FROM public.runs
                WHERE status = 'running' AND lease_expires_at < statement_timestamp()
                    AND workflow_name = ANY(_workflows) AND losses + is_loss(runs) < _quarantine_losses
                ORDER BY lease_expires_at LIMIT _limit FOR UPDATE SKIP LOCKED
            ) AS innocent UNION ALL SELECT * FROM (
                SELECT tenant_id, id, is_loss(runs) AS loss FROM public.runs
                WHERE status = 'running' AND lease_expires_at < statement_timestamp()
                    AND workflow_name = ANY(_workflows) AND losses + is_loss(runs) >= _quarantine_losses
                ORDER BY losses, lease_expires_at LIMIT _quarantine FOR UPDATE SKIP LOCKED
            ) AS in_quarantine UNION ALL SELECT * FROM (
                SELECT tenant_id, id, 0 AS loss FROM public.runs
                WHERE status = 'running' AND lease_expires_at IS NULL
                    AND waiting_expires_at < statement_timestamp() AND workflow_name = ANY(_workflows)
                ORDER BY waiting_expires_at LIMIT _limit FOR UPDATE SKIP LOCKED
            ) AS timed_out LIMIT _limit
        ) AS lost;
    END IF;

    RETURN QUERY WITH claimed AS (
        UPDATE public.runs SET epoch = epoch + 1, losses = losses + lost.loss, handed_back = false,
            worker_id = _worker_id, lease_expires_at = 'infinity', lease_seconds = _lease,
            encoded_waiting = NULL, updated_at = CASE WHEN encoded_waiting IS NULL THEN updated_at
                ELSE public.touch(updated_at) END
        FROM unnest(tenant_ids, ids, lost_workers) AS lost(tenant_id, id, loss)
        WHERE runs.tenant_id = lost.tenant_id AND runs.id = lost.id
        RETURNING runs.*
    ), logged AS (
        INSERT INTO public.run_events (tenant_id, run_id, at, from_status, to_status, attempt, actor, reason,
            trace_id)
        SELECT tenant_id, id, greatest(public.now_ms(), updated_at), 'running', 'running', attempt, _worker,
            'TAKEN_OVER', trace_id FROM claimed
    )
    SELECT tenant_id, id, epoch, workflow_name, attempt, losses, hand_backs, campaign_id, encoded_input,
        greatest(0, seconds_since(started_at) - waited_seconds), resume_values, waiting_expires_at IS NOT NULL,
        thread_id, trace_id, seconds_left, NULL::text
    FROM claimed;

    -- In a statement of its own, because its snapshot must be younger than the locks: the lost worker may
    -- have started a step while the first statement was being executed.
    UPDATE public.run_steps SET status = 'failed', completed_at = greatest(public.now_ms(), started_at),
        updated_at = public.touch(updated_at),
        error = step_error('WORKER_LOST', 'Its worker went away.', step_id, attempt)
    FROM unnest(tenant_ids, ids) AS taken(tenant_id, id)
    WHERE run_steps.tenant_id = taken.tenant_id AND run_steps.run_id = taken.id AND status = 'running';
END
$$;

-- 1 where the lease ran out. A run that was handed back, by a worker that stopped in good order, is no loss.
CREATE FUNCTION is_loss(_run public.runs) RETURNS int LANGUAGE sql IMMUTABLE
RETURN (_run.lease_expires_at > '-infinity' AND NOT _run.handed_back)::int;

-- Those of the runs named that are the worker's own. A run that was handed back is nobody's: a heartbeat that
-- is under way meanwhile would keep it from every worker for a lease. With a condition that the lease is not
-- null, PostgreSQL might search all that are held (33,000 rows for ten).
CREATE FUNCTION own_runs(_tenants text[], _runs uuid[], _epochs bigint[]) RETURNS SETOF public.runs
LANGUAGE sql STABLE AS $$
    SELECT runs.* FROM unnest(_tenants, _runs, _epochs) AS held(tenant_id, id, epoch)
    JOIN public.runs ON runs.tenant_id = held.tenant_id AND runs.id = held.id AND runs.epoch = held.epoch
        AND runs.status = 'running' AND NOT runs.handed_back
$$;

-- As own_runs, without those that others have locked: the rest of the worker's runs must not wait for one.
CREATE FUNCTION lock_own_runs(_tenants text[], _runs uuid[], _epochs bigint[]) RETURNS SETOF public.runs
LANGUAGE plpgsql ROWS 10 AS $$
BEGIN
    RETURN QUERY SELECT runs.* FROM unnest(_tenants, _runs, _epochs) AS held(tenant_id, id, epoch)
    JOIN public.runs ON runs.tenant_id = held.tenant_id AND runs.id = held.id AND runs.epoch = held.epoch
        AND runs.status = 'running' AND NOT runs.handed_back
    FOR NO KEY UPDATE OF runs SKIP LOCKED;
END
$$;

-- Renews the worker's lease, which is that of each run that it holds, and returns those of the runs named that it
-- does hold: only these are read, one row is written. A run with a lease of its own, see end_leases_of_lost_workers,
-- gets the worker's again; where others have locked it, it is returned as locked. What the worker does not name,
-- though it has claimed it, gets a lease of its own: the response to the claim was lost, or is under way, and then
-- the next heartbeat names the run.
CREATE FUNCTION heartbeat(_worker_id uuid, _tenants text[], _runs uuid[], _epochs bigint[], _lease float)
RETURNS TABLE (id uuid, is_locked boolean) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    kept int;
BEGIN
    PERFORM set_config('runengine.dispatch', 'on', true);
    -- The lock on this row lasts until what is read below is certain: see end_leases_of_lost_workers.
    PERFORM renew_lease(_worker_id, _lease);
    RETURN QUERY SELECT id, false FROM own_runs(_tenants, _runs, _epochs)
        WHERE lease_expires_at = 'infinity' AND worker_id = _worker_id;
    GET DIAGNOSTICS kept = ROW_COUNT;
    IF kept < cardinality(_runs) THEN
        RETURN QUERY UPDATE public.runs SET worker_id = _worker_id, lease_expires_at = 'infinity',
                lease_seconds = _lease
            FROM lock_own_runs(_tenants, _runs, _epochs) AS own
            WHERE runs.tenant_id = own.tenant_id AND runs.id = own.id
                AND (own.lease_expires_at, own.worker_id) IS DISTINCT FROM ('infinity'::timestamptz, _worker_id)
            RETURNING runs.id, false;
        RETURN QUERY SELECT id, true FROM own_runs(_tenants, _runs, _epochs)
            WHERE (lease_expires_at, worker_id) IS DISTINCT FROM ('infinity'::timestamptz, _worker_id);
    END IF;
    UPDATE public.runs SET lease_expires_at = clock_timestamp() + make_interval(secs => _lease),
        lease_seconds = _lease
    FROM (
        SELECT tenant_id, id FROM public.runs
        WHERE lease_expires_at = 'infinity' AND worker_id = _worker_id AND id <> ALL(_runs)
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS unnamed
    WHERE runs.tenant_id = unnamed.tenant_id AND runs.id = unnamed.id;
END
$$;

-- Ends leases, so that another worker can go on and no loss is counted: at once the first time. When the same
-- run is handed back again without a step completed in between, something is wrong with the run, or with the
-- database, and not with the worker: the second time it is left alone for _pause seconds, then for twice as
-- long each time, up to 30. Returns what heartbeat does.
CREATE FUNCTION hand_back(_tenants text[], _runs uuid[], _epochs bigint[], _pause float)
RETURNS TABLE (id uuid, is_locked boolean) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    updated int;
BEGIN
    PERFORM set_config('runengine.dispatch', 'on', true);
    RETURN QUERY UPDATE public.runs SET handed_back = true, hand_backs = in_a_row.times,
            steps_at_hand_back = done.steps, lease_seconds = alone.seconds,
            lease_expires_at = CASE WHEN in_a_row.times = 1 THEN '-infinity'
                ELSE clock_timestamp() + make_interval(secs => alone.seconds) END
        FROM lock_own_runs(_tenants, _runs, _epochs) AS own
        CROSS JOIN LATERAL (
            SELECT count(*)::int AS steps FROM public.run_steps
            WHERE tenant_id = own.tenant_id AND run_id = own.id AND status = 'completed'
        ) AS done
        CROSS JOIN LATERAL (
            SELECT CASE WHEN done.steps > own.steps_at_hand_back THEN 1 ELSE own.hand_backs + 1 END
        ) AS in_a_row(times)
        CROSS JOIN LATERAL (SELECT least(30, _pause * 2 ^ least(20, in_a_row.times - 2))) AS alone(seconds)
        WHERE runs.tenant_id = own.tenant_id AND runs.id = own.id
        RETURNING runs.id, false;
    GET DIAGNOSTICS updated = ROW_COUNT;
    IF updated < cardinality(_runs) THEN
        RETURN QUERY SELECT id, true FROM own_runs(_tenants, _runs, _epochs);
    END IF;
END
$$;

-- A chore is done by one worker for all. Returns a row when it is due, _seconds after it was last begun.
CREATE FUNCTION begin_chore(_name text, _seconds float) RETURNS TABLE (begun int)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('runengine.dispatch', 'on', true);
    RETURN QUERY INSERT INTO public.chores (name, begun_at) VALUES (_name, clock_timestamp())
        ON CONFLICT (name) DO UPDATE SET begun_at = excluded.begun_at
        WHERE chores.begun_at < excluded.begun_at - make_interval(secs => _seconds)
        RETURNING 1;
END
$$;
