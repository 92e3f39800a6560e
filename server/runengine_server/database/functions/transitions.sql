-- Records a transition of a run, in the transaction that makes it: as an event, and in the counts of its campaign.
-- `_source` is NULL for a new run, `_operation` the bulk operation that makes it. claim_queued, which moves many
-- runs in one statement, has these two statements for all of them.
CREATE FUNCTION record_transition(_tenant text, _id uuid, _campaign uuid, _source text, _target text,
    _attempt int, _at timestamptz, _actor text, _reason text, _trace text, _error bytea,
    _operation uuid DEFAULT NULL)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.run_events (tenant_id, run_id, at, from_status, to_status, attempt, actor, reason,
        trace_id, error, operation_id)
    VALUES (_tenant, _id, _at, _source, _target, _attempt, _actor, _reason, _trace, _error, _operation);
    IF _campaign IS NOT NULL THEN
        INSERT INTO public.campaign_run_counts AS counts (tenant_id, campaign_id, slot, queued, running,
            completed, failed, cancelled)
        VALUES (_tenant, _campaign, slot_of_run(_id), count_change('queued', _source, _target),
            count_change('running', _source, _target), count_change('completed', _source, _target),
            count_change('failed', _source, _target), count_change('cancelled', _source, _target))
        ON CONFLICT (tenant_id, campaign_id, slot) DO UPDATE SET
            queued = counts.queued + excluded.queued, running = counts.running + excluded.running,
            completed = counts.completed + excluded.completed, failed = counts.failed + excluded.failed,
            cancelled = counts.cancelled + excluded.cancelled;
    END IF;
END
$$;

-- Which of its campaign's 16 rows of counts a run is counted in, so that runs of one campaign seldom wait for one
-- another's row: by the last byte of its id.
CREATE FUNCTION slot_of_run(_id uuid) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN get_byte(uuid_send(_id), 15) % 16;

-- By how much the number of runs in `_status` changes when a run moves from `_source` to `_target`.
CREATE FUNCTION count_change(_status text, _source text, _target text) RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (_status = _target)::int - coalesce(_status = _source, false)::int;

-- The counts of what record_transition has recorded of several runs without their campaigns: in the order in which
-- claim_queued locks them, so that the two cannot deadlock.
CREATE FUNCTION count_transitions(_tenant text, _ids uuid[], _sources text[], _target text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.campaign_run_counts AS counts (tenant_id, campaign_id, slot, queued, running, completed,
        failed, cancelled)
    SELECT _tenant, campaign_id, slot_of_run(id) AS slot, sum(count_change('queued', source, _target)),
        sum(count_change('running', source, _target)), sum(count_change('completed', source, _target)),
        sum(count_change('failed', source, _target)), sum(count_change('cancelled', source, _target))
    FROM unnest(_ids, _sources) AS moved(moved_id, source)
    -- LIMIT, or PostgreSQL may read all runs of the tenant, when it has planned this while the table had few.
    CROSS JOIN LATERAL (
        SELECT id, campaign_id FROM public.runs WHERE tenant_id = _tenant AND id = moved_id LIMIT 1
    ) AS run
    WHERE campaign_id IS NOT NULL GROUP BY campaign_id, slot ORDER BY campaign_id, slot
    ON CONFLICT (tenant_id, campaign_id, slot) DO UPDATE SET
        queued = counts.queued + excluded.queued, running = counts.running + excluded.running,
        completed = counts.completed + excluded.completed, failed = counts.failed + excluded.failed,
        cancelled = counts.cancelled + excluded.cancelled;
END
$$;
