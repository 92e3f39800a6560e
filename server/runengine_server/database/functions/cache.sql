-- The cached result of a step for that key, unless it has expired.
CREATE FUNCTION get_cached(_tenant text, _workflow text, _step text, _key bytea)
RETURNS TABLE (type text, value bytea) LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    RETURN QUERY SELECT type, value FROM public.step_cache
        WHERE tenant_id = _tenant AND workflow_name = _workflow AND step_id = _step AND key = _key
            AND (expires_at IS NULL OR expires_at > clock_timestamp());
END
$$;

-- Caches the result of a step of a run that is held, for _seconds, or for ever when that is NULL.
CREATE FUNCTION save_cached(_tenant text, _run uuid, _epoch bigint, _workflow text, _step text, _key bytea,
    _type text, _value bytea, _seconds float)
RETURNS TABLE (held int) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    held := hold_lease(_tenant, _run, _epoch);
    IF held IS NULL THEN
        RETURN;
    END IF;
    INSERT INTO public.step_cache (tenant_id, workflow_name, step_id, key, type, value, expires_at)
    VALUES (_tenant, _workflow, _step, _key, _type, _value,
        clock_timestamp() + make_interval(secs => _seconds))
    ON CONFLICT (tenant_id, workflow_name, step_id, key) DO UPDATE
        SET type = excluded.type, value = excluded.value, expires_at = excluded.expires_at;
    RETURN NEXT;
END
$$;
