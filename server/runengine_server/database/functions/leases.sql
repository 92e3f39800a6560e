-- The leases of workers, and how they end. heartbeat, in queue.sql, renews them.

CREATE FUNCTION renew_lease(_worker_id uuid, _lease float) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    -- A HOT update: 70 bytes of the write-ahead log.
    UPDATE public.worker_leases SET expires_at = clock_timestamp() + make_interval(secs => _lease),
        lease_seconds = _lease
    WHERE worker_id = _worker_id;
    IF NOT FOUND THEN
        INSERT INTO public.worker_leases (worker_id, expires_at, lease_seconds)
        VALUES (_worker_id, clock_timestamp() + make_interval(secs => _lease), _lease)
        ON CONFLICT (worker_id) DO UPDATE
            SET expires_at = excluded.expires_at, lease_seconds = excluded.lease_seconds;
    END IF;
END
$$;

-- How many seconds the worker's lease has left, for what is claimed; NULL when that is less than half of it, and it has
-- to be renewed. Where heartbeats come in time a claim so writes a lock alone, until it commits: the row could otherwise
-- be deleted meanwhile, because nobody sees the claimed runs yet, and these would have a lease without an end if the
-- worker died then. FOR KEY SHARE lets heartbeats through.
CREATE FUNCTION keep_lease(_worker_id uuid, _lease float) RETURNS float LANGUAGE plpgsql AS $$
DECLARE
    seconds_left float;
BEGIN
    SELECT least(_lease, extract(epoch FROM expires_at - clock_timestamp())) INTO seconds_left
    FROM public.worker_leases
    WHERE worker_id = _worker_id AND expires_at > clock_timestamp() + make_interval(secs => _lease / 2)
    FOR KEY SHARE;
    RETURN seconds_left;
END
$$;

CREATE FUNCTION keep_or_renew_lease(_worker_id uuid, _lease float) RETURNS float LANGUAGE plpgsql AS $$
DECLARE
    seconds_left float := keep_lease(_worker_id, _lease);
BEGIN
    IF seconds_left IS NULL THEN
        PERFORM renew_lease(_worker_id, _lease);
    END IF;
    RETURN coalesce(seconds_left, _lease);
END
$$;

-- The runs of a worker whose lease has ended get leases of their own, which have ended too: so that claim_expired,
-- also that of the version before, finds them by an index. The worker's row stays locked meanwhile: a heartbeat
-- comes wholly before this, and then the lease has not ended; or wholly after, and then it finds the runs with
-- leases of their own, or of another epoch. Without that lock it could say that a run is still held which is taken
-- over at the same moment. The table has a row a worker, and is read whole.
CREATE FUNCTION end_leases_of_lost_workers() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    lease record;
BEGIN
    FOR lease IN
        SELECT worker_id, expires_at FROM public.worker_leases
        WHERE expires_at NOT BETWEEN statement_timestamp()
            AND statement_timestamp() + make_interval(secs => lease_seconds + 1)
        FOR UPDATE SKIP LOCKED
    LOOP
        IF lease.expires_at > statement_timestamp() THEN
            -- Given before the clock went back.
            UPDATE public.worker_leases SET expires_at = clock_timestamp() + make_interval(secs => lease_seconds)
            WHERE worker_id = lease.worker_id;
            CONTINUE;
        END IF;
        UPDATE public.runs SET lease_expires_at = lease.expires_at
        FROM (
            SELECT tenant_id, id FROM public.runs
            WHERE lease_expires_at = 'infinity' AND worker_id = lease.worker_id
            LIMIT 100 FOR NO KEY UPDATE SKIP LOCKED
        ) AS held
        WHERE runs.tenant_id = held.tenant_id AND runs.id = held.id;
        DELETE FROM public.worker_leases WHERE worker_id = lease.worker_id AND NOT EXISTS (
            SELECT FROM public.runs WHERE lease_expires_at = 'infinity' AND worker_id = lease.worker_id);
    END LOOP;
END
$$;

-- A lease that ends later than its own length from now was given before the clock went back. It is given
-- anew, and a worker that lives renews it in time. The index serves the condition on _lease; the other
-- one alone would be checked for everything that is running. With a limit of 1,000 PostgreSQL expects so
-- many that, for one ANALYZE of six, it reads all that is running instead (28,597 rows for none).
CREATE FUNCTION renew_leases_ahead(_lease float) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE public.runs SET lease_expires_at = clock_timestamp() + make_interval(secs => lease_seconds)
    FROM (
        SELECT tenant_id, id FROM public.runs
        WHERE status = 'running' AND lease_expires_at < 'infinity'
            AND lease_expires_at > statement_timestamp() + make_interval(secs => _lease + 1)
            AND lease_expires_at > statement_timestamp() + make_interval(secs => lease_seconds + 1)
        ORDER BY lease_expires_at LIMIT 100 FOR NO KEY UPDATE SKIP LOCKED
    ) AS ahead
    WHERE runs.tenant_id = ahead.tenant_id AND runs.id = ahead.id;
END
$$;
