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
