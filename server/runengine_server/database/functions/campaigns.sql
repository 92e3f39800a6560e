-- Creates a draft, unless the tenant has the campaign; returns it as it is then.
CREATE FUNCTION create_campaign(_tenant text, _id uuid)
RETURNS TABLE (id uuid, status text, bundle_url text, latest_run_id uuid, created_at timestamptz,
    updated_at timestamptz)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    -- DO UPDATE that changes nothing, because DO NOTHING would return no row.
    RETURN QUERY INSERT INTO public.campaigns (tenant_id, id, created_at, updated_at)
        SELECT _tenant, _id, at, at FROM public.now_ms() AS at
        ON CONFLICT (tenant_id, id) DO UPDATE SET id = excluded.id
        RETURNING id, status, bundle_url, latest_run_id, created_at, updated_at;
END
$$;

CREATE FUNCTION get_campaign(_tenant text, _id uuid)
RETURNS TABLE (id uuid, status text, bundle_url text, latest_run_id uuid, created_at timestamptz,
    updated_at timestamptz)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    RETURN QUERY SELECT id, status, bundle_url, latest_run_id, created_at, updated_at
        FROM public.campaigns WHERE tenant_id = _tenant AND id = _id;
END
$$;

-- Moves the campaign of a run that ends. latest_run_id is the greatest (created_at, id, attempt) that has
-- ended, not the last to end: without the comparison a slow old run would overwrite a newer one. A failed
-- run, which has no bundle, leaves the one that is there. For a tenant that has an endpoint of webhooks it is logged.
CREATE FUNCTION move_campaign(_tenant text, _campaign uuid, _status text, _bundle_url text, _run uuid)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    WITH moved AS (
        UPDATE public.campaigns SET status = _status, bundle_url = coalesce(_bundle_url, campaigns.bundle_url),
            latest_run_id = run.id, latest_run_created_at = run.created_at, latest_run_attempt = run.attempt,
            updated_at = public.touch(campaigns.updated_at)
        FROM public.runs AS run
        WHERE campaigns.tenant_id = _tenant AND campaigns.id = _campaign
            AND run.tenant_id = _tenant AND run.id = _run
            AND (campaigns.latest_run_id IS NULL OR (run.created_at, run.id, run.attempt)
                > (campaigns.latest_run_created_at, campaigns.latest_run_id, campaigns.latest_run_attempt))
        RETURNING campaigns.updated_at
    )
    INSERT INTO public.campaign_events (tenant_id, campaign_id, at, status, run_id)
    SELECT _tenant, _campaign, updated_at, _status, _run FROM moved
    WHERE EXISTS (SELECT FROM public.webhook_endpoints WHERE tenant_id = _tenant);
END
$$;

-- A page of a campaign's runs, most recent first, with its counts: in one statement, and so in one snapshot.
-- It begins after the run (_before_created_at, _before_id), or with nulls at the first: no run is as new as
-- infinity, and so its id is not compared. (Two nulls take Python 6 µs less than a greatest pair.) It reads one run
-- more than the page, to know whether there is another page. Past the end the page is empty, and the counts are there.
CREATE FUNCTION list_campaign_runs(_tenant text, _campaign uuid, _limit bigint, _offset bigint,
    _before_created_at timestamptz, _before_id uuid)
RETURNS TABLE (runs bytea, last_created_at timestamptz, last_id uuid, more boolean, queued bigint,
    running bigint, completed bigint, failed bigint, cancelled bigint)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    _before_created_at := coalesce(_before_created_at, 'infinity');
    _before_id := coalesce(_before_id, _campaign);
    RETURN QUERY WITH page AS MATERIALIZED (
        SELECT created_at, id, run_response(encoded_input, encoded_state, priority, encoded_waiting) AS response
        FROM public.runs
        WHERE tenant_id = _tenant AND campaign_id = _campaign
            AND (created_at, id) < (_before_created_at, _before_id)
        ORDER BY created_at DESC, id DESC LIMIT _limit + 1 OFFSET _offset
    ), shown AS MATERIALIZED (
        SELECT * FROM page ORDER BY created_at DESC, id DESC LIMIT _limit
    )
    SELECT (SELECT string_agg(response, '' ORDER BY created_at DESC, id DESC) FROM shown), last.*,
        (SELECT count(*) FROM page) > _limit, counts.*
    FROM count_campaign_runs(_tenant, _campaign) AS counts
    LEFT JOIN (SELECT created_at, id FROM shown ORDER BY created_at, id LIMIT 1) AS last ON true;
END
$$;

-- As list_campaign_runs, of some statuses. The rows of each status come in order from its own part of an index,
-- and are merged: it reads the rows of the page, and one more for each status.
CREATE FUNCTION list_campaign_runs_by_status(_tenant text, _campaign uuid, _limit bigint, _offset bigint,
    _before_created_at timestamptz, _before_id uuid, _statuses text[])
RETURNS TABLE (runs bytea, last_created_at timestamptz, last_id uuid, more boolean, queued bigint,
    running bigint, completed bigint, failed bigint, cancelled bigint)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    _before_created_at := coalesce(_before_created_at, 'infinity');
    _before_id := coalesce(_before_id, _campaign);
    RETURN QUERY WITH page AS MATERIALIZED (
        SELECT * FROM campaign_runs_in('queued', _statuses, _tenant, _campaign, _before_created_at, _before_id,
            _limit + 1 + _offset)
        UNION ALL SELECT * FROM campaign_runs_in('running', _statuses, _tenant, _campaign, _before_created_at,
            _before_id, _limit + 1 + _offset)
        UNION ALL SELECT * FROM campaign_runs_in('completed', _statuses, _tenant, _campaign,
            _before_created_at, _before_id, _limit + 1 + _offset)
        UNION ALL SELECT * FROM campaign_runs_in('failed', _statuses, _tenant, _campaign, _before_created_at,
            _before_id, _limit + 1 + _offset)
        UNION ALL SELECT * FROM campaign_runs_in('cancelled', _statuses, _tenant, _campaign,
            _before_created_at, _before_id, _limit + 1 + _offset)
        ORDER BY created_at DESC, id DESC LIMIT _limit + 1 OFFSET _offset
    ), shown AS MATERIALIZED (
        SELECT * FROM page ORDER BY created_at DESC, id DESC LIMIT _limit
    )
    SELECT (SELECT string_agg(response, '' ORDER BY created_at DESC, id DESC) FROM shown), last.*,
        (SELECT count(*) FROM page) > _limit, counts.*
    FROM count_campaign_runs(_tenant, _campaign) AS counts
    LEFT JOIN (SELECT created_at, id FROM shown ORDER BY created_at, id LIMIT 1) AS last ON true;
END
$$;

-- A campaign's runs of one status, none unless that is among `_statuses`. Ordered and limited here, because
-- PostgreSQL would otherwise read all of them to sort them.
CREATE FUNCTION campaign_runs_in(_status text, _statuses text[], _tenant text, _campaign uuid,
    _before_created_at timestamptz, _before_id uuid, _limit bigint)
RETURNS TABLE (created_at timestamptz, id uuid, response bytea) LANGUAGE sql STABLE AS $$
    SELECT created_at, id, run_response(encoded_input, encoded_state, priority, encoded_waiting)
    FROM public.runs
    WHERE tenant_id = _tenant AND campaign_id = _campaign AND status = _status AND _status = ANY(_statuses)
        AND (created_at, id) < (_before_created_at, _before_id)
    ORDER BY created_at DESC, id DESC LIMIT _limit
$$;

-- How many runs of the campaign are in each status: the sums over its slots.
CREATE FUNCTION count_campaign_runs(_tenant text, _campaign uuid)
RETURNS TABLE (queued bigint, running bigint, completed bigint, failed bigint, cancelled bigint)
LANGUAGE sql STABLE AS $$
    SELECT coalesce(sum(queued), 0)::bigint, coalesce(sum(running), 0)::bigint,
        coalesce(sum(completed), 0)::bigint, coalesce(sum(failed), 0)::bigint,
        coalesce(sum(cancelled), 0)::bigint
    FROM public.campaign_run_counts WHERE tenant_id = _tenant AND campaign_id = _campaign
$$;
