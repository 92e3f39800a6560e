-- What a call that changes a run returns. `outcome` is a word of Outcome in run_repository.py; `response` is an
-- encoded message with the run in field 1; `status` and `attempt` are those that the run had before the call;
-- `has_campaign` says of a run that was triggered whether its campaign is there, if that was asked; `is_of_thread`
-- of one that was cancelled whether it is of a thread, whose next run may be due now.
CREATE TYPE mutation_result AS (
    outcome text, response bytea, status text, attempt int, has_campaign boolean, is_of_thread boolean
);

-- Makes a call take effect once for each key, however often it is sent. Of fifty calls with one key at the
-- same time one gets an outcome of NULL, and goes on. The others wait in the INSERT for its commit, and
-- return what it has stored; or, when it was refused, one of them goes on instead. No key, no wait.
CREATE FUNCTION claim_idempotency_key(_tenant text, _key text, _fingerprint bytea)
RETURNS mutation_result LANGUAGE plpgsql AS $$
DECLARE
    result mutation_result;
BEGIN
    WHILE _key IS NOT NULL LOOP
        INSERT INTO public.idempotency_keys (tenant_id, key, fingerprint)
        VALUES (_tenant, _key, _fingerprint)
        ON CONFLICT (tenant_id, key) DO NOTHING;
        EXIT WHEN FOUND;
        SELECT CASE WHEN fingerprint = _fingerprint THEN 'replayed' ELSE 'key reused' END, response
        INTO result.outcome, result.response
        FROM public.idempotency_keys WHERE tenant_id = _tenant AND key = _key;
        -- Not found when it was seven days old, and deleted in between.
        EXIT WHEN FOUND;
    END LOOP;
    RETURN result;
END
$$;

-- Stores the response for whoever sends the key again.
CREATE FUNCTION store_response(_tenant text, _key text, _response bytea) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF _key IS NOT NULL THEN
        UPDATE public.idempotency_keys SET response = _response WHERE tenant_id = _tenant AND key = _key;
    END IF;
END
$$;

-- Nothing is kept of a refused call: when it is sent again, it is checked again.
CREATE FUNCTION release_idempotency_key(_tenant text, _key text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF _key IS NOT NULL THEN
        DELETE FROM public.idempotency_keys WHERE tenant_id = _tenant AND key = _key;
    END IF;
END
$$;
