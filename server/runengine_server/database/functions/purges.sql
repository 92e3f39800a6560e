-- What is kept for a time only, but for runs and bulk operations: see repositories/retention.py.

-- Deletes up to _limit rows of each kind that nobody needs any more. Returns how many that were, of all kinds.
CREATE FUNCTION purge_expired(_limit int) RETURNS TABLE (deleted bigint)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('runengine.dispatch', 'on', true);
    RETURN QUERY WITH keys AS (
        DELETE FROM public.idempotency_keys WHERE (tenant_id, key) IN (
            SELECT tenant_id, key FROM public.idempotency_keys
            WHERE created_at < statement_timestamp() - interval '7 days' LIMIT _limit)
        RETURNING 1
    ), cached AS (
        DELETE FROM public.step_cache WHERE (tenant_id, workflow_name, step_id, key) IN (
            SELECT tenant_id, workflow_name, step_id, key FROM public.step_cache
            WHERE expires_at < statement_timestamp() LIMIT _limit)
        RETURNING 1
    ), workers AS (
        -- Of workers that stopped without withdrawing.
        DELETE FROM public.workflow_workers WHERE (workflow_name, worker_id) IN (
            SELECT workflow_name, worker_id FROM public.workflow_workers
            WHERE expires_at < statement_timestamp() LIMIT _limit)
        RETURNING 1
    ), ended AS (
        DELETE FROM public.webhook_deliveries WHERE (tenant_id, endpoint_id, id) IN (
            SELECT tenant_id, endpoint_id, id FROM public.webhook_deliveries
            WHERE status <> 'pending' AND expires_at < statement_timestamp() LIMIT _limit)
        RETURNING 1
    ), dead AS (
        -- Those that an endpoint was not sent before it was disabled: nobody finds that they are dead.
        DELETE FROM public.webhook_deliveries WHERE (tenant_id, endpoint_id, id) IN (
            SELECT tenant_id, endpoint_id, id FROM public.webhook_deliveries
            WHERE next_attempt_at IS NOT NULL AND expires_at < statement_timestamp() - interval '30 days' LIMIT _limit)
        RETURNING 1
    ), campaigns AS (
        -- Who has not read them by then never will: an endpoint that is disabled begins anew when it is enabled.
        DELETE FROM public.campaign_events WHERE (tenant_id, campaign_id, seq) IN (
            SELECT tenant_id, campaign_id, seq FROM public.campaign_events
            WHERE at < statement_timestamp() - interval '7 days' LIMIT _limit)
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM keys) + (SELECT count(*) FROM cached) + (SELECT count(*) FROM workers)
        + (SELECT count(*) FROM ended) + (SELECT count(*) FROM dead) + (SELECT count(*) FROM campaigns);
END
$$;

-- Whether a tenant has a number of days of its own, or bytes of its artifacts are to be deleted.
CREATE FUNCTION has_retention() RETURNS TABLE (has boolean)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('runengine.dispatch', 'on', true);
    RETURN QUERY SELECT EXISTS (SELECT FROM public.tenant_settings WHERE retention_days IS NOT NULL)
        OR EXISTS (SELECT FROM public.deleted_artifacts);
END
$$;
