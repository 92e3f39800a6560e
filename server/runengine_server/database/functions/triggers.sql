-- nothing -> queued. Whether the campaign is there is looked up where _check_campaign. What needs no call of a
-- function, without a key or a limit, makes none: a PERFORM takes 8 µs.
CREATE FUNCTION trigger_run(_tenant text, _id uuid, _workflow text, _input bytea, _campaign uuid,
    _priority int, _actor text, _trace text, _key text, _fingerprint bytea, _queued_limit int,
    _check_campaign boolean)
RETURNS mutation_result LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    result mutation_result;
    run record;
    -- Not by the defaults of the columns, which are called one after the other.
    at timestamptz := public.now_ms();
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    IF _key IS NOT NULL THEN
        result := claim_idempotency_key(_tenant, _key, _fingerprint);
        IF result.outcome IS NOT NULL THEN
            RETURN result;
        END IF;
    END IF;
    IF NOT EXISTS (SELECT FROM public.workflows WHERE name = _workflow) THEN
        result.outcome := 'unknown workflow';
    ELSIF _queued_limit IS NOT NULL AND queue_capacity(_tenant, _queued_limit, 1) = 0 THEN
        result.outcome := 'over quota';
    END IF;
    IF result.outcome IS NOT NULL THEN
        PERFORM release_idempotency_key(_tenant, _key);
        RETURN result;
    END IF;
    INSERT INTO public.runs (tenant_id, id, workflow_name, encoded_input, campaign_id, priority, trace_id,
        created_at, updated_at, queued_at)
    VALUES (_tenant, _id, _workflow, _input, _campaign, _priority, _trace, at, at, at)
    RETURNING attempt, updated_at, public.encoded_response(encoded_input, encoded_state, priority) AS response
    INTO run;
    PERFORM record_transition(_tenant, _id, _campaign, NULL, 'queued', run.attempt, run.updated_at, _actor,
        'TRIGGERED', _trace, NULL);
    IF _key IS NOT NULL THEN
        PERFORM store_response(_tenant, _key, run.response);
    END IF;
    result.outcome := 'applied';
    result.response := run.response;
    IF _check_campaign THEN
        result.has_campaign := EXISTS (
            SELECT FROM public.campaigns WHERE tenant_id = _tenant AND id = _campaign);
    END IF;
    RETURN result;
END
$$;

-- trigger_run of each, without a key or a limit: the same rows, of all by one statement, which PostgreSQL then
-- prepares once. Of eight a run takes it 62 µs, and 154 by trigger_run; of one, 265 and 203. Where _id is NULL the
-- call is none of the tenant's. The counts are locked in the order in which claim_queued locks them, so that the two
-- cannot deadlock.
CREATE FUNCTION trigger_runs(_tenant text, _id uuid[], _workflow text[], _input bytea[], _campaign uuid[],
    _priority int[], _actor text[], _trace text[], _check_campaign boolean[])
RETURNS TABLE (place bigint, result mutation_result) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    at timestamptz := public.now_ms();
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    RETURN QUERY WITH call AS MATERIALIZED (
        -- No EXISTS, for which PostgreSQL may read all workflows.
        SELECT call.*, slot_of_run(id) AS slot,
            (SELECT name FROM public.workflows WHERE name = workflow) IS NOT NULL AS is_known
        FROM unnest(_id, _workflow, _input, _campaign, _priority, _actor, _trace, _check_campaign)
            WITH ORDINALITY AS call(id, workflow, input, campaign_id, priority, actor, trace, check_campaign, place)
        WHERE id IS NOT NULL
    ), stored AS (
        INSERT INTO public.runs (tenant_id, id, workflow_name, encoded_input, campaign_id, priority, trace_id,
            created_at, updated_at, queued_at)
        SELECT _tenant, id, workflow, input, campaign_id, priority, trace, at, at, at FROM call WHERE is_known
        RETURNING id, public.encoded_response(encoded_input, encoded_state, priority) AS response
    ), logged AS (
        INSERT INTO public.run_events (tenant_id, run_id, at, to_status, attempt, actor, reason, trace_id)
        SELECT _tenant, id, at, 'queued', 1, actor, 'TRIGGERED', trace FROM call WHERE is_known
    ), counted AS (
        INSERT INTO public.campaign_run_counts AS counts (tenant_id, campaign_id, slot, queued)
        SELECT _tenant, campaign_id, slot, count(*) FROM call WHERE is_known AND campaign_id IS NOT NULL
        GROUP BY campaign_id, slot ORDER BY campaign_id, slot
        ON CONFLICT (tenant_id, campaign_id, slot) DO UPDATE SET queued = counts.queued + excluded.queued
    )
    SELECT place, ROW(CASE WHEN is_known THEN 'applied' ELSE 'unknown workflow' END, response, NULL, NULL,
            CASE WHEN is_known AND check_campaign THEN EXISTS (
                SELECT FROM public.campaigns WHERE tenant_id = _tenant AND campaigns.id = campaign_id) END,
            NULL)::mutation_result
        FROM call LEFT JOIN stored USING (id);
END
$$;

-- trigger_run of each, in one transaction, without a key or a limit. In the order in which claim_queued locks the
-- counts of campaigns. Who has to wait longer than 0.1 s for a lock fails here, and waits alone.
CREATE FUNCTION trigger_runs_of_tenants(_tenant text[], _id uuid[], _workflow text[], _input bytea[],
    _campaign uuid[], _priority int[], _actor text[], _trace text[], _check_campaign boolean[])
RETURNS TABLE (place bigint, result mutation_result)
LANGUAGE plpgsql SET search_path FROM CURRENT SET lock_timeout = '100ms' AS $$
DECLARE
    own text;
    places bigint[];
    own_ids uuid[];
BEGIN
    FOR own, places IN
        SELECT tenant_id, array_agg(number)
        FROM unnest(_tenant) WITH ORDINALITY AS call(tenant_id, number) GROUP BY tenant_id ORDER BY tenant_id
    LOOP
        IF cardinality(places) = 1 THEN
            place := places[1];
            result := trigger_run(own, _id[place], _workflow[place], _input[place], _campaign[place],
                _priority[place], _actor[place], _trace[place], NULL, NULL, NULL, _check_campaign[place]);
            RETURN NEXT;
        ELSE
            SELECT array_agg(CASE WHEN number = ANY(places) THEN id END ORDER BY number) INTO own_ids
            FROM unnest(_id) WITH ORDINALITY AS call(id, number);
            RETURN QUERY SELECT * FROM trigger_runs(own, own_ids, _workflow, _input, _campaign, _priority,
                _actor, _trace, _check_campaign);
        END IF;
    END LOOP;
END
$$;

-- How many more runs the tenant may have queued, up to _most; NULL is no limit. Within 1,000 runs of the limit,
-- more than are triggered for one tenant at the same instant, its triggers wait for one another's commit, so
-- that the count is exact; farther from it they do not wait. No other lock has 7405 as the first of two numbers.
-- Tenants whose names have the same hash wait for each other, and nothing worse.
CREATE FUNCTION queue_capacity(_tenant text, _limit int, _most int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    queued bigint;
BEGIN
    IF _limit IS NULL THEN
        RETURN _most;
    END IF;
    queued := count_queued_runs(_tenant, _limit);
    IF queued + 1000 > _limit THEN
        PERFORM pg_advisory_xact_lock(7405, hashtext(_tenant));
        queued := count_queued_runs(_tenant, _limit);
    END IF;
    RETURN least(_most, _limit - queued);
END
$$;

-- How many runs the tenant has queued, counted up to the limit.
CREATE FUNCTION count_queued_runs(_tenant text, _limit int) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT count(*) FROM (
        SELECT FROM public.runs WHERE tenant_id = _tenant AND status = 'queued' LIMIT _limit) AS queued);
END
$$;
