-- Sends what runs tell of their progress to the processes that read it, each payload on the channel of one of
-- them, in order; nothing for a run that is not held under that epoch any more. It writes no row, so that its
-- commit waits for no disk, and the lock that NOTIFY takes is held for some microseconds.
CREATE FUNCTION send_progress(_tenants text[], _runs uuid[], _epochs bigint[], _channels text[], _payloads text[])
RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    sent record;
BEGIN
    PERFORM set_config('runengine.dispatch', 'on', true);
    FOR sent IN
        SELECT channel, payload
        FROM unnest(_tenants, _runs, _epochs, _channels, _payloads) WITH ORDINALITY
            AS given(tenant, run, held_epoch, channel, payload, place)
        JOIN public.runs ON tenant_id = tenant AND id = run AND epoch = held_epoch AND status = 'running'
            AND NOT handed_back
        ORDER BY place
    LOOP
        PERFORM pg_notify(sent.channel, sent.payload);
    END LOOP;
END
$$;

-- Up to _limit transitions of a run, or all with NULL, after the one of _after, in order; each row has the epoch and the status of the run
-- with it, and where there is no such transition, a row has these alone. No row means no run. The number of a
-- transition, seq, is taken while the run's row is locked, so that of one run a later one has a greater.
CREATE FUNCTION list_run_events_after(_tenant text, _id uuid, _after bigint, _limit int)
RETURNS TABLE (epoch bigint, status text, seq bigint, at timestamptz, from_status text, to_status text,
    attempt int, actor text, reason text, trace_id text, error bytea, operation_id uuid)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    RETURN QUERY SELECT runs.epoch, runs.status, event.seq, event.at, event.from_status, event.to_status,
            event.attempt, event.actor, event.reason, event.trace_id, event.error, event.operation_id
        FROM public.runs LEFT JOIN public.run_events AS event
            ON event.tenant_id = _tenant AND event.run_id = _id AND event.seq > _after
        WHERE runs.tenant_id = _tenant AND runs.id = _id ORDER BY event.seq LIMIT _limit;
END
$$;
