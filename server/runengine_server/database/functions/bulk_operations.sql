-- Operations on many runs of a tenant. The runs are stored with the operation, in the order in which it comes to
-- them: those up to `processed` are decided, the others are not.

-- Claims the idempotency key, and stores an operation that does not run yet. An outcome that is not NULL is the end
-- of the call; of one that is replayed `id` is that of the first call.
CREATE FUNCTION create_bulk_operation(_tenant text, _id uuid, _action text, _filter bytea, _reason text, _pace int,
    _actor text, _trace text, _key text, _fingerprint bytea)
RETURNS TABLE (outcome text, id uuid) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    claimed mutation_result;
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    claimed := claim_idempotency_key(_tenant, _key, _fingerprint);
    IF claimed.outcome IS NOT NULL THEN
        RETURN QUERY SELECT claimed.outcome,
            CASE WHEN claimed.outcome = 'replayed' THEN encode(claimed.response, 'hex')::uuid END;
        RETURN;
    END IF;
    INSERT INTO public.bulk_operations (tenant_id, id, action, filter, reason, pace, actor, trace_id)
    VALUES (_tenant, _id, _action, _filter, _reason, _pace, _actor, _trace);
    PERFORM store_response(_tenant, _key, uuid_send(_id));
    RETURN QUERY SELECT NULL::text, _id;
END
$$;

-- The runs of an operation, where they were named one by one.
CREATE FUNCTION store_bulk_operation_items(_tenant text, _id uuid, _runs uuid[]) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    INSERT INTO public.bulk_operation_items (tenant_id, operation_id, place, run_id)
    SELECT _tenant, _id, place, run_id FROM unnest(_runs) WITH ORDINALITY AS named(run_id, place);
END
$$;

-- Lets an operation run whose runs are stored; without one it has ended.
CREATE FUNCTION start_bulk_operation(_tenant text, _id uuid) RETURNS SETOF public.bulk_operations
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    stored int;
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    SELECT coalesce(max(place), 0) INTO stored FROM public.bulk_operation_items
    WHERE tenant_id = _tenant AND operation_id = _id;
    RETURN QUERY UPDATE public.bulk_operations SET matched = stored,
            status = CASE WHEN stored = 0 THEN 'completed' ELSE 'running' END,
            ended_at = CASE WHEN stored = 0 THEN created_at END
        WHERE tenant_id = _tenant AND id = _id RETURNING *;
END
$$;

-- How many of these runs are in each status; that of those which are not there is NULL.
CREATE FUNCTION count_runs_by_status(_tenant text, _runs uuid[]) RETURNS TABLE (status text, number bigint)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    RETURN QUERY SELECT found.status, count(*) FROM (
            SELECT (SELECT status FROM public.runs WHERE tenant_id = _tenant AND id = run_id) AS status
            FROM unnest(_runs) AS named(run_id)
        ) AS found GROUP BY found.status;
END
$$;

CREATE FUNCTION get_bulk_operation(_tenant text, _id uuid) RETURNS SETOF public.bulk_operations
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    RETURN QUERY SELECT * FROM public.bulk_operations WHERE tenant_id = _tenant AND id = _id;
END
$$;

-- Up to _limit operations, most recent first, before the one of _before, or all with NULL: their ids are UUIDv7.
CREATE FUNCTION list_bulk_operations(_tenant text, _before uuid, _limit int) RETURNS SETOF public.bulk_operations
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    -- Not within the query, where it would be no condition of the index under row-level security.
    _before := coalesce(_before, 'ffffffff-ffff-ffff-ffff-ffffffffffff');
    RETURN QUERY SELECT * FROM public.bulk_operations WHERE tenant_id = _tenant AND id < _before
        ORDER BY id DESC LIMIT _limit;
END
$$;

-- Up to _limit runs of an operation after the place _after, of those outcomes; one that it has not come to is
-- 'pending', or 'aborted' when it never will. Each outcome comes in order from an index, and they are merged.
CREATE FUNCTION list_bulk_operation_items(_tenant text, _id uuid, _outcomes text[], _after int, _limit int)
RETURNS TABLE (place int, run_id uuid, outcome text, reason text, at timestamptz)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    undecided text;
    processed int;
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    SELECT CASE status WHEN 'aborted' THEN 'aborted' ELSE 'pending' END, operation.processed
    INTO undecided, processed
    FROM public.bulk_operations AS operation WHERE tenant_id = _tenant AND id = _id;
    RETURN QUERY SELECT * FROM (
        SELECT * FROM bulk_operation_items_in('done', _outcomes, _tenant, _id, _after, _limit)
        UNION ALL SELECT * FROM bulk_operation_items_in('refused', _outcomes, _tenant, _id, _after, _limit)
        UNION ALL (
            SELECT item.place, item.run_id, undecided, item.reason, item.at
            FROM public.bulk_operation_items AS item
            WHERE tenant_id = _tenant AND operation_id = _id AND undecided = ANY(_outcomes)
                AND item.place > greatest(processed, _after)
            ORDER BY item.place LIMIT _limit)
    ) AS merged ORDER BY place LIMIT _limit;
END
$$;

-- The decided runs of an operation with one outcome, none unless that is among `_outcomes`.
CREATE FUNCTION bulk_operation_items_in(_outcome text, _outcomes text[], _tenant text, _id uuid, _after int,
    _limit int)
RETURNS TABLE (place int, run_id uuid, outcome text, reason text, at timestamptz) LANGUAGE sql STABLE AS $$
    SELECT place, run_id, outcome, reason, at FROM public.bulk_operation_items
    WHERE tenant_id = _tenant AND operation_id = _id AND outcome = _outcome AND _outcome = ANY(_outcomes)
        AND place > _after
    ORDER BY place LIMIT _limit
$$;

-- running -> aborted: it waits for the batch that is under way. Returns the operation as it is then.
CREATE FUNCTION abort_bulk_operation(_tenant text, _id uuid) RETURNS SETOF public.bulk_operations
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    UPDATE public.bulk_operations SET status = 'aborted', ended_at = public.now_ms(), is_over_quota = false
    WHERE tenant_id = _tenant AND id = _id AND status = 'running';
    RETURN QUERY SELECT * FROM public.bulk_operations WHERE tenant_id = _tenant AND id = _id;
END
$$;

-- The operations that run, of all tenants, with the seconds until the next batch of each is due: the first _limit.
-- None waits longer than a second, so one that is due much later was last run before the clock went back.
CREATE FUNCTION running_bulk_operations(_limit int) RETURNS TABLE (tenant_id text, id uuid, due_in float)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('runengine.dispatch', 'on', true);
    UPDATE public.bulk_operations SET next_batch_at = statement_timestamp()
    WHERE status = 'running' AND created_at < 'infinity'
        AND next_batch_at > statement_timestamp() + interval '10 s';
    RETURN QUERY SELECT tenant_id, id, extract(epoch FROM next_batch_at - clock_timestamp())::float
        FROM public.bulk_operations WHERE status = 'running' AND created_at < 'infinity'
        ORDER BY next_batch_at LIMIT _limit;
END
$$;

-- Retries or cancels the next runs of an operation, up to _limit and what it may in half a second, and stores what became of each and the counts: in
-- one transaction, so that each run is decided once, whatever happens to the server. `_refusals` has of each action
-- a reason for each status that does not allow it, and under '' the one for a run that is not there. No row while another server
-- is at it, when it is not due, and once it has ended. `queued`: a run may be due; `cancelled`: id and attempt of
-- each run that a worker held.
--
-- The locks, in the order of other functions: those of the threads, the rows of the runs, which record_progress
-- too locks in the order of their ids, that of the quota, and last the counts of campaigns. Who has to wait longer
-- than a second for one fails, so that those locked meanwhile are soon free again, and the batch comes again.
CREATE FUNCTION run_bulk_batch(_tenant text, _id uuid, _limit int, _queued_limit int, _refusals jsonb)
RETURNS TABLE (decided int, queued boolean, cancelled text[])
LANGUAGE plpgsql SET search_path FROM CURRENT SET lock_timeout = '1s' AS $$
#variable_conflict use_column
DECLARE
    operation public.bulk_operations;
    begun_at timestamptz := clock_timestamp();
    item record;
    ids uuid[];
    moved uuid[] := '{}';
    sources text[] := '{}';
    reasons text[] := '{}';
    refusal text;
    capacity int;
    is_full boolean := false;
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    SELECT * INTO operation FROM public.bulk_operations
    WHERE tenant_id = _tenant AND id = _id AND status = 'running' AND next_batch_at <= clock_timestamp()
    FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    _limit := least(_limit, greatest(1, operation.pace / 2));
    SELECT array_agg(run_id) INTO ids FROM public.bulk_operation_items
    WHERE tenant_id = _tenant AND operation_id = _id
        AND place > operation.processed AND place <= operation.processed + _limit;
    PERFORM lock_thread(_tenant, thread.workflow_name, thread.thread_id) FROM (
        SELECT DISTINCT workflow_name, thread_id FROM public.runs
        WHERE tenant_id = _tenant AND id = ANY(ids) AND thread_id IS NOT NULL ORDER BY workflow_name, thread_id
    ) AS thread;
    PERFORM FROM public.runs WHERE tenant_id = _tenant AND id = ANY(ids) ORDER BY id FOR UPDATE;
    IF operation.action = 'retry' THEN
        capacity := queue_capacity(_tenant, _queued_limit, _limit);
    END IF;
    queued := false;
    cancelled := '{}';
    FOR item IN
        SELECT run_id, run.status, run.attempt, run.thread_id IS NOT NULL AS is_of_thread
        FROM public.bulk_operation_items LEFT JOIN LATERAL (
            -- With a limit, because PostgreSQL would otherwise read all runs of the tenant for a hash join.
            SELECT status, attempt, thread_id FROM public.runs WHERE tenant_id = _tenant AND id = run_id LIMIT 1
        ) AS run ON true
        WHERE tenant_id = _tenant AND operation_id = _id
            AND place > operation.processed AND place <= operation.processed + _limit
        ORDER BY place
    LOOP
        refusal := _refusals -> operation.action ->> coalesce(item.status, '');
        IF refusal IS NULL AND operation.action = 'retry' THEN
            is_full := capacity = 0;
            EXIT WHEN is_full;
            capacity := capacity - 1;
            PERFORM make_queued(_tenant, item.run_id, item.status, operation.actor, operation.trace_id,
                item.is_of_thread, _id);
            queued := true;
        ELSIF refusal IS NULL AND item.status <> 'cancelled' THEN
            PERFORM make_cancelled(_tenant, item.run_id, item.status, operation.actor, operation.trace_id,
                item.is_of_thread, _id);
            queued := queued OR item.is_of_thread;
            IF item.status = 'running' THEN
                cancelled := cancelled || format('%s %s', item.run_id, item.attempt);
            END IF;
        END IF;
        IF refusal IS NULL THEN
            moved := moved || item.run_id;
            sources := sources || item.status;
        END IF;
        reasons := array_append(reasons, refusal);
    END LOOP;
    decided := cardinality(reasons);
    UPDATE public.bulk_operation_items SET at = public.now_ms(), reason = reasons[place - operation.processed],
        outcome = CASE WHEN reasons[place - operation.processed] IS NULL THEN 'done' ELSE 'refused' END
    WHERE tenant_id = _tenant AND operation_id = _id
        AND place > operation.processed AND place <= operation.processed + decided;
    UPDATE public.bulk_operations AS stored SET processed = stored.processed + decided,
        done = stored.done + cardinality(moved), is_over_quota = is_full,
        refused = (
            SELECT coalesce(jsonb_object_agg(reason, number), '{}') FROM (
                SELECT reason, sum(number) AS number FROM (
                    SELECT key AS reason, value::int AS number FROM jsonb_each_text(operation.refused)
                    UNION ALL SELECT reason, 1 FROM unnest(reasons) AS reason WHERE reason IS NOT NULL
                ) AS each GROUP BY reason
            ) AS total),
        next_batch_at = begun_at + make_interval(secs =>
            CASE WHEN is_full THEN 1 ELSE decided::float / stored.pace END),
        status = CASE WHEN stored.processed + decided = stored.matched THEN 'completed' ELSE 'running' END,
        ended_at = CASE WHEN stored.processed + decided = stored.matched THEN public.now_ms() END
    WHERE tenant_id = _tenant AND id = _id;
    PERFORM count_transitions(_tenant, moved, sources,
        CASE operation.action WHEN 'retry' THEN 'queued' ELSE 'cancelled' END);
    RETURN NEXT;
END
$$;

-- As run_bulk_batch with one run. One that PostgreSQL refuses to move, because of a constraint or of what is stored
-- of it, would be refused in every batch and hold up all runs after it: it is decided as refused for `_reason`.
-- `left_out` is that run, and `code` what PostgreSQL has said.
CREATE FUNCTION run_bulk_item(_tenant text, _id uuid, _queued_limit int, _refusals jsonb, _reason text)
RETURNS TABLE (decided int, queued boolean, cancelled text[], left_out uuid, code text)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    here int;
BEGIN
    PERFORM set_config('runengine.tenant', _tenant, true);
    -- Locked out here, so that no other server comes to the run after this one when its transition is rolled back.
    PERFORM FROM public.bulk_operations WHERE tenant_id = _tenant AND id = _id FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    BEGIN
        SELECT batch.decided, batch.queued, batch.cancelled INTO decided, queued, cancelled
        FROM run_bulk_batch(_tenant, _id, 1, _queued_limit, _refusals) AS batch;
    EXCEPTION WHEN data_exception OR integrity_constraint_violation OR program_limit_exceeded THEN
        code := SQLSTATE;
        decided := 1;
        queued := false;
        cancelled := '{}';
        UPDATE public.bulk_operations SET processed = processed + 1,
            refused = refused || jsonb_build_object(_reason, coalesce((refused ->> _reason)::int, 0) + 1),
            next_batch_at = clock_timestamp() + make_interval(secs => 1.0 / pace), is_over_quota = false,
            status = CASE WHEN processed + 1 = matched THEN 'completed' ELSE 'running' END,
            ended_at = CASE WHEN processed + 1 = matched THEN public.now_ms() END
        WHERE tenant_id = _tenant AND id = _id RETURNING processed INTO here;
        UPDATE public.bulk_operation_items SET at = public.now_ms(), outcome = 'refused', reason = _reason
        WHERE tenant_id = _tenant AND operation_id = _id AND place = here RETURNING run_id INTO left_out;
    END;
    IF decided IS NOT NULL THEN
        RETURN NEXT;
    END IF;
END
$$;
