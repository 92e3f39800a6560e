"""What a worker asks of all tenants together: which runs to take, and to keep."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import asyncpg

from runengine_server.domain.encoded_run import decode_input
from runengine_server.domain.run import SUSPECT_LOSSES, ClaimedRun, RunStatus
from runengine_server.repositories.database import Database, DispatchLine
from runengine_server.repositories.driver_errors import translate_driver_errors
from runengine_server.repositories.functions import Function
from runengine_server.repositories.transition_sql import (
    CANCELLED,
    ENDED,
    HANDED_BACK,
    QUEUED,
    counted,
    logged,
)
from runengine_server.repositories.workflow_repository import FORGET_WORKERS, WorkflowRepository

_NAMES = """tenant_id, id, epoch, workflow_name, attempt, losses, hand_backs, campaign_id, encoded_input,
    running_seconds"""
_COLUMNS = """tenant_id text, id uuid, epoch bigint, workflow_name text, attempt int, losses int,
    hand_backs int, campaign_id uuid, encoded_input bytea, running_seconds float, served_last text"""

_CLAIMED = """runs.tenant_id, runs.id, runs.epoch, runs.workflow_name, runs.attempt, runs.losses,
    runs.hand_backs, runs.campaign_id, runs.encoded_input,
    greatest(0, extract(epoch FROM clock_timestamp() - runs.started_at))::float AS running_seconds"""

# A lease, of so many seconds from now; how long it is stays beside its end.
_LEASED = "lease_seconds = {0}, lease_expires_at = clock_timestamp() + make_interval(secs => {0})"

# Tenants are served in turn: those after the one served last ($5), in the order of their ids, then from
# the start; a tenant that has as many running as it may ($6) is passed over. `places` counts those that
# have room. Each step is one descent of runs_queued, so the price is that of the batch, however many
# are queued; the priority in its order keeps PostgreSQL from the primary key, where completed runs lie
# between. Each tenant gets an equal share of the batch, in the order of its priorities.
# queued -> running. Two functions for the two ways to claim, each on its partial index: one
# statement with OR uses neither index (105 against 3,900 claims/s).
# $1 workflows, $2 how many, $3 lease in seconds, $4 the worker.
_CLAIM_QUEUED = Function(
    "claim_queued",
    "text[], int, float, text, text, int",
    _COLUMNS,
    f"""
    -- With a limit of what runs, no two workers may look at the same time how many do.
    IF $6 IS NOT NULL THEN PERFORM pg_advisory_xact_lock(7405113218); END IF;
    WITH RECURSIVE turn AS (
        SELECT $5::text AS tenant_id, false AS again, 0::bigint AS room, 0 AS places, 0 AS step
        UNION ALL
        SELECT next.tenant_id, next.again, next.room, places + (next.room > 0)::int, step + 1
        FROM turn CROSS JOIN LATERAL (
            SELECT found.*, CASE WHEN $6::int IS NULL THEN $2 ELSE $6 - (SELECT count(*) FROM (
                SELECT FROM public.runs WHERE runs.tenant_id = found.tenant_id AND status = 'running' LIMIT $6
            ) AS running) END AS room
            FROM (
                (SELECT tenant_id, turn.again FROM public.runs
                WHERE status = 'queued' AND workflow_name = ANY($1) AND tenant_id > turn.tenant_id
                ORDER BY tenant_id, priority DESC LIMIT 1)
                UNION ALL
                (SELECT tenant_id, true FROM public.runs
                WHERE status = 'queued' AND workflow_name = ANY($1) AND NOT turn.again
                ORDER BY tenant_id, priority DESC LIMIT 1)
                LIMIT 1
            ) AS found
        ) AS next
        WHERE places < $2 AND NOT (next.again AND next.tenant_id > $5)
    ), due AS (
        SELECT run.tenant_id, run.id FROM turn CROSS JOIN LATERAL (
            SELECT tenant_id, id FROM public.runs
            WHERE runs.tenant_id = turn.tenant_id AND status = 'queued' AND workflow_name = ANY($1)
            ORDER BY priority DESC, queued_at, id
            LIMIT least(turn.room, greatest(1, $2 / (SELECT max(places) FROM turn))) FOR UPDATE SKIP LOCKED
        ) AS run WHERE turn.room > 0
    )
    SELECT array_agg(tenant_id), array_agg(id), (SELECT tenant_id FROM turn ORDER BY step DESC LIMIT 1)
        INTO tenant_ids, ids, last_of_turn FROM due;

    -- By way of arrays, which PostgreSQL takes for short: else it reads all that is queued to update ten.
    RETURN QUERY WITH claimed AS (
        UPDATE public.runs SET status = 'running', epoch = epoch + 1, started_at = public.now_ms(),
            handed_back = false, {_LEASED.format("$3")},
            updated_at = public.touch(updated_at)
        FROM unnest(tenant_ids, ids) AS due(tenant_id, id)
        WHERE runs.tenant_id = due.tenant_id AND runs.id = due.id
        RETURNING {_CLAIMED}, runs.updated_at, runs.error, runs.trace_id
    ), {logged("claimed", RunStatus.QUEUED, RunStatus.RUNNING, actor="$4", reason="'CLAIMED'")},
    {counted("claimed", RunStatus.QUEUED, RunStatus.RUNNING)}
    SELECT {_NAMES}, last_of_turn FROM claimed;""",
    steps=True,
    dispatch=True,
    variables="tenant_ids text[]; ids uuid[]; last_of_turn text;",
)

# A worker that stopped in good order handed the run back, which is no loss.
_LOSS = "(lease_expires_at > '-infinity' AND NOT handed_back)::int"

# running -> running under another worker. statement_timestamp(), because clock_timestamp() is volatile
# and no index condition: 5.9 ms instead of 0.01 ms with 50,000 running runs.
# What has been lost twice may be what kills its workers, and takes everything that runs beside
# it with it. So a worker has one such run at a time ($5 is how many it may take now), those that
# were lost least often first: the others get through, and the culprit is left alone with its losses.
# $1 workflows, $2 how many, $3 lease in seconds, $4 the worker.
_CLAIM_EXPIRED = Function(
    "claim_expired",
    "text[], int, float, text, int",
    _COLUMNS,
    f"""
    -- A lease cannot end later than it is long, unless the clock has gone back: it is given anew, and a
    -- worker that lives renews it in time. What is no longer than $3 the index finds; by itself the other
    -- condition would be asked of all that is running.
    UPDATE public.runs SET {_LEASED.format("lease_seconds")}
    FROM (
        SELECT tenant_id, id FROM public.runs
        WHERE status = 'running' AND lease_expires_at > statement_timestamp() + make_interval(secs => $3 + 1)
            AND lease_expires_at > statement_timestamp() + make_interval(secs => lease_seconds + 1)
        ORDER BY lease_expires_at LIMIT 1000 FOR NO KEY UPDATE SKIP LOCKED
    ) AS ahead
    WHERE runs.tenant_id = ahead.tenant_id AND runs.id = ahead.id;

    SELECT array_agg(tenant_id), array_agg(id), array_agg(loss) INTO tenant_ids, ids, losses_now FROM (
        SELECT * FROM (
            SELECT tenant_id, id, {_LOSS} AS loss FROM public.runs
            WHERE status = 'running' AND lease_expires_at < statement_timestamp()
                AND workflow_name = ANY($1)
                AND losses + {_LOSS} < {SUSPECT_LOSSES}
            ORDER BY lease_expires_at LIMIT $2 FOR UPDATE SKIP LOCKED
        ) AS fine UNION ALL SELECT * FROM (
            SELECT tenant_id, id, {_LOSS} AS loss FROM public.runs
            WHERE status = 'running' AND lease_expires_at < statement_timestamp()
                AND workflow_name = ANY($1)
                AND losses + {_LOSS} >= {SUSPECT_LOSSES}
            ORDER BY losses, lease_expires_at LIMIT $5 FOR UPDATE SKIP LOCKED
        ) AS suspect LIMIT $2
    ) AS lost;

    RETURN QUERY WITH claimed AS (
        UPDATE public.runs SET epoch = epoch + 1, losses = losses + lost.loss, handed_back = false,
            {_LEASED.format("$3")}
        FROM unnest(tenant_ids, ids, losses_now) AS lost(tenant_id, id, loss)
        WHERE runs.tenant_id = lost.tenant_id AND runs.id = lost.id
        RETURNING {_CLAIMED}, greatest(public.now_ms(), runs.updated_at) AS updated_at, runs.error,
            runs.trace_id
    ), {logged("claimed", RunStatus.RUNNING, RunStatus.RUNNING, actor="$4", reason="'TAKEN_OVER'")}
    SELECT {_NAMES}, NULL::text FROM claimed;

    -- In a statement of its own, for its snapshot must be younger than the locks: the lost worker may
    -- have started a step while the first statement was looking.
    UPDATE public.run_steps SET status = 'failed', completed_at = {ENDED},
        updated_at = public.touch(updated_at),
        error = jsonb_build_object('code', 'WORKER_LOST', 'message', 'Its worker went away.',
            'step_id', step_id, 'attempt', run_steps.attempt, 'retryable', true)
    FROM unnest(tenant_ids, ids) AS taken(tenant_id, id)
    WHERE run_steps.tenant_id = taken.tenant_id AND run_steps.run_id = taken.id AND status = 'running';""",
    steps=True,
    dispatch=True,
    variables="tenant_ids text[]; ids uuid[]; losses_now int[];",
)

# Of the runs that a worker names ($1 to $3) those that are its own, and that nobody has locked: the others
# must not wait for one. One that was handed back is nobody's: a heartbeat that was under way meanwhile would
# keep it from all for a lease. A run that is running has a lease, and no other has one; were it asked for its
# status, PostgreSQL might look for the held ones among all that are running (33,000 rows for ten).
_NAMED = """unnest($1::text[], $2::uuid[], $3::bigint[]) AS held(tenant_id, id, epoch)
    JOIN public.runs ON runs.tenant_id = held.tenant_id AND runs.id = held.id AND runs.epoch = held.epoch
        AND runs.lease_expires_at IS NOT NULL AND NOT runs.handed_back"""
_FREE = f"free AS (SELECT runs.tenant_id, runs.id FROM {_NAMED} FOR NO KEY UPDATE OF runs SKIP LOCKED)"

# What follows the update of those: all that are the worker's own, unless they have been updated all.
_AND_LOCKED = f"""
GET DIAGNOSTICS updated = ROW_COUNT;
IF updated < cardinality($2) THEN
    RETURN QUERY SELECT runs.id, true FROM {_NAMED};
END IF;"""

_HEARTBEAT = Function(
    "heartbeat",
    "text[], uuid[], bigint[], float",
    "id uuid, is_locked boolean",
    f"""
RETURN QUERY WITH {_FREE}
UPDATE public.runs SET {_LEASED.format("$4")}
FROM free WHERE runs.tenant_id = free.tenant_id AND runs.id = free.id
RETURNING runs.id, false;{_AND_LOCKED}""",
    steps=True,
    dispatch=True,
    variables="updated int;",
)

# How often in a row a run was handed back without a step completed in between; the second time it is left
# alone for $4 seconds, and each time for twice as long, up to 30. Two or more say that it is the run, or
# the database with it, and not the worker, that something is wrong with.
_IN_A_ROW = "CASE WHEN done.steps > steps_at_hand_back THEN 1 ELSE hand_backs + 1 END"
_PAUSE = f"least(30, $4::float * 2 ^ least(20, {_IN_A_ROW} - 2))"
_HAND_BACK = Function(
    "hand_back",
    "text[], uuid[], bigint[], float",
    "id uuid, is_locked boolean",
    f"""
RETURN QUERY WITH {_FREE}
UPDATE public.runs SET handed_back = true, hand_backs = {_IN_A_ROW}, steps_at_hand_back = done.steps,
    lease_seconds = {_PAUSE}, lease_expires_at = CASE WHEN {_IN_A_ROW} = 1 THEN '-infinity'
        ELSE clock_timestamp() + make_interval(secs => {_PAUSE}) END
FROM free CROSS JOIN LATERAL (SELECT count(*)::int AS steps FROM public.run_steps
    WHERE run_steps.tenant_id = free.tenant_id AND run_id = free.id AND status = 'completed') AS done
WHERE runs.tenant_id = free.tenant_id AND runs.id = free.id
RETURNING runs.id, false;{_AND_LOCKED}""",
    steps=True,
    dispatch=True,
    variables="updated int;",
)

# The first of the pauses.
_PAUSE_SECONDS = 0.25

# For how long a worker is taken to be there that has said so.
LEASES_REGISTERED = 2

# A thousand at a time, so that no transaction is long.
_FORGET_KEYS = """
DELETE FROM public.idempotency_keys WHERE (tenant_id, key) IN (
    SELECT tenant_id, key FROM public.idempotency_keys
    WHERE created_at < statement_timestamp() - interval '7 days' LIMIT 1000)
RETURNING 1
"""
_FORGET_CACHED = """
DELETE FROM public.step_cache WHERE (tenant_id, workflow_name, step_id, key) IN (
    SELECT tenant_id, workflow_name, step_id, key FROM public.step_cache
    WHERE expires_at < statement_timestamp() LIMIT 1000)
RETURNING 1
"""

_CLEAR_CACHED = """
DELETE FROM public.step_cache WHERE (tenant_id, workflow_name, step_id, key) IN (
    SELECT tenant_id, workflow_name, step_id, key FROM public.step_cache
    WHERE ($1::text IS NULL OR workflow_name = $1) AND ($2::text IS NULL OR tenant_id = $2) LIMIT 1000)
RETURNING 1
"""

# $1 which, $2 how many seconds after the last time.
_BEGIN_CHORE = Function(
    "begin_chore",
    "text, float",
    "begun int",
    """
INSERT INTO public.chores (name, begun_at) VALUES ($1, clock_timestamp())
ON CONFLICT (name) DO UPDATE SET begun_at = excluded.begun_at
WHERE chores.begun_at < excluded.begun_at - make_interval(secs => $2)
RETURNING 1
""",
    dispatch=True,
)

FUNCTIONS = (_CLAIM_QUEUED, _CLAIM_EXPIRED, _HEARTBEAT, _HAND_BACK, _BEGIN_CHORE)


def _claimed(row: asyncpg.Record) -> ClaimedRun:
    tenant_id, run_id, epoch, workflow_name, attempt, losses, hand_backs, *rest = row
    campaign_id, encoded_input, seconds, _ = rest
    return ClaimedRun(
        tenant_id,
        run_id,
        epoch,
        workflow_name,
        attempt,
        losses,
        hand_backs,
        campaign_id,
        *decode_input(encoded_input),
        seconds,
    )


def _divided(rows: Sequence[asyncpg.Record]) -> tuple[set[UUID], set[UUID]]:
    """The ids of runs that were updated, and of those that were locked."""
    updated = {row["id"] for row in rows if not row["is_locked"]}
    return updated, {row["id"] for row in rows} - updated


def _columns(held: Sequence[ClaimedRun]) -> tuple[list[str], list[UUID], list[int]]:
    return [run.tenant_id for run in held], [run.id for run in held], [run.epoch for run in held]


async def clear_cache(database: Database, workflow_name: str | None, tenant_id: str | None) -> int:
    """Deletes what steps have cached, of one workflow and tenant or of all; how many entries."""
    dispatch, cleared = database.dispatch(), 0
    while found := await dispatch.fetch(_CLEAR_CACHED, workflow_name, tenant_id):
        cleared += len(found)
    return cleared


class QueueRepository:
    """The queue as one worker sees it; `worker` names it in the log of transitions.

    `running_limit` is how many runs of a tenant may be running at a time, on all workers together.
    """

    def __init__(
        self,
        database: Database,
        worker: str,
        workflow_names: Sequence[str],
        lease: float,
        running_limit: int | None = None,
    ) -> None:
        self._database = database
        self._dispatch = database.dispatch()
        self._workflows = WorkflowRepository(database)
        # Of this process alone: names are made of what containers share, a host's name and process ids.
        self._worker_id = uuid4()
        self._worker = worker
        self._workflow_names = list(workflow_names)
        self._lease = lease
        self._running_limit = running_limit
        self._served_last = ""

    async def register_workflows(self) -> None:
        """Lets callers trigger the workflows of this worker, which is taken to be there for two leases."""
        await self._workflows.register(
            self._worker_id, self._worker, self._workflow_names, LEASES_REGISTERED * self._lease
        )

    async def withdraw_workflows(self) -> None:
        """No worker is taken to be there for them, unless another has registered them."""
        await self._workflows.withdraw(self._worker_id)

    async def claim_queued(self, limit: int) -> list[ClaimedRun]:
        """Takes up to `limit` queued runs for one lease, of all tenants in turn, from each those of
        the highest priority, oldest first. Fewer than `limit` do not mean that there are no more.
        """
        rows = await self._dispatch.call(
            _CLAIM_QUEUED,
            self._workflow_names,
            limit,
            self._lease,
            self._worker,
            self._served_last,
            self._running_limit,
        )
        if rows:
            self._served_last = rows[0]["served_last"]
        return [_claimed(row) for row in rows]

    async def claim_expired(self, limit: int, suspects: int = 1) -> list[ClaimedRun]:
        """Takes up to `limit` runs whose worker let the lease end; of those that may have killed it, up
        to `suspects`.
        """
        rows = await self._dispatch.call(
            _CLAIM_EXPIRED, self._workflow_names, limit, self._lease, self._worker, suspects
        )
        return [_claimed(row) for row in rows]

    @asynccontextmanager
    async def line(self, heard: Callable[[str, str], None]) -> AsyncIterator[Line]:
        """A connection for heartbeats alone; `heard` gets the (channel, payload) of each notification."""
        async with self._database.dispatch_line(heard, QUEUED, CANCELLED) as line:
            yield Line(line, self._lease)

    async def hand_back(self, held: Sequence[ClaimedRun]) -> set[UUID]:
        """Ends the leases, so that another worker goes on and no loss is counted: at once, unless a run is
        handed back again without a step completed in between. Returns those that are still the worker's
        own, for others have locked them at the moment.
        """
        handed, locked = _divided(await self._dispatch.call(_HAND_BACK, *_columns(held), _PAUSE_SECONDS))
        if handed:
            self._database.notifier.notify(QUEUED, HANDED_BACK)
        return locked

    async def check(self) -> None:
        """Raises Denied when the role lacks what every worker needs, and Unavailable as all do."""
        with translate_driver_errors():
            await self._database.check()

    async def forget_old(self) -> None:
        """Deletes idempotency keys of more than seven days, and what has expired: cache entries, and workers
        that went away without a word.
        """
        for sql in (_FORGET_KEYS, _FORGET_CACHED, FORGET_WORKERS):
            while await self._dispatch.fetch(sql):
                pass

    async def begin_chore(self, name: str, seconds: float) -> bool:
        """Whether this worker is to do what one of all workers does, at most once in so many seconds."""
        return bool(await self._dispatch.call(_BEGIN_CHORE, name, seconds))


class Line:
    """Renews leases, one statement for all of a worker's runs."""

    def __init__(self, line: DispatchLine, lease: float) -> None:
        self._line = line
        self._lease = lease

    async def heartbeat(self, held: Sequence[ClaimedRun], seconds: float) -> tuple[set[UUID], set[UUID]]:
        """Renews the leases within `seconds`. The ids of those that it has renewed; and of those that it has
        not, although they are the worker's own, for others have locked them at the moment.
        """
        return _divided(await self._line.call(_HEARTBEAT, *_columns(held), self._lease, seconds=seconds))

    async def look(self, seconds: float) -> None:
        """Raises TimeoutError or OSError when the connection is no use any more."""
        await self._line.look(seconds)

    async def hand_back(self, held: Sequence[ClaimedRun], seconds: float) -> None:
        """As QueueRepository.hand_back, within `seconds`, and without the worker's event loop."""
        rows = await self._line.call(_HAND_BACK, *_columns(held), _PAUSE_SECONDS, seconds=seconds)
        if _divided(rows)[0]:
            await self._line.notify(QUEUED, HANDED_BACK, seconds)
