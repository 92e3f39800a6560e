CREATE FUNCTION get_artifact(_tenant text, _id uuid)
RETURNS TABLE (id uuid, name text, media_type text, size bigint, key text)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    RETURN QUERY SELECT id, name, media_type, size, key FROM public.artifacts
        WHERE tenant_id = _tenant AND id = _id;
END
$$;

-- Up to _limit artifacts of a run, those after _after, in the order of their ids, which is that in which they were
-- saved. LEFT JOIN: a run without artifacts is one row, a run that is not there is none.
CREATE FUNCTION list_run_artifacts(_tenant text, _run uuid, _after uuid, _limit int)
RETURNS TABLE (id uuid, name text, media_type text, size bigint, key text, created_at timestamptz)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    RETURN QUERY SELECT saved.* FROM public.runs LEFT JOIN LATERAL (
            SELECT id, name, media_type, size, key, created_at FROM public.artifacts
            WHERE tenant_id = _tenant AND run_id = _run AND id > _after ORDER BY id LIMIT _limit
        ) AS saved ON true
        WHERE runs.tenant_id = _tenant AND runs.id = _run ORDER BY saved.id;
END
$$;

-- Which of these artifacts of the tenant's runs have no row. Leaves out those of a run that is not here: they belong
-- to another database. Two scalar subqueries and no EXISTS, of which PostgreSQL may make a join that reads all of
-- a tenant's runs.
CREATE FUNCTION artifacts_without_row(_tenant text, _runs uuid[], _ids uuid[])
RETURNS TABLE (run_id uuid, id uuid)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    RETURN QUERY SELECT stored.run_id, stored.id FROM unnest(_runs, _ids) AS stored(run_id, id)
        WHERE (SELECT true FROM public.runs WHERE tenant_id = _tenant AND runs.id = stored.run_id)
            AND (SELECT true FROM public.artifacts
                WHERE tenant_id = _tenant AND artifacts.id = stored.id) IS NULL;
END
$$;

-- Whether a run of the tenant has saved it.
CREATE FUNCTION has_artifact(_tenant text, _id uuid) RETURNS TABLE (found boolean)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    RETURN QUERY SELECT EXISTS (SELECT FROM public.artifacts WHERE tenant_id = _tenant AND id = _id);
END
$$;
