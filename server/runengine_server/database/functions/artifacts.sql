CREATE FUNCTION get_artifact(_tenant text, _id uuid)
RETURNS TABLE (id uuid, name text, media_type text, size bigint, key text)
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    RETURN QUERY SELECT id, name, media_type, size, key FROM public.artifacts
        WHERE tenant_id = _tenant AND id = _id;
END
$$;

-- Whether a run of the tenant has saved it.
CREATE FUNCTION has_artifact(_tenant text, _id uuid) RETURNS TABLE (found boolean)
LANGUAGE plpgsql STABLE AS $$
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    RETURN QUERY SELECT EXISTS (SELECT FROM public.artifacts WHERE tenant_id = _tenant AND id = _id);
END
$$;
