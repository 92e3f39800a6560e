-- Schedules. When they fire is computed by servers, who know cron and time zones; what has fired is decided here.

-- Unless the tenant has as many as it may: then no row.
CREATE FUNCTION create_schedule(_tenant text, _id uuid, _cron text, _zone text, _request bytea, _overlap text,
    _paused boolean, _next timestamptz, _most int)
RETURNS SETOF public.schedules LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    -- No other lock has 7407 as the first of two numbers.
    PERFORM pg_advisory_xact_lock(7407, hashtext(_tenant));
    IF (SELECT count(*) FROM public.schedules WHERE tenant_id = _tenant) < _most THEN
        RETURN QUERY INSERT INTO public.schedules (tenant_id, id, cron, time_zone, request, overlap, is_paused, next_at,
                due_at, created_at, updated_at)
            SELECT _tenant, _id, _cron, _zone, _request, _overlap, _paused, _next, _next, at, at
            FROM public.now_ms() AS at RETURNING *;
    END IF;
END
$$;

-- The schedule, or all of them, the oldest first, with NULL.
CREATE FUNCTION list_schedules(_tenant text, _id uuid) RETURNS SETOF public.schedules
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    IF _id IS NULL THEN
        RETURN QUERY SELECT * FROM public.schedules WHERE tenant_id = _tenant ORDER BY id;
    ELSE
        RETURN QUERY SELECT * FROM public.schedules WHERE tenant_id = _tenant AND id = _id;
    END IF;
END
$$;

-- Changes the schedule that was as at _updated_at; no row when another call has changed it since.
CREATE FUNCTION update_schedule(_tenant text, _id uuid, _updated_at timestamptz, _cron text, _zone text,
    _request bytea, _overlap text, _paused boolean, _next timestamptz)
RETURNS SETOF public.schedules LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    RETURN QUERY UPDATE public.schedules SET cron = _cron, time_zone = _zone, request = _request, overlap = _overlap,
            is_paused = _paused, next_at = _next, due_at = _next, note = NULL, updated_at = public.touch(updated_at)
        WHERE tenant_id = _tenant AND id = _id AND updated_at = _updated_at RETURNING *;
END
$$;

CREATE FUNCTION delete_schedule(_tenant text, _id uuid) RETURNS SETOF public.schedules
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    RETURN QUERY DELETE FROM public.schedules WHERE tenant_id = _tenant AND id = _id RETURNING *;
END
$$;

-- The schedules that are due, of all tenants: the first _limit.
CREATE FUNCTION due_schedules(_limit int) RETURNS TABLE (tenant_id text, id uuid)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('runengine.dispatch', 'on', true);
    RETURN QUERY SELECT tenant_id, id FROM public.schedules WHERE due_at <= statement_timestamp()
        ORDER BY due_at LIMIT _limit;
END
$$;

-- The schedule, where it is due and no other server is at it: it is this server's for _lease seconds.
CREATE FUNCTION claim_schedule(_tenant text, _id uuid, _lease float) RETURNS SETOF public.schedules
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    PERFORM FROM public.schedules
    WHERE tenant_id = _tenant AND id = _id AND due_at <= statement_timestamp() FOR UPDATE SKIP LOCKED;
    IF FOUND THEN
        RETURN QUERY UPDATE public.schedules SET due_at = clock_timestamp() + make_interval(secs => _lease)
            WHERE tenant_id = _tenant AND id = _id RETURNING *;
    END IF;
END
$$;

-- Stores that the schedule has fired at _fired, where its next firing is still _expected: it triggered _run, or
-- nothing where that is NULL, for the reason in _note. It fires next at _next.
CREATE FUNCTION record_firing(_tenant text, _id uuid, _expected timestamptz, _fired timestamptz, _run uuid, _note text,
    _next timestamptz)
RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    UPDATE public.schedules SET last_at = _fired, last_run_id = coalesce(_run, last_run_id), note = _note,
        next_at = _next, due_at = _next
    WHERE tenant_id = _tenant AND id = _id AND next_at = _expected;
END
$$;

-- Has the firing wait for _seconds, for the reason in _note.
CREATE FUNCTION postpone_firing(_tenant text, _id uuid, _expected timestamptz, _seconds float, _note text)
RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    UPDATE public.schedules SET due_at = clock_timestamp() + make_interval(secs => _seconds), note = _note
    WHERE tenant_id = _tenant AND id = _id AND next_at = _expected;
END
$$;
