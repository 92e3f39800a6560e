"""Every hot statement finds its rows by an index at 200,000 rows, and reads no more than it needs.

PostgreSQL itself counts what a statement has read. The functions are called while the tables are empty, as
in a new installation, whose sessions keep those plans; and again once ANALYZE has told of the rows.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import asyncpg
import pytest
from runengine.v1.run_pb2 import Run, RunError
from runengine.v1.run_pb2 import WaitingFor as WaitingFor
from runengine.v1.run_service_pb2 import TriggerRunRequest
from runengine_server.database.composed import compiled
from runengine_server.database.database import Database
from runengine_server.database.functions import dispatch_function, tenant_function
from runengine_server.database.schema import runs
from runengine_server.database.scopes import Scope
from runengine_server.domain.bulk_operation import BulkAction, refusals_of
from runengine_server.domain.encoded_run import encode_input
from runengine_server.domain.run import NewRun, RunStatus
from runengine_server.domain.run_filter import RunFilter
from runengine_server.repositories.retention import Place, next_tenant, runs_to_purge
from runengine_server.repositories.run_search import statement_of
from sqlalchemy import func

from tests.support.rewritten_functions import called, texts

RUNS = 200_000
TENANT, CAMPAIGN, WORKFLOW = "org_large", UUID(int=1), "workflow"
OPERATION = UUID(int=2000)
ENDPOINT = UUID(int=7)
STATUSES = ("completed", "completed", "failed", "cancelled", "queued", "running", "waiting")
INPUT = encode_input(NewRun(UUID(int=0), TriggerRunRequest(workflow_name=WORKFLOW)))
WAITING_FOR = Run(waiting_for=[WaitingFor(id="gate")]).SerializeToString()
ERROR = RunError(code="STEP_FAILED").SerializeToString()
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)

# A large value, which each step and each checkpoint has at its beginning.
HASH = b"a value's hash  "
REFS = bytes(4) + HASH

# How many runs one thread has: one that is running, and those that wait for it.
OF_THREAD = 5000

# How many workers there are, who hold what is running of other tenants than the large one; the lease of LOST
# has ended.
WORKERS = 500
LOST, HOLDER = 1, 3

# Half of the runs are of one tenant and half of these of one campaign, a second apart. Each run has one row
# in each of the other tables.
FILL = f"""
SET session_replication_role = replica;
INSERT INTO workflows (name) VALUES ('{WORKFLOW}');
INSERT INTO runs (tenant_id, id, workflow_name, encoded_input, status, campaign_id, epoch, created_at,
    queued_at, started_at, completed_at, lease_expires_at, worker_id, encoded_waiting, waiting_expires_at,
    error)
SELECT CASE WHEN n % 2 = 0 THEN '{TENANT}' ELSE 'org_' || n % 100 END,
    lpad(to_hex(n), 32, '0')::uuid, '{WORKFLOW}', '\\x{INPUT.hex()}',
    CASE status WHEN 'waiting' THEN 'running' ELSE status END,
    lpad(to_hex(CASE WHEN n % 4 = 0 THEN 1 ELSE n % 1000 END), 32, '0')::uuid, 1,
    at, at, CASE WHEN status <> 'queued' THEN at END,
    CASE WHEN status NOT IN ('queued', 'running', 'waiting') THEN at END,
    CASE WHEN status <> 'running' THEN NULL WHEN n % 2 = 1 THEN 'infinity'
        ELSE now() + n % 100 * interval '1 day' - interval '1 hour' END,
    CASE WHEN status = 'running' AND n % 2 = 1 THEN lpad(to_hex(n % (2 * {WORKERS})), 32, '0')::uuid END,
    CASE WHEN status = 'waiting' THEN '\\x{WAITING_FOR.hex()}'::bytea END,
    CASE WHEN status = 'waiting' THEN now() + n % 100 * interval '1 day' - interval '1 hour' END,
    CASE WHEN status = 'failed' THEN '\\x{ERROR.hex()}'::bytea END
FROM (
    SELECT n, (ARRAY{list(STATUSES)})[1 + n / 7 % {len(STATUSES)}] AS status,
        '2026-01-01 00:00:00+00'::timestamptz + n * interval '1 s' AS at
    FROM generate_series(1, {RUNS}) AS n
) AS runs;
INSERT INTO campaigns (tenant_id, id) VALUES ('{TENANT}', '{CAMPAIGN}');
INSERT INTO campaign_run_counts (tenant_id, campaign_id, slot, completed)
SELECT tenant_id, campaign_id, slot, 1 FROM (SELECT DISTINCT tenant_id, campaign_id FROM runs) AS each,
    generate_series(0, 15) AS slot;
INSERT INTO run_steps (tenant_id, run_id, id, attempt, run_attempt, step_id, skill_id, status, encoded_input,
    input_refs)
SELECT tenant_id, id, id, 1, 1, 'one', 'one', CASE WHEN status = 'running' THEN 'running' ELSE 'skipped' END,
    '', '\\x{REFS.hex()}'
FROM runs;
INSERT INTO run_events (tenant_id, run_id, at, to_status, attempt, actor, reason)
SELECT tenant_id, id, created_at, 'queued', 1, 'user_test', 'TRIGGERED' FROM runs;
INSERT INTO checkpoints (tenant_id, run_id, checkpoint_ns, checkpoint_id, type, checkpoint, metadata,
    value_refs)
SELECT tenant_id, id, '', '1', 'null', '', '', '\\x{REFS.hex()}' FROM runs;
INSERT INTO run_values (tenant_id, run_id, of_steps, hash, value)
SELECT tenant_id, id, of_steps, '\\x{HASH.hex()}', ''
FROM runs, (VALUES (true), (false)) AS of (of_steps);
INSERT INTO checkpoint_writes (tenant_id, run_id, checkpoint_ns, checkpoint_id, task_id, idx, task_path,
    channel, type, value)
SELECT tenant_id, id, '', '1', 'task', 0, '', 'seen', 'null', '' FROM runs;
INSERT INTO artifacts (tenant_id, run_id, id, name, media_type, size, key)
SELECT tenant_id, id, id, 'name', 'text/plain', 1, 'key' FROM runs;
INSERT INTO step_cache (tenant_id, workflow_name, step_id, key, type, value)
SELECT '{TENANT}', '{WORKFLOW}', 'one', uuid_send(id), 'null', '' FROM runs;
INSERT INTO store_items (tenant_id, namespace, key, value, created_at, updated_at)
SELECT '{TENANT}', '.runs.' || n / 100 || '.', n, '{{"n": 1}}', now(), now()
FROM generate_series(1, {RUNS}) AS n;
INSERT INTO idempotency_keys (tenant_id, key, fingerprint, response)
SELECT '{TENANT}', id, '', '' FROM runs;
INSERT INTO runs (tenant_id, id, workflow_name, encoded_input, status, epoch, queued_at, lease_expires_at,
    thread_id, thread_place)
SELECT '{TENANT}', lpad(to_hex({RUNS} + n), 32, '0')::uuid, '{WORKFLOW}', '\\x{INPUT.hex()}',
    CASE WHEN n = 1 THEN 'running' ELSE 'queued' END, 1, CASE WHEN n = 1 THEN now() ELSE 'infinity' END,
    CASE WHEN n = 1 THEN now() + interval '1 day' END, 'thread', n FROM generate_series(1, {OF_THREAD}) AS n;
INSERT INTO bulk_operations (tenant_id, id, action, status, pace, matched, processed, actor)
SELECT CASE WHEN n % 2 = 0 THEN '{TENANT}' ELSE 'org_' || n % 100 END, lpad(to_hex(n), 32, '0')::uuid,
    'retry', CASE WHEN n % 1000 = 0 THEN 'running' ELSE 'completed' END, 1000, {RUNS}, 100000, 'user_test'
FROM generate_series(1, {RUNS}) AS n;
INSERT INTO bulk_operation_items (tenant_id, operation_id, place, run_id, outcome)
SELECT '{TENANT}', '{OPERATION}', n, lpad(to_hex(2 * (1 + (n - 1) % 100000)), 32, '0')::uuid,
    CASE WHEN n <= 100000 THEN (ARRAY['done', 'refused'])[1 + n % 2] END
FROM generate_series(1, {RUNS}) AS n;
INSERT INTO schedules (tenant_id, id, cron, time_zone, request, overlap, is_paused, next_at, due_at,
    updated_at)
SELECT CASE WHEN n <= 20 THEN '{TENANT}' ELSE 'org_' || n END, lpad(to_hex(n), 32, '0')::uuid, '* * * * *',
    'UTC', '', 'skip', false, '{BEGIN}', '2026-01-01'::timestamptz + n * interval '1 s', '{BEGIN}'
FROM generate_series(1, {RUNS}) AS n;
INSERT INTO webhook_endpoints (tenant_id, id, url, secret, events, is_disabled, since)
SELECT CASE WHEN n <= 20 THEN '{TENANT}' ELSE 'org_' || n END, lpad(to_hex(n), 32, '0')::uuid,
    'https://example.com', '', '{{}}', false,
    format('%1$s:%1$s:', (SELECT max(transaction)::text::bigint + 1 FROM run_events))
FROM generate_series(1, 100) AS n;
INSERT INTO webhook_deliveries (tenant_id, endpoint_id, id, seq, event, run_id, payload, status,
    next_attempt_at, expires_at)
SELECT '{TENANT}', '{ENDPOINT}', lpad(to_hex(n), 32, '0')::uuid, n, 'run.queued', '{ENDPOINT}', '', status,
    CASE WHEN status = 'pending' THEN now() - n * interval '1 s' END, now() + interval '1 day'
FROM (
    SELECT n, (ARRAY['pending', 'delivered', 'dead'])[1 + n % 3] AS status
    FROM generate_series(1, {RUNS}) AS n
) AS n;
INSERT INTO threads (tenant_id, workflow_name, thread_id, last_place, state_run_id)
SELECT '{TENANT}', '{WORKFLOW}', 'thread' || CASE WHEN n > 1 THEN n::text ELSE '' END, {OF_THREAD},
    lpad(to_hex(2 * n), 32, '0')::uuid FROM generate_series(1, {RUNS}) AS n;
INSERT INTO worker_leases (worker_id, expires_at, lease_seconds)
SELECT lpad(to_hex(n), 32, '0')::uuid, now() + CASE WHEN n = {LOST} THEN -1 ELSE 1 END * interval '1 day', 1e6
FROM generate_series(1, 2 * {WORKERS}, 2) AS n
"""

# Where autovacuum has been, an index alone may tell, and no row counts as read.
WITHOUT_AUTOVACUUM = """
DO $$
DECLARE
    name regclass;
BEGIN
    FOR name IN SELECT oid FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace LOOP
        EXECUTE format('ALTER TABLE %s SET (autovacuum_enabled = false)', name);
    END LOOP;
END
$$
"""

# worker_leases has a row a worker and is read whole: an index on when they expire would cost each heartbeat.
READ = """SELECT relname, CASE relname WHEN 'worker_leases' THEN 0 ELSE coalesce(seq_tup_read, 0) END AS all,
    coalesce(idx_tup_fetch, 0) + CASE relname WHEN 'worker_leases' THEN coalesce(seq_tup_read, 0) ELSE 0 END
        AS needed
    FROM pg_stat_xact_user_tables"""


class Undone(Exception):
    """Ends a transaction."""


class Session:
    """One connection of the application's, and so the plans of one session."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def reads(self, name: str, *arguments: Any) -> tuple[int, dict[str, int]]:
        """How many rows it answers, and how many it reads of each table. What it does is undone."""
        if "(_tenant text" in texts()[name]:
            scope: Scope = self._database.tenant(TENANT)
            return await self.reads_of(scope, tenant_function(name).call, TENANT, *arguments)
        return await self.reads_of(self._database.dispatch(), dispatch_function(name).call, *arguments)

    async def reads_found(self, wanted: RunFilter, after: tuple[datetime, UUID] | None) -> Any:
        """As `reads`, of a page of what the filter finds."""
        sql, arguments = compiled(statement_of(TENANT, wanted, 21, after))
        return await self.reads_of(self._database.tenant(TENANT), sql, *arguments)

    async def reads_to_purge(self) -> dict[str, Any]:
        """As `reads`, of what a purge finds: a tenant, its first runs, and those after them."""
        cutoff = func.statement_timestamp() + timedelta(days=1)
        place = Place(BEGIN + timedelta(seconds=50_000), UUID(int=50_000))
        statements = {
            "tenant": (self._database.dispatch(), next_tenant(runs, "org_10")),
            "first": (self._database.tenant(TENANT), runs_to_purge(TENANT, RunStatus.FAILED, cutoff, None)),
            "next": (self._database.tenant(TENANT), runs_to_purge(TENANT, RunStatus.FAILED, cutoff, place)),
        }
        read = {}
        for name, (scope, statement) in statements.items():
            sql, arguments = compiled(statement)
            read[name] = await self.reads_of(scope, sql, *arguments)
        return read

    async def reads_of(self, scope: Scope, sql: str, *arguments: Any) -> tuple[int, dict[str, int]]:
        """As `reads`, of any statement."""
        with pytest.raises(Undone) as undone:  # noqa: PT012
            async with scope.transaction() as transaction:
                # PostgreSQL reports what it has counted once a second, and forgets it only then.
                before = {row["relname"]: row for row in await transaction.fetch(READ)}
                rows = await transaction.fetch(sql, *arguments)
                raise Undone(len(rows), before, await transaction.fetch(READ))
        answered, before, after = undone.value.args
        assert [row["relname"] for row in after if row["all"] > before[row["relname"]]["all"]] == []
        read = {row["relname"]: row["needed"] - before[row["relname"]]["needed"] for row in after}
        return answered, {table: rows for table, rows in read.items() if rows}


def run_of(status: str, number: int = 50_000) -> UUID:
    """A run of the tenant's large campaign."""
    while number % 4 or STATUSES[number // 7 % len(STATUSES)] != status:
        number += 1
    return UUID(int=number)


RUNNING, COMPLETED, FAILED = run_of("running"), run_of("completed"), run_of("failed")
WAITING = run_of("waiting")
HELD = (RUNNING, 1)


def refusals_of_all() -> dict[str, dict[str, str]]:
    return {action.value: refusals_of(action) for action in BulkAction}


IN_THREAD = UUID(int=RUNS + 1)
OUTPUT = (b"", UUID(int=9), "output.json", "application/json", 1, "key", None)
NO_OUTPUT = (None,) * 7
LEASE = ([WORKFLOW], 10, 30.0, UUID(int=HOLDER), "worker:test")
# Those of the runs here end in up to a hundred days.
LONG_LEASE = ([WORKFLOW], 10, 1e7, UUID(int=HOLDER), "worker:test")
ANY = (None,) * 4
QUEUED_RUN = (TENANT, run_of("queued"), 1, 1)
# Leases of their own end after as many days as the number of the run has, modulo 100.
EXPIRED = next(each for each in range(50_000, RUNS, 100) if STATUSES[each // 7 % len(STATUSES)] == "running")
EXPIRED_RUN = (TENANT, UUID(int=EXPIRED), 1, 1)
MANY = [run_of("running", number) for number in range(20_000, 30_000, 1_000)]
KEPT = ([TENANT] * len(MANY), MANY, [1] * len(MANY))
OF_LOST, OF_HOLDER = (
    [
        UUID(int=number)
        for number in range(worker, RUNS + 1, 2 * WORKERS)
        if STATUSES[number // 7 % len(STATUSES)] == "running"
    ]
    for worker in (LOST, HOLDER)
)
HELD_BY_ONE = ([f"org_{HOLDER}"] * len(OF_HOLDER), OF_HOLDER, [1] * len(OF_HOLDER))
ACTOR, NO_KEY = ("user_test", None), (None, None)
AFTER = (BEGIN + timedelta(seconds=100_000), UUID(int=100_000))
QUEUED = OF_THREAD - 1
QUEUED += sum(STATUSES[number // 7 % len(STATUSES)] == "queued" for number in range(1, RUNS + 1))
ASKING = sum(STATUSES[number // 7 % len(STATUSES)] == "waiting" for number in range(1, RUNS + 1))
HELD_RUNS = 1 + sum(
    number % 2 == 0 and STATUSES[number // 7 % len(STATUSES)] == "running" for number in range(1, RUNS + 1)
)
BATCH = ([RUNNING, MANY[0]], [1, 1])
WRITTEN = ([1, 1], ["", ""], ["2", "2"], ["t", "t"], ["", ""], [0, 1], ["a", "b"], ["null"] * 2, [b""] * 2)
STORED = ([1], [""], ["2"], ["1"], ["null"], [b""], [b""], [REFS], [1], [""], ["2"], [1], ["gone"])
BEGUN = ([1], [uuid4()], ["two"], ["two"], [False], [b""], [None], [REFS])
VALUES = ([1, 1], [False, True], [HASH, HASH], [b"", b""], [1], [b""])
NAMESPACES = RUNS // 100 + 1
SOME = ["failed", "queued"]
FIRST = (None, None)
COUNTS = {"campaign_run_counts": 16}
# A snapshot of PostgreSQL's, later than all that is here.
NOW = "9000000000000000000:9000000000000000000:"

# Each with the rows that it answers, and those that it reads: of what it only shows as many as that, with
# the one that tells of a next page, and one for each status that is merged; of what it moves each row as
# often as it is found, locked, changed, and referred to by what goes with it.
CASES: list[tuple[str, tuple[Any, ...], int, dict[str, int]]] = [
    ("list_campaign_runs", (CAMPAIGN, 20, 0, *FIRST), 1, {"runs": 21, **COUNTS}),
    ("list_campaign_runs", (CAMPAIGN, 20, 0, *AFTER), 1, {"runs": 21, **COUNTS}),
    (
        "list_campaign_runs_by_status",
        (CAMPAIGN, 20, 0, *FIRST, SOME),
        1,
        {"runs": 22, **COUNTS},
    ),
    (
        "list_campaign_runs_by_status",
        (CAMPAIGN, 20, 0, *AFTER, SOME),
        1,
        {"runs": 22, **COUNTS},
    ),
    ("get_run", (COMPLETED,), 1, {"runs": 1}),
    ("get_run_output", (COMPLETED,), 1, {"runs": 1}),
    ("list_run_steps", (COMPLETED, None, 0, 1001), 1, {"runs": 1, "run_steps": 1}),
    ("get_run_step_data", (COMPLETED, COMPLETED, None), 1, {"runs": 1, "run_steps": 1, "run_values": 1}),
    ("get_run_step_data", (COMPLETED, COMPLETED, 1), 1, {"runs": 1, "run_steps": 1, "run_values": 1}),
    ("list_run_events", (COMPLETED, 0, 1001), 1, {"runs": 1, "run_events": 1}),
    ("begin_watch", (COMPLETED, None, None), 3, {"runs": 2, "run_steps": 1}),
    # Of seven that have not ended their steps.
    ("begin_watch", (None, CAMPAIGN, 20), 28, {"runs": 47, "run_steps": 7}),
    # Those that are held are in no index of their times.
    ("begin_watch", (None, None, 20), 21, {"runs": HELD_RUNS + 64}),
    ("resume_watch", (COMPLETED, NOW, 1000), 1, {"runs": 1, "run_events": 1}),
    ("resume_watch", (None, NOW, 1000), 1, {}),
    ("list_changes", (NOW, None, 0, None, 1000), 1, {}),
    ("list_changes", (NOW, None, 0, f"{{{MANY[0]},{MANY[1]}}}", 1000), 1, {}),
    ("list_changes", (None, None, 0, f"{{{COMPLETED}}}", 1000), 2, {"runs": 1, "run_events": 2}),
    ("send_progress", (*KEPT, ["runengine_test"] * len(MANY), ["1"] * len(MANY)), 1, {"runs": len(MANY)}),
    (
        "trigger_run",
        (uuid4(), WORKFLOW, INPUT, CAMPAIGN, 0, *ACTOR, "new", b"", None, True),
        1,
        {"workflows": 1, "idempotency_keys": 1, "campaign_run_counts": 1, "campaigns": 1},
    ),
    (
        "trigger_runs",
        (
            [uuid4(), uuid4()],
            [WORKFLOW] * 2,
            [INPUT] * 2,
            [CAMPAIGN] * 2,
            [0, 0],
            [ACTOR[0]] * 2,
            [ACTOR[1]] * 2,
            [True, False],
        ),
        2,
        {"workflows": 2, "campaign_run_counts": 2, "campaigns": 1},
    ),
    (
        "cancel_run",
        (RUNNING, *ACTOR, *NO_KEY),
        1,
        {
            "runs": 3,
            "run_steps": 1,
            "campaign_run_counts": 1,
            "checkpoints": 3,
            "checkpoint_writes": 1,
            "run_values": 1,
        },
    ),
    (
        "retry_run",
        (FAILED, *ACTOR, *NO_KEY, None),
        1,
        {"runs": 4, "run_steps": 1, "campaign_run_counts": 1},
    ),
    (
        "trigger_run_of_thread",
        (uuid4(), WORKFLOW, INPUT, CAMPAIGN, 0, *ACTOR, *NO_KEY, None, False, "thread"),
        1,
        {"workflows": 1, "runs": 3, "campaign_run_counts": 1, "threads": 1},
    ),
    (
        "begin_in_thread",
        (IN_THREAD, 1),
        1,
        {"runs": 6, "threads": 1, "checkpoints": 1, "checkpoint_writes": 1, "run_values": 1},
    ),
    ("resume_run", (WAITING, *ACTOR, *NO_KEY, None, b"", ["gate"]), 1, {"runs": 3}),
    (
        "wait_run",
        (*HELD, "worker:test", ["gate"], ["ask"], ["null"], [None], 60.0, None),
        1,
        {"runs": 2, "run_steps": 1},
    ),
    (
        "create_bulk_operation",
        (uuid4(), "retry", None, None, 100, *ACTOR, "bulk", b""),
        1,
        {"idempotency_keys": 1},
    ),
    ("store_bulk_operation_items", (uuid4(), [COMPLETED, FAILED]), 1, {}),
    ("start_bulk_operation", (OPERATION,), 1, {"bulk_operations": 1, "bulk_operation_items": 1}),
    ("count_runs_by_status", ([COMPLETED, FAILED, uuid4()],), 3, {"runs": 2}),
    ("get_bulk_operation", (OPERATION,), 1, {"bulk_operations": 1}),
    ("list_bulk_operations", (None, 21), 21, {"bulk_operations": 21}),
    ("list_bulk_operations", (UUID(int=100_000), 21), 21, {"bulk_operations": 21}),
    (
        "list_bulk_operation_items",
        (OPERATION, ["refused", "pending"], 50_000, 21),
        21,
        {"bulk_operations": 1, "bulk_operation_items": 22},
    ),
    (
        "list_bulk_operation_items",
        (OPERATION, ["pending", "done", "refused", "aborted"], 0, 21),
        21,
        {"bulk_operations": 1, "bulk_operation_items": 23},
    ),
    ("abort_bulk_operation", (OPERATION,), 1, {"bulk_operations": 2}),
    ("running_bulk_operations", (100,), 100, {"bulk_operations": 100}),
    (
        "run_bulk_item",
        (OPERATION, None, refusals_of_all(), "INTERNAL"),
        1,
        {"bulk_operations": 3, "bulk_operation_items": 3, "runs": 3},
    ),
    (
        "run_bulk_batch",
        (OPERATION, 10, None, refusals_of_all()),
        1,
        # Four of the ten runs have failed, and are retried.
        {
            "bulk_operations": 2,
            "bulk_operation_items": 30,
            "runs": 42,
            "run_steps": 4,
            "campaign_run_counts": 4,
        },
    ),
    (
        "create_webhook_endpoint",
        (uuid4(), "https://example.com", b"", [], False, 21),
        1,
        {"webhook_endpoints": 20},
    ),
    ("list_webhook_endpoints", (None,), 20, {"webhook_endpoints": 20}),
    ("list_webhook_endpoints", (ENDPOINT,), 1, {"webhook_endpoints": 1}),
    ("update_webhook_endpoint", (ENDPOINT, None, None, True), 1, {"webhook_endpoints": 1}),
    ("rotate_webhook_secret", (ENDPOINT, b"new", 60), 1, {"webhook_endpoints": 1}),
    ("delete_webhook_endpoint", (UUID(int=1),), 1, {"webhook_endpoints": 1}),
    ("list_webhook_deliveries", (ENDPOINT, ["dead", "pending"], RUNS, 21), 21, {"webhook_deliveries": 22}),
    ("retry_webhook_delivery", (ENDPOINT, UUID(int=100)), 1, {"webhook_deliveries": 1}),
    # Of the 99 without a delivery none has anything.
    ("due_webhook_endpoints", (), 1, {"webhook_endpoints": 100, "webhook_deliveries": 1}),
    ("read_webhook_events", (ENDPOINT, 100), 1, {"webhook_endpoints": 2}),
    ("claim_webhook_deliveries", (ENDPOINT, 8, 30.0), 8, {"webhook_endpoints": 1, "webhook_deliveries": 16}),
    (
        "record_webhook_attempt",
        (ENDPOINT, UUID(int=99), 0, 500, "It responded with 500.", 5.0, "Gone."),
        1,
        {"webhook_endpoints": 1, "webhook_deliveries": 1},
    ),
    (
        "create_schedule",
        (uuid4(), "* * * * *", "UTC", b"", "skip", False, BEGIN, 21),
        1,
        {"schedules": 20},
    ),
    ("list_schedules", (None,), 20, {"schedules": 20}),
    ("list_schedules", (ENDPOINT,), 1, {"schedules": 1}),
    ("update_schedule", (ENDPOINT, BEGIN, "", "UTC", b"", "skip", True, None), 1, {"schedules": 1}),
    ("delete_schedule", (ENDPOINT,), 1, {"schedules": 1}),
    ("due_schedules", (100,), 100, {"schedules": 100}),
    ("claim_schedule", (ENDPOINT, 30.0), 1, {"schedules": 2}),
    ("record_firing", (ENDPOINT, BEGIN, BEGIN, None, None, BEGIN), 1, {"schedules": 1}),
    ("postpone_firing", (ENDPOINT, BEGIN, 1.0, "It waits."), 1, {"schedules": 1}),
    ("create_campaign", (uuid4(),), 1, {}),
    ("get_campaign", (CAMPAIGN,), 1, {"campaigns": 1}),
    ("get_artifact", (COMPLETED,), 1, {"artifacts": 1}),
    ("list_run_artifacts", (COMPLETED, UUID(int=0), 101), 1, {"runs": 1, "artifacts": 1}),
    ("artifacts_without_row", ([COMPLETED], [uuid4()]), 1, {"runs": 1}),
    ("artifacts_without_row", ([COMPLETED], [COMPLETED]), 0, {"artifacts": 1}),
    (
        "claim_queued",
        (*LEASE, "", None, *ANY),
        10,
        {"runs": 30, "campaign_run_counts": 10, "worker_leases": 1},
    ),
    (
        "claim_queued",
        (*LEASE, "", None, *QUEUED_RUN),
        1,
        {"runs": 2, "campaign_run_counts": 1, "worker_leases": 1},
    ),
    ("claim_expired", (*LEASE, 2, 1, *EXPIRED_RUN), 1, {"runs": 2, "run_steps": 1, "worker_leases": 1}),
    (
        "hand_over_runs",
        ([WORKFLOW], 10, 1e7, uuid4(), "queue", "", None),
        10,
        {"runs": 20 + 2 * len(OF_LOST), "worker_leases": WORKERS + 1},
    ),
    ("end_handovers", (30.0,), 0, {}),
    (
        "claim_expired",
        (*LONG_LEASE, 2, 1, *ANY),
        10,
        {"runs": 20 + 2 * len(OF_LOST), "run_steps": 10, "worker_leases": WORKERS + 4},
    ),
    (
        "heartbeat",
        (UUID(int=HOLDER), *HELD_BY_ONE, 30.0),
        len(OF_HOLDER),
        {"runs": 2 * len(OF_HOLDER), "worker_leases": 1},
    ),
    # These have leases of their own.
    ("heartbeat", (UUID(int=2), *KEPT, 30.0), 10, {"runs": 40}),
    ("hand_back", (*KEPT, 0.25), 10, {"runs": 20, "run_steps": 10}),
    ("begin_chore", ("new", 3600.0), 1, {}),
    ("purge_expired", (100,), 1, {"webhook_endpoints": 100}),
    ("has_retention", (), 1, {}),
    ("register_workflows", (uuid4(), "worker:test", [WORKFLOW], 60.0), 1, {"workflows": 2}),
    ("withdraw_worker", (uuid4(),), 0, {}),
    ("describe_workflows", ([WORKFLOW], [b""]), 1, {"workflows": 2}),
    ("described_workflows", ("", 51), 1, {"workflows": 1}),
    ("served_workflows", (False,), 1, {"workflows": 1}),
    # Only what people and a `serve` ask for once in a while reads all that is queued.
    ("served_workflows", (True,), 1, {"workflows": 1, "runs": QUEUED}),
    ("list_workflows", (), 1, {"workflows": 1, "runs": QUEUED}),
    # One worker does, every 15 s. Those of the thread are not due.
    ("count_backlog", (), 1, {"workflows": 1, "runs": QUEUED - OF_THREAD + 1 + ASKING}),
    ("write_temporary_file", (), 1, {}),
    (
        "record_progress",
        (*BATCH, [1], [RUNNING], [b""], *WRITTEN, *STORED, *BEGUN, *VALUES),
        3,
        {"runs": 6, "run_steps": 1, "checkpoints": 4, "checkpoint_writes": 1, "run_values": 3},
    ),
    (
        "record_progress",
        (*BATCH, [1], [RUNNING], [None], *WRITTEN, *STORED, *[None] * 14),
        2,
        {"runs": 5, "run_steps": 1, "checkpoints": 3, "checkpoint_writes": 1},
    ),
    (
        "record_next_step",
        (
            *(*HELD, RUNNING, b"", "", "2", "1", "null", b"", b"", REFS),
            *(uuid4(), "two", "two", False, b"", None, REFS),
        ),
        1,
        {"runs": 3, "run_steps": 1},
    ),
    ("fail_step", (*HELD, RUNNING, {}, True, 1, False), 1, {"runs": 2, "run_steps": 1}),
    ("interrupt_steps", (*HELD, [RUNNING]), 1, {"runs": 1, "run_steps": 1}),
    ("discard_writes", (*HELD, "", "1", [str(RUNNING)], [RUNNING], {}), 1, {"runs": 1, "run_steps": 1}),
    (
        "end_run",
        (
            *HELD,
            "completed",
            None,
            "worker:test",
            "COMPLETED",
            CAMPAIGN,
            "live",
            None,
            RUNNING,
            [RUNNING],
            [b""],
            *OUTPUT,
        ),
        1,
        {
            "runs": 4,
            "run_steps": 1,
            "campaigns": 1,
            "webhook_endpoints": 1,
            "campaign_run_counts": 1,
            "checkpoints": 1,
            "checkpoint_writes": 1,
            "run_values": 1,
        },
    ),
    (
        "end_run",
        (
            *HELD,
            "failed",
            b"",
            "worker:test",
            "STEP_FAILED",
            CAMPAIGN,
            "failed",
            None,
            RUNNING,
            [],
            [],
            *NO_OUTPUT,
        ),
        1,
        {
            "runs": 3,
            "run_steps": 1,
            "campaigns": 1,
            "webhook_endpoints": 1,
            "campaign_run_counts": 1,
            "checkpoints": 3,
            "checkpoint_writes": 1,
            "run_values": 1,
        },
    ),
    (
        "complete_runs",
        (
            *([RUNNING, MANY[0]], [1, 1], ["worker:test"] * 2, [CAMPAIGN, None], ["live", None]),
            *([None] * 2, [RUNNING, None], [b""] * 2, [1], [RUNNING], [b""]),
        ),
        2,
        {
            "runs": 7,
            "run_steps": 2,
            "campaigns": 1,
            "webhook_endpoints": 1,
            "campaign_run_counts": 2,
            "checkpoints": 2,
            "checkpoint_writes": 2,
            "run_values": 2,
        },
    ),
    ("get_checkpoint", (RUNNING, "", None), 1, {"checkpoints": 1, "run_values": 1}),
    ("list_checkpoints", (RUNNING, "", None), 1, {"checkpoints": 1, "run_values": 1}),
    ("list_writes", (RUNNING, "", "1"), 1, {"checkpoint_writes": 1}),
    (
        "prune_checkpoints",
        HELD,
        1,
        {"runs": 1, "checkpoints": 3, "checkpoint_writes": 1, "run_values": 1},
    ),
    ("drop_checkpoints", HELD, 1, {"runs": 1, "checkpoints": 1, "checkpoint_writes": 1, "run_values": 1}),
    (
        "save_artifact",
        (*HELD, uuid4(), "name", "text/plain", 1, "key", RUNNING, 1),
        1,
        {"runs": 2, "run_steps": 1},
    ),
    ("has_artifact", (RUNNING,), 1, {"artifacts": 1}),
    ("get_cached", (WORKFLOW, "one", RUNNING.bytes), 1, {"step_cache": 1}),
    (
        "save_cached",
        (*HELD, WORKFLOW, "one", b"new", "null", b"", None),
        1,
        {"runs": 1},
    ),
    ("get_store_items", ([".runs.7.", ".runs.7."], ["700", "701"]), 2, {"store_items": 2}),
    ("search_store_items", (".runs.7.", None, 10, 0), 10, {"store_items": 100}),
    ("search_store_items", (".runs.7.", '{"n": 1}', 10, 0), 10, {"store_items": 100}),
    ("list_store_namespaces", (".runs.", [], None, 10, 0), 10, {"store_items": NAMESPACES}),
    ("list_store_namespaces", (".runs.7.", [], None, 10, 0), 1, {"store_items": 1}),
    (
        "write_store_items",
        (*HELD, [".runs.7."] * 2, ["700", "new"], ["{}"] * 2),
        1,
        {"runs": 1, "store_items": 1},
    ),
]


# Each with the rows that it reads at most. Where statuses are merged, one more of each; and of those that are
# running all that are held, unless they are of one campaign.
HOLDS = sum(n % 2 == 0 and STATUSES[n // 7 % len(STATUSES)] == "running" for n in range(1, RUNS + 1)) + 1
ANYWHERE: dict[str, Any] = {}
IN_WORKFLOW, IN_CAMPAIGN = {"workflow_name": WORKFLOW}, {"campaign_id": CAMPAIGN}
ALWAYS: dict[str, Any] = {}
BETWEEN = {"created_after": BEGIN, "created_before": BEGIN + timedelta(seconds=150_000)}
SEARCHES: list[tuple[RunFilter, int]] = [
    (RunFilter(**scope, **state, **times), most)
    for scope in (ANYWHERE, IN_WORKFLOW, IN_CAMPAIGN)
    for state, most in (
        (ALWAYS, 21 if scope is IN_CAMPAIGN else 25 + HOLDS),
        ({"statuses": (RunStatus.FAILED,)}, 21),
        ({"statuses": (RunStatus.COMPLETED, RunStatus.QUEUED)}, 22),
        ({"statuses": (RunStatus.RUNNING,)}, 21 if scope is IN_CAMPAIGN else 22 + HOLDS),
        # Of the campaign's runs every seventh is one.
        ({"error_code": "STEP_FAILED"}, 150 if scope is IN_CAMPAIGN else 21),
        ({"is_waiting": True}, 150 if scope is IN_CAMPAIGN else 21),
    )
    for times in (ALWAYS, BETWEEN)
]

TO_PURGE = {"tenant": (1, {"runs": 1}), "first": (100, {"runs": 100}), "next": (100, {"runs": 100})}

# For the functions that return at once, and plan no more, where they find nothing to do.
ONE_OF_EACH = f"""
INSERT INTO runs (tenant_id, id, workflow_name, encoded_input, status, epoch, campaign_id, lease_expires_at)
SELECT '{TENANT}', id::uuid, '{WORKFLOW}', '\\x{INPUT.hex()}', 'running', 1, '{CAMPAIGN}', now() + lease
FROM (VALUES ('{RUNNING}', interval '1 day'), ('{MANY[0]}', interval '-1 hour')) AS held(id, lease);
INSERT INTO bulk_operations (tenant_id, id, action, status, pace, matched, processed, actor)
VALUES ('{TENANT}', '{OPERATION}', 'cancel', 'running', 1000, 1, 0, 'user_test');
INSERT INTO bulk_operation_items (tenant_id, operation_id, place, run_id)
VALUES ('{TENANT}', '{OPERATION}', 1, '{RUNNING}')"""


def test_every_function_is_looked_at() -> None:
    assert {name for name, *_ in CASES} == called()


async def wrong(session: Session) -> list[Any]:
    """What statements answer and read, of those that do not do as they should."""
    found: list[Any] = []
    for statement, arguments, *expected in CASES:
        if (seen := list(await session.reads(statement, *arguments))) != expected:
            found.append((statement, seen, expected))
    for wanted, most in SEARCHES:
        for after in (None, AFTER):
            number, read = await session.reads_found(wanted, after)
            if number != 21 or not read.keys() <= {"runs"} or read["runs"] > most:
                found.append((wanted, after, number, read, most))
    if (to_purge := await session.reads_to_purge()) != TO_PURGE:
        found.append((to_purge, TO_PURGE))
    return found


async def test_every_statement_reads_what_it_needs_by_an_index_whenever_it_was_planned() -> None:
    host = os.environ["RUNENGINE_TEST_POSTGRES"]
    name = f"test_{uuid4().hex}"
    admin = await asyncpg.connect(f"postgresql://postgres@/postgres?host={host}")
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE runengine")
    filling = await asyncpg.connect(f"postgresql://postgres@/{name}?host={host}")
    await filling.execute(WITHOUT_AUTOVACUUM)
    database = Database(f"postgresql://runengine_app@/{name}?host={quote(host, safe='%')}", 1)
    await database.open()
    session = Session(database)
    await filling.execute(ONE_OF_EACH)
    for statement, arguments, *_ in CASES:
        await session.reads(statement, *arguments)
    for wanted, _ in SEARCHES:
        await session.reads_found(wanted, None)
    await session.reads_to_purge()
    await filling.execute("DELETE FROM bulk_operation_items; DELETE FROM bulk_operations; DELETE FROM runs")
    await filling.execute(FILL)
    assert await wrong(session) == []
    await filling.execute("ANALYZE")
    assert await wrong(session) == []
    await filling.close()
    await database.close()
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()
