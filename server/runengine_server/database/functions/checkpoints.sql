-- The checkpoint of that id, or the current one of the namespace when the id is NULL.
CREATE FUNCTION get_checkpoint(_tenant text, _run uuid, _namespace text, _id text)
RETURNS TABLE (checkpoint_ns text, checkpoint_id text, parent_checkpoint_id text, type text,
    checkpoint bytea, metadata bytea)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    RETURN QUERY SELECT checkpoint_ns, checkpoint_id, parent_checkpoint_id, type,
            with_values(_tenant, _run, false, checkpoint, value_refs), metadata
        FROM public.checkpoints
        WHERE tenant_id = _tenant AND run_id = _run AND checkpoint_ns = _namespace
            AND (_id IS NULL OR checkpoint_id = _id)
        ORDER BY seq DESC LIMIT 1;
END
$$;

-- Checkpoints, newest first; of one namespace unless that is NULL; those before _before unless that is NULL.
CREATE FUNCTION list_checkpoints(_tenant text, _run uuid, _namespace text, _before text)
RETURNS TABLE (checkpoint_ns text, checkpoint_id text, parent_checkpoint_id text, type text,
    checkpoint bytea, metadata bytea)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    RETURN QUERY SELECT checkpoint_ns, checkpoint_id, parent_checkpoint_id, type,
            with_values(_tenant, _run, false, checkpoint, value_refs), metadata
        FROM public.checkpoints
        WHERE tenant_id = _tenant AND run_id = _run AND (_namespace IS NULL OR checkpoint_ns = _namespace)
            AND (_before IS NULL OR seq < (
                SELECT seq FROM public.checkpoints AS until
                WHERE until.tenant_id = _tenant AND until.run_id = _run
                    AND until.checkpoint_ns = checkpoints.checkpoint_ns AND until.checkpoint_id = _before))
        ORDER BY seq DESC;
END
$$;

-- What tasks wrote on top of a checkpoint.
CREATE FUNCTION list_writes(_tenant text, _run uuid, _namespace text, _checkpoint text)
RETURNS TABLE (task_id text, task_path text, channel text, type text, value bytea)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    RETURN QUERY SELECT task_id, task_path, channel, type, value FROM public.checkpoint_writes
        WHERE tenant_id = _tenant AND run_id = _run AND checkpoint_ns = _namespace
            AND checkpoint_id = _checkpoint
        ORDER BY task_path, task_id, idx;
END
$$;

-- Keeps what a retry resumes from: of each namespace the current checkpoint and its writes. A graph with
-- delta channels needs more, because their values are replayed from the writes on all ancestors since a
-- snapshot: a namespace whose current checkpoint counts supersteps since one, in LangGraph's metadata, is
-- kept whole.
CREATE FUNCTION prune_checkpoints_of(_tenant text, _run uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    WITH kept AS (
        SELECT DISTINCT ON (checkpoint_ns) checkpoint_ns, checkpoint_id,
            position('counters_since_delta_snapshot'::bytea IN metadata) > 0 AS replayed
        FROM public.checkpoints WHERE tenant_id = _tenant AND run_id = _run
        ORDER BY checkpoint_ns, seq DESC
    ), pruned_checkpoints AS (
        DELETE FROM public.checkpoints AS stored
        WHERE tenant_id = _tenant AND run_id = _run AND NOT EXISTS (
            SELECT FROM kept WHERE kept.checkpoint_ns = stored.checkpoint_ns
                AND (kept.checkpoint_id = stored.checkpoint_id OR kept.replayed))
    )
    DELETE FROM public.checkpoint_writes AS stored
    WHERE tenant_id = _tenant AND run_id = _run AND NOT EXISTS (
        SELECT FROM kept WHERE kept.checkpoint_ns = stored.checkpoint_ns
            AND (kept.checkpoint_id = stored.checkpoint_id OR kept.replayed));
    PERFORM delete_unused_values(_tenant, _run, '');
END
$$;

CREATE FUNCTION drop_checkpoints_of(_tenant text, _runs uuid[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM public.checkpoints WHERE tenant_id = _tenant AND run_id = ANY(_runs);
    DELETE FROM public.checkpoint_writes WHERE tenant_id = _tenant AND run_id = ANY(_runs);
    DELETE FROM public.run_values WHERE tenant_id = _tenant AND run_id = ANY(_runs) AND NOT of_steps;
END
$$;

CREATE FUNCTION prune_checkpoints(_tenant text, _run uuid, _epoch bigint)
RETURNS TABLE (held int) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    held := hold_lease(_tenant, _run, _epoch);
    IF held IS NOT NULL THEN
        PERFORM prune_checkpoints_of(_tenant, _run);
        RETURN NEXT;
    END IF;
END
$$;

CREATE FUNCTION drop_checkpoints(_tenant text, _run uuid, _epoch bigint)
RETURNS TABLE (held int) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    held := hold_lease(_tenant, _run, _epoch);
    IF held IS NOT NULL THEN
        PERFORM drop_checkpoints_of(_tenant, ARRAY[_run]);
        RETURN NEXT;
    END IF;
END
$$;
