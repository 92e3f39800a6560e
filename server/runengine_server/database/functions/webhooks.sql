-- Webhooks. An endpoint reads the log of transitions from snapshot to snapshot, as streams do (changes.sql): the
-- transition itself writes nothing for it, and however late it commits, it is found.

-- Unless the tenant has as many as it may: then no row. Its snapshot has what was committed before.
CREATE FUNCTION create_webhook_endpoint(_tenant text, _id uuid, _url text, _secret bytea, _events text[],
    _disabled boolean, _most int)
RETURNS SETOF public.webhook_endpoints LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    -- No other lock has 7406 as the first of two numbers.
    PERFORM pg_advisory_xact_lock(7406, hashtext(_tenant));
    IF (SELECT count(*) FROM public.webhook_endpoints WHERE tenant_id = _tenant) < _most THEN
        RETURN QUERY INSERT INTO public.webhook_endpoints (tenant_id, id, url, secret, events, is_disabled, since,
                created_at, updated_at)
            SELECT _tenant, _id, _url, _secret, _events, _disabled, pg_current_snapshot()::text, at, at
            FROM public.now_ms() AS at RETURNING *;
    END IF;
END
$$;

-- The endpoint, or all of them, the oldest first, with NULL.
CREATE FUNCTION list_webhook_endpoints(_tenant text, _id uuid) RETURNS SETOF public.webhook_endpoints
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    IF _id IS NULL THEN
        RETURN QUERY SELECT * FROM public.webhook_endpoints WHERE tenant_id = _tenant ORDER BY id;
    ELSE
        RETURN QUERY SELECT * FROM public.webhook_endpoints WHERE tenant_id = _tenant AND id = _id;
    END IF;
END
$$;

-- What is NULL stays. One that is enabled begins anew, with what is committed from now on.
CREATE FUNCTION update_webhook_endpoint(_tenant text, _id uuid, _url text, _events text[], _disabled boolean)
RETURNS SETOF public.webhook_endpoints LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    RETURN QUERY UPDATE public.webhook_endpoints SET url = coalesce(_url, url), events = coalesce(_events, events),
            is_disabled = coalesce(_disabled, is_disabled), note = CASE WHEN _disabled IS NULL THEN note END,
            since = CASE WHEN is_disabled AND NOT _disabled THEN pg_current_snapshot()::text ELSE since END,
            until = CASE WHEN is_disabled AND NOT _disabled THEN NULL ELSE until END,
            last = CASE WHEN is_disabled AND NOT _disabled THEN 0 ELSE last END,
            updated_at = public.touch(updated_at)
        WHERE tenant_id = _tenant AND id = _id RETURNING *;
END
$$;

-- A new secret. Those before it sign for _overlap seconds more, none longer than it would have, the four latest at most.
CREATE FUNCTION rotate_webhook_secret(_tenant text, _id uuid, _secret bytea, _overlap int)
RETURNS SETOF public.webhook_endpoints LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    RETURN QUERY UPDATE public.webhook_endpoints SET secret = _secret,
            (old_secrets, old_until) = (
                SELECT coalesce(array_agg(old.secret ORDER BY place), '{}'),
                    coalesce(array_agg(old.until ORDER BY place), '{}')
                FROM (
                    SELECT old.secret, least(old.until, clock_timestamp() + make_interval(secs => _overlap)) AS until,
                        place
                    FROM unnest(webhook_endpoints.secret || old_secrets, timestamptz 'infinity' || old_until)
                        WITH ORDINALITY AS old(secret, until, place)
                    WHERE _overlap > 0 AND old.until > clock_timestamp() ORDER BY place LIMIT 4
                ) AS old),
            updated_at = public.touch(updated_at)
        WHERE tenant_id = _tenant AND id = _id RETURNING *;
END
$$;

-- The endpoint first, for its lock: nothing is inserted for it any more.
CREATE FUNCTION delete_webhook_endpoint(_tenant text, _id uuid) RETURNS SETOF public.webhook_endpoints
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    RETURN QUERY DELETE FROM public.webhook_endpoints WHERE tenant_id = _tenant AND id = _id RETURNING *;
    DELETE FROM public.webhook_deliveries WHERE tenant_id = _tenant AND endpoint_id = _id;
END
$$;

-- Up to _limit deliveries to the endpoint of those statuses, whose transitions come before the number _before, most
-- recent first. Each status comes in order from an index, and they are merged.
CREATE FUNCTION list_webhook_deliveries(_tenant text, _endpoint uuid, _statuses text[], _before bigint, _limit int)
RETURNS SETOF public.webhook_deliveries LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    RETURN QUERY SELECT * FROM (
        SELECT * FROM webhook_deliveries_in('pending', _statuses, _tenant, _endpoint, _before, _limit)
        UNION ALL SELECT * FROM webhook_deliveries_in('delivered', _statuses, _tenant, _endpoint, _before, _limit)
        UNION ALL SELECT * FROM webhook_deliveries_in('dead', _statuses, _tenant, _endpoint, _before, _limit)
    ) AS merged ORDER BY seq DESC LIMIT _limit;
END
$$;

-- Those of one status, none unless that is among `_statuses`.
CREATE FUNCTION webhook_deliveries_in(_status text, _statuses text[], _tenant text, _endpoint uuid, _before bigint,
    _limit int)
RETURNS SETOF public.webhook_deliveries LANGUAGE sql STABLE AS $$
    SELECT * FROM public.webhook_deliveries
    WHERE tenant_id = _tenant AND endpoint_id = _endpoint AND status = _status AND _status = ANY(_statuses)
        AND seq < _before
    ORDER BY seq DESC LIMIT _limit
$$;

-- A delivery that is to be sent again, at once.
CREATE FUNCTION retry_webhook_delivery(_tenant text, _endpoint uuid, _id uuid)
RETURNS SETOF public.webhook_deliveries LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    RETURN QUERY UPDATE public.webhook_deliveries SET status = 'pending', attempts = 0,
            next_attempt_at = public.now_ms(), expires_at = public.now_ms() + interval '3 days'
        WHERE tenant_id = _tenant AND endpoint_id = _endpoint AND id = _id RETURNING *;
END
$$;

-- The endpoints, of all tenants, that have something to read in the log, or a delivery that is due. One by one, or
-- PostgreSQL may read the whole log for them: 25 µs for each endpoint.
CREATE FUNCTION due_webhook_endpoints() RETURNS TABLE (tenant_id text, id uuid, has_unread boolean)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    endpoint record;
    now pg_snapshot := pg_current_snapshot();
    since pg_snapshot;
BEGIN
    PERFORM set_config('runengine.dispatch', 'on', true);
    FOR endpoint IN SELECT * FROM public.webhook_endpoints WHERE NOT is_disabled ORDER BY tenant_id, id LOOP
        since := endpoint.since;
        has_unread := endpoint.until IS NOT NULL OR pg_snapshot_xmax(since) > pg_snapshot_xmax(now) OR EXISTS (
            SELECT FROM public.run_events
            WHERE tenant_id = endpoint.tenant_id AND transaction >= pg_snapshot_xmin(since)
                AND NOT pg_visible_in_snapshot(transaction, since)
        );
        IF has_unread OR EXISTS (
            SELECT FROM public.webhook_deliveries
            WHERE tenant_id = endpoint.tenant_id AND endpoint_id = endpoint.id
                AND next_attempt_at <= statement_timestamp()
        ) THEN
            tenant_id := endpoint.tenant_id;
            id := endpoint.id;
            RETURN NEXT;
        END IF;
    END LOOP;
END
$$;

-- A transition that may be sent.
CREATE TYPE webhook_event AS (seq bigint, event text, run_id uuid, campaign_id uuid, at timestamptz,
    from_status text, attempt int, reason text, error bytea);

-- The transitions that the snapshot _until has, and _since has not, with a number after _after, in the order of their
-- numbers, up to _limit of those wanted. _since NULL: all since the time _from, by reading all of the tenant's.
CREATE FUNCTION find_webhook_events(_tenant text, _wanted text[], _since pg_snapshot, _until pg_snapshot,
    _from timestamptz, _after bigint, _limit int)
RETURNS SETOF webhook_event LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF _since IS NULL THEN
        RETURN QUERY SELECT found.* FROM (
            SELECT seq, event_of_run(to_status, reason), run_id, NULL::uuid, at, from_status, attempt, reason, error
            FROM public.run_events WHERE tenant_id = _tenant AND at >= _from AND seq > _after
            UNION ALL
            SELECT seq, 'campaign.' || status, run_id, campaign_id, at, NULL, NULL, NULL, NULL
            FROM public.campaign_events WHERE tenant_id = _tenant AND at >= _from AND seq > _after
        ) AS found(seq, event) WHERE _wanted = '{}' OR event = ANY(_wanted) ORDER BY seq LIMIT _limit;
    ELSE
        RETURN QUERY SELECT found.* FROM (
            SELECT seq, event_of_run(to_status, reason), run_id, NULL::uuid, at, from_status, attempt, reason, error
            FROM public.run_events
            WHERE tenant_id = _tenant AND transaction >= pg_snapshot_xmin(_since)
                AND NOT pg_visible_in_snapshot(transaction, _since)
                AND pg_visible_in_snapshot(transaction, _until) AND seq > _after
            UNION ALL
            SELECT seq, 'campaign.' || status, run_id, campaign_id, at, NULL, NULL, NULL, NULL
            FROM public.campaign_events
            WHERE tenant_id = _tenant AND transaction >= pg_snapshot_xmin(_since)
                AND NOT pg_visible_in_snapshot(transaction, _since)
                AND pg_visible_in_snapshot(transaction, _until) AND seq > _after
        ) AS found(seq, event) WHERE _wanted = '{}' OR event = ANY(_wanted) ORDER BY seq LIMIT _limit;
    END IF;
END
$$;

CREATE FUNCTION event_of_run(_status text, _reason text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE _reason WHEN 'WAITING' THEN 'run.waiting' ELSE 'run.' || _status END;

-- Makes deliveries of what the endpoint has not read, up to _limit, unless another server is at it; returns whether
-- there may be more. The id of a delivery is made of endpoint and transition, so that neither can have two.
--
-- A snapshot of the future is one of another server, from which the database was restored by a dump: then what came
-- since the endpoint has last read is found by time, with a margin for transactions that were under way.
CREATE FUNCTION read_webhook_events(_tenant text, _id uuid, _limit int) RETURNS TABLE (has_more boolean)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    endpoint public.webhook_endpoints;
    known pg_snapshot;
    present pg_snapshot;
    number int;
    greatest_seq bigint;
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    SELECT * INTO endpoint FROM public.webhook_endpoints
    WHERE tenant_id = _tenant AND id = _id AND NOT is_disabled FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    present := pg_current_snapshot();
    known := endpoint.since;
    IF pg_snapshot_xmax(known) > pg_snapshot_xmax(present) THEN
        known := NULL;
    ELSIF endpoint.until IS NOT NULL THEN
        present := endpoint.until;
    END IF;
    WITH found AS MATERIALIZED (
        SELECT transition, transition.* FROM find_webhook_events(_tenant, endpoint.events, known, present,
            endpoint.read_at - interval '1 minute', endpoint.last, _limit) AS transition
    ), inserted AS (
        INSERT INTO public.webhook_deliveries (tenant_id, endpoint_id, id, seq, event, run_id, campaign_id, payload,
            next_attempt_at, expires_at)
        SELECT _tenant, _id, md5(_id || ' ' || found.seq)::uuid, found.seq, found.event, found.run_id,
            coalesce(found.campaign_id, run.campaign_id),
            webhook_payload(found.transition, run.workflow_name, run.campaign_id),
            public.now_ms(), public.now_ms() + interval '3 days'
        FROM found
        -- LIMIT, or PostgreSQL may read all runs of the tenant for a few transitions.
        LEFT JOIN LATERAL (
            SELECT workflow_name, campaign_id FROM public.runs
            WHERE tenant_id = _tenant AND runs.id = found.run_id LIMIT 1
        ) AS run ON true
        ON CONFLICT (tenant_id, endpoint_id, id) DO NOTHING
    )
    SELECT count(*), max(seq) INTO number, greatest_seq FROM found;
    has_more := number = _limit;
    UPDATE public.webhook_endpoints SET last = CASE WHEN has_more THEN greatest_seq ELSE 0 END,
        since = CASE WHEN has_more THEN endpoint.since ELSE present::text END,
        until = CASE WHEN has_more AND known IS NOT NULL THEN present::text END,
        read_at = CASE WHEN has_more THEN endpoint.read_at ELSE public.now_ms() END
    WHERE tenant_id = _tenant AND id = _id;
    RETURN NEXT;
END
$$;

-- The body of a delivery.
CREATE FUNCTION webhook_payload(_event webhook_event, _workflow text, _campaign uuid) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT json_build_object('type', _event.event, 'timestamp', webhook_time(_event.at), 'data',
        CASE WHEN _event.attempt IS NULL THEN json_build_object('campaignId', _event.campaign_id,
            'status', split_part(_event.event, '.', 2), 'runId', _event.run_id, 'at', webhook_time(_event.at))
        ELSE json_build_object('runId', _event.run_id, 'workflowName', _workflow, 'campaignId', _campaign,
            'fromStatus', _event.from_status, 'status', CASE _event.event WHEN 'run.waiting' THEN 'running'
                ELSE split_part(_event.event, '.', 2) END,
            'attempt', _event.attempt, 'reason', _event.reason, 'errorCode', public.code_of_error(_event.error),
            'at', webhook_time(_event.at)) END)::text
$$;

CREATE FUNCTION webhook_time(_at timestamptz) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN to_char(_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');

-- Up to _limit deliveries to the endpoint that are due, each for this server alone for _lease seconds, with all secrets
-- that sign now, the newest first; those for which three days were too short are dead. Rows that another server has
-- locked are passed over. With clock_timestamp(), which is volatile, the time would be no condition of the index.
CREATE FUNCTION claim_webhook_deliveries(_tenant text, _endpoint uuid, _limit int, _lease float)
RETURNS TABLE (id uuid, attempts int, payload text, url text, secrets bytea[])
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    endpoint record;
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    SELECT * INTO endpoint FROM public.webhook_endpoints WHERE tenant_id = _tenant AND id = _endpoint;
    RETURN QUERY WITH due AS MATERIALIZED (
        SELECT id FROM public.webhook_deliveries
        WHERE tenant_id = _tenant AND endpoint_id = _endpoint AND next_attempt_at <= statement_timestamp()
        ORDER BY next_attempt_at LIMIT _limit FOR UPDATE SKIP LOCKED
    ), claimed AS (
        UPDATE public.webhook_deliveries SET
            status = CASE WHEN expires_at > statement_timestamp() THEN 'pending' ELSE 'dead' END,
            attempts = attempts + (expires_at > statement_timestamp())::int,
            next_attempt_at = CASE WHEN expires_at > statement_timestamp()
                THEN clock_timestamp() + make_interval(secs => _lease) END,
            error = CASE WHEN expires_at > statement_timestamp() THEN error
                ELSE coalesce(error, 'It could not be sent within three days.') END,
            expires_at = CASE WHEN expires_at > statement_timestamp() THEN expires_at
                ELSE statement_timestamp() + interval '30 days' END
        WHERE tenant_id = _tenant AND endpoint_id = _endpoint AND id = ANY(ARRAY(SELECT due.id FROM due))
        RETURNING *
    )
    SELECT id, attempts, payload, endpoint.url, endpoint.secret || ARRAY(
            SELECT old.secret FROM unnest(endpoint.old_secrets, endpoint.old_until) WITH ORDINALITY AS old(secret, until, place)
            WHERE old.until > statement_timestamp() ORDER BY place)
    FROM claimed WHERE status = 'pending' ORDER BY seq;
END
$$;

-- Stores how the attempt _attempt of a delivery has ended, unless another has been begun since: with no _error it is
-- delivered; else it is sent again in _retry_in seconds, or with NULL is dead. _disable says why the endpoint gets
-- nothing any more.
CREATE FUNCTION record_webhook_attempt(_tenant text, _endpoint uuid, _id uuid, _attempt int, _response_status int,
    _error text, _retry_in float, _disable text)
RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    UPDATE public.webhook_deliveries SET attempted_at = public.now_ms(), response_status = _response_status,
        error = _error,
        status = CASE WHEN _error IS NULL THEN 'delivered' WHEN _retry_in IS NULL THEN 'dead' ELSE 'pending' END,
        next_attempt_at = CASE WHEN _error IS NOT NULL
            THEN clock_timestamp() + make_interval(secs => _retry_in) END,
        expires_at = CASE WHEN _error IS NULL THEN clock_timestamp() + interval '7 days'
            WHEN _retry_in IS NULL THEN clock_timestamp() + interval '30 days' ELSE expires_at END
    WHERE tenant_id = _tenant AND endpoint_id = _endpoint AND id = _id AND status = 'pending'
        AND attempts = _attempt;
    IF _disable IS NOT NULL THEN
        UPDATE public.webhook_endpoints SET is_disabled = true, note = _disable, updated_at = public.touch(updated_at)
        WHERE tenant_id = _tenant AND id = _endpoint AND NOT is_disabled;
    END IF;
END
$$;
