-- What a worker asks of all tenants together.

CREATE TYPE claimed_run AS (tenant_id text, id uuid, epoch bigint, workflow_name text, attempt int, losses int,
    hand_backs int, campaign_id uuid, encoded_input bytea, running_seconds float, round_robin_cursor text);

-- queued -> running. Two functions for the two ways to claim, each on its partial index: one statement with OR
-- uses neither index (105 against 3,900 claims/s).
--
-- Tenants are served round-robin: those after the one served last (_cursor), in the order of their ids, then
-- from the start; a tenant that has as many running as it may (_running_limit) is passed over. `served` counts
-- those with capacity. Each step is one descent of runs_queued, so the price is that of the batch, however
-- many are queued; the priority in its order keeps PostgreSQL from the primary key, where completed runs lie
-- between. Each tenant gets an equal share of the batch, in the order of its priorities.
CREATE FUNCTION claim_queued(_workflows text[], _limit int, _lease float, _worker text, _cursor text,
    _running_limit int)
RETURNS SETOF claimed_run LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    tenant_ids text[];
    ids uuid[];
    next_cursor text;
BEGIN
    PERFORM set_config('runengine.dispatch', 'on', true);
    -- With a limit of what runs, no two workers may look at the same time how many do.
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
                    SELECT FROM public.runs WHERE runs.tenant_id = found.tenant_id AND status = 'running'
                    LIMIT _running_limit
                ) AS running) END AS capacity
            FROM (
                (SELECT tenant_id, candidate.wrapped FROM public.runs
                WHERE status = 'queued' AND workflow_name = ANY(_workflows) AND tenant_id > candidate.tenant_id
                ORDER BY tenant_id, priority DESC LIMIT 1)
                UNION ALL
                (SELECT tenant_id, true FROM public.runs
                WHERE status = 'queued' AND workflow_name = ANY(_workflows) AND NOT candidate.wrapped
                ORDER BY tenant_id, priority DESC LIMIT 1)
                LIMIT 1
            ) AS found
        ) AS next
        WHERE served < _limit AND NOT (next.wrapped AND next.tenant_id > _cursor)
    ), due AS (
        SELECT run.tenant_id, run.id FROM candidate CROSS JOIN LATERAL (
            SELECT tenant_id, id FROM public.runs
            WHERE runs.tenant_id = candidate.tenant_id AND status = 'queued' AND workflow_name = ANY(_workflows)
            ORDER BY priority DESC, queued_at, id
            LIMIT least(candidate.capacity, greatest(1, _limit / (SELECT max(served) FROM candidate)))
            FOR UPDATE SKIP LOCKED
        ) AS run WHERE candidate.capacity > 0
    )
    SELECT array_agg(tenant_id), array_agg(id),
        (SELECT tenant_id FROM candidate ORDER BY step DESC LIMIT 1)
    INTO tenant_ids, ids, next_cursor FROM due;

    -- By way of arrays, which PostgreSQL takes for short: else it reads all that is queued to update ten.
    RETURN QUERY WITH claimed AS (
        UPDATE public.runs SET status = 'running', epoch = epoch + 1, started_at = public.now_ms(),
            handed_back = false, lease_expires_at = clock_timestamp() + make_interval(secs => _lease),
            updated_at = public.touch(updated_at)
        FROM unnest(tenant_ids, ids) AS due(tenant_id, id)
        WHERE runs.tenant_id = due.tenant_id AND runs.id = due.id
        RETURNING runs.*
    ), logged AS (
        INSERT INTO public.run_events (tenant_id, run_id, at, from_status, to_status, attempt, actor, reason,
            trace_id)
        SELECT tenant_id, id, updated_at, 'queued', 'running', attempt, _worker, 'CLAIMED', trace_id
        FROM claimed
    ), counted AS (
        -- Sorted, so that two claims lock the counts in the same order and cannot deadlock.
        INSERT INTO public.campaign_run_counts AS counts (tenant_id, campaign_id, slot, queued, running)
        SELECT tenant_id, campaign_id, slot_of_run(id) AS slot, -count(*), count(*)
        FROM claimed WHERE campaign_id IS NOT NULL
        GROUP BY tenant_id, campaign_id, slot ORDER BY tenant_id, campaign_id, slot
        ON CONFLICT (tenant_id, campaign_id, slot) DO UPDATE
            SET queued = counts.queued + excluded.queued, running = counts.running + excluded.running
    )
    SELECT tenant_id, id, epoch, workflow_name, attempt, losses, hand_backs, campaign_id, encoded_input,
        seconds_since(started_at), next_cursor
    FROM claimed;
END
$$;

CREATE FUNCTION seconds_since(_at timestamptz) RETURNS float LANGUAGE sql VOLATILE
RETURN extract(epoch FROM clock_timestamp() - _at)::float;

-- running -> running under another worker. statement_timestamp(), because clock_timestamp() is volatile and no
-- index condition: 5.9 ms instead of 0.01 ms with 50,000 running runs.
-- What has been lost _suspect_losses times may be what kills its workers, and takes everything that runs
-- beside it with it. So a worker has one such run at a time (_suspects is how many it may take now), those
-- that were lost least often first: the others get through, and the culprit is left alone with its losses.
CREATE FUNCTION claim_expired(_workflows text[], _limit int, _lease float, _worker text, _suspect_losses int,
    _suspects int)
RETURNS SETOF claimed_run LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    tenant_ids text[];
    ids uuid[];
    lost_workers int[];
BEGIN
    PERFORM set_config('runengine.dispatch', 'on', true);
    SELECT array_agg(tenant_id), array_agg(id), array_agg(loss) INTO tenant_ids, ids, lost_workers FROM (
        SELECT * FROM (
            SELECT tenant_id, id, is_loss(runs) AS loss FROM public.runs
            WHERE status = 'running' AND lease_expires_at < statement_timestamp()
                AND workflow_name = ANY(_workflows) AND losses + is_loss(runs) < _suspect_losses
            ORDER BY lease_expires_at LIMIT _limit FOR UPDATE SKIP LOCKED
        ) AS innocent UNION ALL SELECT * FROM (
            SELECT tenant_id, id, is_loss(runs) AS loss FROM public.runs
            WHERE status = 'running' AND lease_expires_at < statement_timestamp()
                AND workflow_name = ANY(_workflows) AND losses + is_loss(runs) >= _suspect_losses
            ORDER BY losses, lease_expires_at LIMIT _suspects FOR UPDATE SKIP LOCKED
        ) AS suspect LIMIT _limit
    ) AS lost;

    RETURN QUERY WITH claimed AS (
        UPDATE public.runs SET epoch = epoch + 1, losses = losses + lost.loss, handed_back = false,
            lease_expires_at = clock_timestamp() + make_interval(secs => _lease)
        FROM unnest(tenant_ids, ids, lost_workers) AS lost(tenant_id, id, loss)
        WHERE runs.tenant_id = lost.tenant_id AND runs.id = lost.id
        RETURNING runs.*
    ), logged AS (
        INSERT INTO public.run_events (tenant_id, run_id, at, from_status, to_status, attempt, actor, reason,
            trace_id)
        SELECT tenant_id, id, public.now_ms(), 'running', 'running', attempt, _worker, 'TAKEN_OVER', trace_id
        FROM claimed
    )
    SELECT tenant_id, id, epoch, workflow_name, attempt, losses, hand_backs, campaign_id, encoded_input,
        seconds_since(started_at), NULL::text
    FROM claimed;

    -- In a statement of its own, for its snapshot must be younger than the locks: the lost worker may have
    -- started a step while the first statement was looking.
    UPDATE public.run_steps SET status = 'failed', completed_at = public.now_ms(),
        updated_at = public.touch(updated_at),
        error = step_error('WORKER_LOST', 'Its worker went away.', step_id, attempt)
    FROM unnest(tenant_ids, ids) AS taken(tenant_id, id)
    WHERE run_steps.tenant_id = taken.tenant_id AND run_steps.run_id = taken.id AND status = 'running';
END
$$;

-- 1 where the lease ended by itself: a worker that stopped in good order handed the run back, which is no loss.
CREATE FUNCTION is_loss(_run public.runs) RETURNS int LANGUAGE sql IMMUTABLE
RETURN (_run.lease_expires_at > '-infinity' AND NOT _run.handed_back)::int;

-- Renews leases, and returns the runs that are still held. A run that is running has a lease, and no other has
-- one. Were it asked for its status, PostgreSQL might look for the held ones among all that are running
-- (33,000 rows for ten).
CREATE FUNCTION heartbeat(_tenants text[], _runs uuid[], _epochs bigint[], _lease float)
RETURNS TABLE (id uuid) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('runengine.dispatch', 'on', true);
    RETURN QUERY UPDATE public.runs SET lease_expires_at = clock_timestamp() + make_interval(secs => _lease)
        FROM unnest(_tenants, _runs, _epochs) AS held(tenant_id, id, epoch)
        WHERE runs.tenant_id = held.tenant_id AND runs.id = held.id AND runs.epoch = held.epoch
            AND runs.lease_expires_at IS NOT NULL
        RETURNING runs.id;
END
$$;

-- Ends leases, so that another worker goes on and no loss is counted: at once, unless it is not the first time
-- in a row. The second time the run is left alone for _pause seconds, and each time for twice as long, up to 30.
CREATE FUNCTION hand_back(_tenants text[], _runs uuid[], _epochs bigint[], _pause float)
RETURNS TABLE (id uuid) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('runengine.dispatch', 'on', true);
    RETURN QUERY UPDATE public.runs SET handed_back = true, hand_backs = hand_backs_in_a_row(runs, done.steps),
            steps_at_hand_back = done.steps,
            lease_expires_at = CASE WHEN hand_backs_in_a_row(runs, done.steps) = 1 THEN '-infinity'
                ELSE clock_timestamp() + make_interval(secs => least(30,
                    _pause * 2 ^ least(20, hand_backs_in_a_row(runs, done.steps) - 2))) END
        FROM unnest(_tenants, _runs, _epochs) AS held(tenant_id, id, epoch)
        CROSS JOIN LATERAL (
            SELECT count(*)::int AS steps FROM public.run_steps
            WHERE tenant_id = held.tenant_id AND run_id = held.id AND status = 'completed'
        ) AS done
        WHERE runs.tenant_id = held.tenant_id AND runs.id = held.id AND runs.epoch = held.epoch
            AND runs.lease_expires_at IS NOT NULL
        RETURNING runs.id;
END
$$;

-- How often in a row a run was handed back, with now, of which so many steps have completed. Two or more say that
-- it is the run, or the database with it, and not the worker, that something is wrong with.
CREATE FUNCTION hand_backs_in_a_row(_run public.runs, _steps int) RETURNS int LANGUAGE sql IMMUTABLE
RETURN CASE WHEN _steps > _run.steps_at_hand_back THEN 1 ELSE _run.hand_backs + 1 END;
