-- Lets callers trigger these workflows, and counts the worker process among those that serve them, for that many
-- seconds. In the order of their names, so that two workers that register the same new ones do not deadlock.
CREATE FUNCTION register_workflows(_worker_id uuid, _worker text, _names text[], _seconds float)
RETURNS TABLE (registered int) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('runengine.dispatch', 'on', true);
    INSERT INTO public.workflows (name) SELECT name FROM unnest(_names) AS name ORDER BY name
    ON CONFLICT DO NOTHING;
    RETURN QUERY INSERT INTO public.workflow_workers (worker_id, worker, workflow_name, expires_at)
        SELECT _worker_id, _worker, name, clock_timestamp() + make_interval(secs => _seconds)
        FROM unnest(_names) AS name
        ON CONFLICT (workflow_name, worker_id) DO UPDATE SET expires_at = excluded.expires_at
        RETURNING 1;
END
$$;

-- What a worker that is started says of its workflows: fields of a runengine.v1.Workflow.
CREATE FUNCTION describe_workflows(_names text[], _descriptions bytea[])
RETURNS TABLE (described int) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('runengine.dispatch', 'on', true);
    -- In the order of their names, so that two workers do not deadlock.
    RETURN QUERY WITH given AS (
        SELECT stored.name, said.description
        FROM unnest(_names, _descriptions) AS said(name, description) JOIN public.workflows AS stored
            ON stored.name = said.name
        ORDER BY stored.name FOR UPDATE OF stored
    )
    UPDATE public.workflows SET description = given.description, described_at = public.now_ms()
    FROM given WHERE workflows.name = given.name RETURNING 1;
END
$$;

-- Removes the worker process from those that serve workflows.
CREATE FUNCTION withdraw_worker(_worker_id uuid) RETURNS TABLE (withdrawn int)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('runengine.dispatch', 'on', true);
    RETURN QUERY DELETE FROM public.workflow_workers WHERE worker_id = _worker_id RETURNING 1;
END
$$;

-- All workflows, and how many workers serve each.
CREATE FUNCTION count_workers() RETURNS TABLE (name text, workers bigint) LANGUAGE sql STABLE AS $$
    SELECT name, (SELECT count(*) FROM public.workflow_workers
        WHERE workflow_name = name AND expires_at > statement_timestamp())
    FROM public.workflows
$$;

-- As count_workers; and, with `_with_queued`, whether runs are queued for a workflow that no worker serves. That
-- reads the queued runs of all workflows once (100,000 in 10 ms).
CREATE FUNCTION served_workflows(_with_queued boolean)
RETURNS TABLE (name text, workers bigint, has_queued boolean)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('runengine.dispatch', 'on', true);
    RETURN QUERY SELECT name, workers, CASE WHEN _with_queued AND workers = 0
            THEN name IN (SELECT workflow_name FROM public.runs WHERE status = 'queued') ELSE false END
        FROM count_workers();
END
$$;

-- All workflows in the order of their names, with how many workers serve each and how many runs of it are queued,
-- of all tenants.
CREATE FUNCTION list_workflows() RETURNS TABLE (name text, workers bigint, queued bigint)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('runengine.dispatch', 'on', true);
    RETURN QUERY SELECT name, workers, coalesce(queued, 0)
        FROM count_workers()
        LEFT JOIN (SELECT workflow_name, count(*) AS queued FROM public.runs
            WHERE status = 'queued' GROUP BY workflow_name) AS waiting ON workflow_name = name
        ORDER BY name;
END
$$;

-- Up to _limit workflows in the order of their names, those after _after, as they describe themselves.
CREATE FUNCTION described_workflows(_after text, _limit int)
RETURNS TABLE (name text, workers bigint, registered_at timestamptz, description bytea)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('runengine.dispatch', 'on', true);
    RETURN QUERY SELECT name, (SELECT count(*) FROM public.workflow_workers
            WHERE workflow_name = name AND expires_at > statement_timestamp()),
            coalesce(described_at, registered_at), description
        FROM public.workflows WHERE name > _after ORDER BY name LIMIT _limit;
END
$$;

-- How many runs of each workflow are queued and due, for how many seconds the oldest has been, and how many wait for
-- somebody, of all tenants. Counts 100,000 of each at most (20 ms), so that it takes no longer when there are more;
-- the oldest is that of those.
CREATE FUNCTION count_backlog() RETURNS TABLE (name text, queued bigint, oldest_seconds float, waiting bigint)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('runengine.dispatch', 'on', true);
    RETURN QUERY SELECT name, coalesce(due.number, 0), coalesce(seconds_since(due.oldest), 0),
            coalesce(asking.number, 0)
        FROM public.workflows
        LEFT JOIN (SELECT workflow_name, count(*) AS number, min(queued_at) AS oldest FROM (
                SELECT workflow_name, queued_at FROM public.runs
                WHERE status = 'queued' AND queued_at < 'infinity' LIMIT 100000
            ) AS counted GROUP BY workflow_name) AS due ON due.workflow_name = name
        LEFT JOIN (SELECT workflow_name, count(*) AS number FROM (
                SELECT workflow_name FROM public.runs
                WHERE encoded_waiting IS NOT NULL AND status = 'running' LIMIT 100000
            ) AS counted GROUP BY workflow_name) AS asking ON asking.workflow_name = name;
END
$$;
