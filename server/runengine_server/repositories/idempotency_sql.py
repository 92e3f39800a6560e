"""What makes a call that changes a run act once for each idempotency key, however often it is sent."""

from __future__ import annotations

# What such a function returns: `outcome` is a word of run_repository.Outcome, `answer` the encoded
# response, and `seen_fingerprint` that of the request which the answer was given to.
COLUMNS = """outcome text, answer bytea, seen_fingerprint bytea, current_status text, current_attempt int"""


def once(key: str, fingerprint: str, act: str) -> str:
    """The steps of a function that acts once. `key`, which may be NULL, and `fingerprint` are its
    parameters; `act` sets `outcome` and `answer`, or ends with `refuse`.

    Of fifty calls with one key at the same time one acts. The others wait in the INSERT for its
    commit, and answer what it has stored; or, when it was refused, one of them acts instead.
    """
    return f"""
    WHILE {key} IS NOT NULL LOOP
        INSERT INTO public.idempotency_keys (tenant_id, key, fingerprint) VALUES ($1, {key}, {fingerprint})
        ON CONFLICT (tenant_id, key) DO NOTHING;
        EXIT WHEN FOUND;
        SELECT 'replayed', response, fingerprint INTO outcome, answer, seen_fingerprint
        FROM public.idempotency_keys WHERE tenant_id = $1 AND key = {key};
        -- Not found when it was seven days old, and deleted in between.
        IF FOUND THEN
            RETURN NEXT;
            RETURN;
        END IF;
    END LOOP;
    outcome := 'done';
    {act}
    IF {key} IS NOT NULL THEN
        UPDATE public.idempotency_keys SET response = answer WHERE tenant_id = $1 AND key = {key};
    END IF;
    RETURN NEXT;"""


def refuse(key: str, outcome: str) -> str:
    """Ends the function without having acted. A refusal is not stored: it is judged anew each time."""
    return f"""
        outcome := '{outcome}';
        DELETE FROM public.idempotency_keys WHERE tenant_id = $1 AND key = {key};
        RETURN NEXT;
        RETURN;"""
