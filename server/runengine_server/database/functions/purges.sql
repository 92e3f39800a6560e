-- What is kept for a time only, but for runs and bulk operations: see repositories/retention.py.

-- Deletes up to _limit rows of each kind that nobody needs any more. Returns how many that were, of all kinds. They
-- are deleted by their places: for a join with the table PostgreSQL may read all of it. Locked first, so that none is
-- deleted that somebody renews at the moment, as a worker its registration, or a person a delivery by retrying it.
CREATE FUNCTION purge_expired(_limit int) RETURNS TABLE (deleted bigint)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    -- Of a variable the planner knows nothing, and does not look for it in the table.
    called_at CONSTANT timestamptz := statement_timestamp();
BEGIN
    PERFORM set_config('runengine.dispatch', 'on', true);
    RETURN QUERY WITH keys AS (
        DELETE FROM public.idempotency_keys WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM public.idempotency_keys
            WHERE created_at < called_at - interval '7 days' LIMIT _limit FOR UPDATE SKIP LOCKED))
        RETURNING 1
    ), cached AS (
        DELETE FROM public.step_cache WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM public.step_cache
            WHERE expires_at < called_at LIMIT _limit FOR UPDATE SKIP LOCKED))
        RETURNING 1
    ), workers AS (
        -- Of workers that stopped without withdrawing.
        DELETE FROM public.workflow_workers WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM public.workflow_workers
            WHERE expires_at < called_at LIMIT _limit FOR UPDATE SKIP LOCKED))
        RETURNING 1
    ), ended AS (
        DELETE FROM public.webhook_deliveries WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM public.webhook_deliveries
            WHERE status <> 'pending' AND expires_at < called_at LIMIT _limit FOR UPDATE SKIP LOCKED))
        RETURNING 1
    ), dead AS (
        -- Those that an endpoint was not sent before it was disabled: nobody finds that they are dead. The next attempt
        -- is at most a day after they expire, and by that the index has them, endpoint by endpoint.
        DELETE FROM public.webhook_deliveries WHERE ctid = ANY(ARRAY(
            SELECT due.ctid FROM public.webhook_endpoints CROSS JOIN LATERAL (
                SELECT ctid FROM public.webhook_deliveries
                WHERE tenant_id = webhook_endpoints.tenant_id AND endpoint_id = webhook_endpoints.id
                    AND next_attempt_at < called_at - interval '29 days'
                    AND expires_at < called_at - interval '30 days' LIMIT _limit
                FOR UPDATE SKIP LOCKED
            ) AS due LIMIT _limit))
        RETURNING 1
    ), campaigns AS (
        -- Who has not read them by then never will: an endpoint that is disabled begins anew when it is enabled.
        DELETE FROM public.campaign_events WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM public.campaign_events
            WHERE at < called_at - interval '7 days' LIMIT _limit FOR UPDATE SKIP LOCKED))
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
