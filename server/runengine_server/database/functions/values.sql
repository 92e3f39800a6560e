-- A large value of a run, such as a document in its state, is in each of its checkpoints and in the input of each of
-- its steps. It is cut out of their bytes and stored once, in run_values. Where, and which, say 20 bytes for each, in
-- order: how many of the remaining bytes come before it, as int4send has it, and its hash.

-- The bytes with their values. Raises an error where one is missing.
CREATE FUNCTION with_values(_tenant text, _run uuid, _of_steps boolean, _rest bytea, _refs bytea) RETURNS bytea
LANGUAGE plpgsql STABLE AS $$
DECLARE
    head bytea;
    last_place int;
    found bigint;
BEGIN
    IF _refs IS NULL THEN
        RETURN _rest;
    END IF;
    SELECT string_agg(substring(_rest FROM before + 1 FOR place - before) || stored.value, ''::bytea ORDER BY number),
        max(place), count(stored.value)
    INTO head, last_place, found
    FROM (
        SELECT number, place, hash, lag(place, 1, 0) OVER (ORDER BY number) AS before
        FROM (
            SELECT number, substring(_refs FROM 20 * number + 5 FOR 16) AS hash,
                ('x' || encode(substring(_refs FROM 20 * number + 1 FOR 4), 'hex'))::bit(32)::int AS place
            FROM generate_series(0, octet_length(_refs) / 20 - 1) AS number
        ) AS ref
    ) AS cut
    LEFT JOIN LATERAL (
        SELECT value FROM public.run_values
        WHERE tenant_id = _tenant AND run_id = _run AND of_steps = _of_steps AND run_values.hash = cut.hash LIMIT 1
    ) AS stored ON true;
    IF found < octet_length(_refs) / 20 THEN
        RAISE 'a value of the run % is missing', _run USING ERRCODE = 'data_exception';
    END IF;
    RETURN head || substring(_rest FROM last_place + 1);
END
$$;

-- Deletes the values of a run's checkpoints that none of them has any more, but for those whose hashes are in _kept.
-- Of thousands of values and checkpoints none is compared with each other one, whatever the planner expects.
CREATE FUNCTION delete_unused_values(_tenant text, _run uuid, _kept bytea) RETURNS void LANGUAGE plpgsql
SET enable_nestloop = off AS $$
BEGIN
    DELETE FROM public.run_values AS stored
    WHERE tenant_id = _tenant AND run_id = _run AND NOT of_steps AND NOT EXISTS (
        SELECT FROM (
            SELECT substring(_kept FROM 16 * generate_series(0, octet_length(_kept) / 16 - 1) + 1 FOR 16) AS hash
            UNION ALL
            SELECT substring(refs FROM 20 * generate_series(0, octet_length(refs) / 20 - 1) + 5 FOR 16)
            FROM (
                SELECT value_refs || ''::bytea AS refs FROM public.checkpoints
                WHERE tenant_id = _tenant AND run_id = _run AND value_refs IS NOT NULL OFFSET 0
            ) AS referring
        ) AS used WHERE used.hash = stored.hash);
END
$$;
