"""How each guard of the product is taken out of a process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from tests.support.rewritten_functions import rewrite

_UNFENCED = """(SELECT attempt FROM public.runs
        WHERE tenant_id = _tenant AND id = _run AND status = 'running' FOR KEY SHARE)"""

RUN_IS_HERE = "(SELECT true FROM public.runs WHERE tenant_id = _tenant AND runs.id = stored.run_id)"
CLAIMS = ("claim_queued", "claim_expired")
ENDING = (
    "record_progress",
    "record_next_step",
    "fail_step",
    "discard_writes",
    "end_run",
    "complete_runs",
    "end_steps",
    "make_cancelled",
)
ORDER = """
            AND (campaigns.latest_run_id IS NULL OR (run.created_at, run.id, run.attempt)
                > (campaigns.latest_run_created_at, campaigns.latest_run_id, campaigns.latest_run_attempt))"""


def rewriting(functions: Iterable[str], guard: str, instead: str) -> Callable[[], None]:
    def apply() -> None:
        for name in functions:
            rewrite(name, guard, instead)

    return apply


def epoch_of(function: str) -> Callable[[], None]:
    return rewriting([function], "hold_lease(_tenant, _run, _epoch)", _UNFENCED)


def epoch_of_progress() -> None:
    rewrite("record_progress", "hold_lease(_tenant, run, _epochs[place])", _UNFENCED.replace("_run ", "run "))
    epoch_of("record_next_step")()


def lock_order_of_progress() -> None:
    from runengine_server.repositories import record_progress

    _put(record_progress, "_lock_order", lambda calls: range(len(calls)))


def values_of_a_step_that_was_given_up() -> None:
    from runengine_server.repositories.write_behind import PendingWrites

    results = property(lambda each: bool(each.completed_step or each.writes or each.checkpoint))
    _put(PendingWrites, "has_results", results)


def state_kept_from_call_to_call() -> None:
    from runengine_server.worker.graph import superseded

    _put(superseded, "enclosing_namespace", lambda namespace: "" if namespace else None)


def ancestors_of_a_delta_channel() -> None:
    from runengine_server.worker.graph import superseded

    put = superseded.Superseded.put

    def put_without_counters(self: Any, namespace: str, checkpoint: Any, metadata: Any, size: int) -> bool:
        return put(self, namespace, checkpoint, {"source": metadata.get("source")}, size)

    superseded.Superseded.put = put_without_counters  # type: ignore[method-assign]


def superseded_goes() -> None:
    from runengine_server.worker.graph import superseded

    superseded.Superseded.take = lambda self, size: ({}, [])  # type: ignore[method-assign]


def status_of_retry() -> None:
    # The statement's own guard, the lock under which the status was read before it, and what it read.
    rewrite("lock_run", " FOR UPDATE", "")
    rewrite("make_queued", "AND status = _source", "AND status <> 'completed'")


def single_call_after_a_failed_batch() -> None:
    from runengine_server.database import batcher

    _put(batcher, "has_rolled_back", lambda error: False)


def end_of_what_may_have_been_committed() -> None:
    from runengine_server.database import batcher

    _put(batcher, "has_rolled_back", lambda error: True)


def campaign_in_own_transaction() -> None:
    from runengine_server.database.functions import schema
    from runengine_server.repositories.held_run_repository import HeldRunRepository
    from runengine_server.repositories.run_outcome import RunOutcome

    scopes: dict[Any, tuple[Any, str]] = {}
    create = HeldRunRepository.__init__

    def remember(self: Any, database: Any, run: Any, *others: Any) -> None:
        create(self, database, run, *others)
        scopes[run.id] = database.tenant(run.tenant_id), run.tenant_id

    async def update_campaign(self: Any, *arguments: Any) -> None:
        scope, tenant_id = scopes[arguments[-1]]
        await scope.fetch(f"SELECT {schema()}.move_campaign($1, $2, $3, $4, $5)", tenant_id, *arguments)

    HeldRunRepository.__init__ = remember  # type: ignore[method-assign, assignment]
    RunOutcome.update_campaign = update_campaign  # type: ignore[method-assign, assignment]


def force_row_level_security() -> None:
    from alembic import op

    execute = op.execute

    def without_force(sql: Any, *arguments: Any, **named: Any) -> None:
        if "FORCE ROW LEVEL SECURITY" not in str(sql):
            execute(sql, *arguments, **named)

    op.execute = without_force  # type: ignore[assignment]


def tenant_predicate() -> None:
    for name in (
        "get_run",
        "list_campaign_runs",
        "campaign_runs_in",
        "count_campaign_runs",
        "get_run_output",
        "get_run_step_data",
        "list_run_events",
        "begin_watch",
        "newest_runs",
        "resume_watch",
        "find_changes",
        "list_changes",
        "list_run_steps",
        "lock_run",
        "end_steps",
        "make_cancelled",
        "make_queued",
        "resume_run",
    ):
        rewrite(name, "tenant_id = _tenant", "tenant_id IS NOT NULL")


def tie_break() -> None:
    for name in ("list_campaign_runs", "list_campaign_runs_by_status", "campaign_runs_in"):
        rewrite(name, "created_at DESC, id DESC", "created_at DESC")


def clock_of_leases() -> None:
    import asyncpg

    clock = "current_setting('runengine.clock')::timestamptz"
    for name in ("renew_lease", "renew_leases_ahead", "heartbeat"):
        rewrite(name, "clock_timestamp() + make_interval", f"{clock} + make_interval")

    def by_the_application(fetch: Any) -> Any:
        async def told(self: Any, query: str, *arguments: Any, **named: Any) -> Any:
            now = f"to_timestamp({time.time()})::text"
            await self.execute(f"SELECT set_config('runengine.clock', {now}, false)")
            return await fetch(self, query, *arguments, **named)

        return told

    for kind in (asyncpg.Connection, asyncpg.pool.PoolConnectionProxy):
        kind.fetch = by_the_application(kind.fetch)  # type: ignore[method-assign]


def poll() -> None:
    from runengine_server.worker.worker import Worker

    create = Worker.__init__

    def without_poll(self: Any, *arguments: Any, **named: Any) -> None:
        create(self, *arguments, **named)
        self.poll_seconds = 1e6

    Worker.__init__ = without_poll  # type: ignore[method-assign]


def tail_of_a_full_queue() -> None:
    from runengine_server.database import notifier

    notifier.ADVANCE_QUEUE_TAIL = "SELECT"


def catch_all() -> None:
    from runengine_server.domain.errors import RunEngineError
    from runengine_server.rpc import interceptor

    abort = interceptor.abort

    async def only_ours(method: str, context: Any, error: BaseException) -> None:
        if not isinstance(error, RunEngineError):
            raise error
        await abort(method, context, error)

    interceptor.abort = only_ours


def azp() -> None:
    from runengine_server.auth.clerk import ClerkVerifier

    ClerkVerifier.check_party = lambda self, party: None  # type: ignore[method-assign]


def category() -> None:
    from runengine_server.auth import clerk

    clerk.check_category = lambda header, machine: None


def lease_before_a_node() -> None:
    from runengine_server.worker.heartbeat import Heartbeat

    Heartbeat.holds_lease = lambda self, run: True  # type: ignore[method-assign]


def watch_over_the_loop() -> None:
    from runengine_server.worker.loop_watch import LoopWatch

    LoopWatch.check = lambda self: 0.0  # type: ignore[method-assign]


def bound_of_hand_backs() -> None:
    from runengine_server.worker import processor

    vars(processor)["MAX_HAND_BACKS"] = 10**6


def reset_of_forked_children() -> None:
    from runengine_server.processes import worker

    vars(worker)["detach_forked_children"] = lambda *_: None


def abandoned_threads_are_replaced() -> None:
    from runengine_server.worker.node_threads import NodeThreads

    NodeThreads.abandon = lambda self, call: None  # type: ignore[method-assign]


def patience_with_a_slow_link() -> None:
    from runengine_server.database import deadline_extender

    _put(deadline_extender, "transfer_counters", lambda connection: ())


def denial_is_no_refusal() -> None:
    from runengine_server.database import driver_errors

    _put(driver_errors, "DENIALS", ())


def look_at_grants() -> None:
    from runengine_server.database import database

    guard = "NOT has_table_privilege"
    assert guard in database.CHECK_ROLE
    _put(database, "CHECK_ROLE", database.CHECK_ROLE.replace(guard, f"false AND {guard[4:]}"))


def clock_of_a_node() -> None:
    from runengine_server.worker.graph.time_limit import NodeClock

    _put(NodeClock, "stop", lambda self: None)
    _put(NodeClock, "resume", lambda self: None)


def signal_to_a_blocked_worker() -> None:
    from runengine_server.lifecycle import ProcessLifecycle

    _put(ProcessLifecycle, "also_outside_the_loop", lambda self, of_loop: of_loop)


def _put(module: Any, name: str, instead: Any) -> None:
    assert hasattr(module, name)
    setattr(module, name, instead)


def look_for_due_nodes() -> None:
    from runengine_server.worker import processor
    from runengine_server.worker.graph import checkpointer

    _put(checkpointer, "missing", lambda *due: [])
    _put(processor, "still_due", lambda values: [])


def look_where_an_edge_leads() -> None:
    from runengine_server.worker.graph import checkpointer

    _put(checkpointer, "edges_to_nowhere", lambda *written: iter(()))


def gate_before_a_node() -> None:
    from runengine_server.worker.graph import checkpointer

    _put(checkpointer, "GATE", "__start__")


def gate_after_a_node() -> None:
    from runengine_server.worker.graph.load import Workflow

    _put(Workflow, "gates_after", lambda *done: [])


def completed_handler() -> None:
    from runengine_server.worker.graph import checkpointer

    def as_stored(writes: Any) -> Any:
        return ((task_id, channel, value) for task_id, _, channel, value in writes)

    _put(checkpointer, "with_handlers", as_stored)


def code_in_the_key_of_the_cache() -> None:
    from runengine_server.worker.graph import recorded_node

    _put(recorded_node, "fingerprint", lambda node: b"")


def limit_of_an_error_handler() -> None:
    from runengine_server.worker.graph import recording

    _put(recording, "TimeLimit", lambda name, bound, seconds: bound)


def rules_of_requests() -> None:
    from runengine_server.rpc import validation

    _put(validation, "checks_of", lambda message: [])


def bounds_of_a_resume() -> None:
    from runengine_server.commands import resume_run

    _put(resume_run, "violations_of", lambda given, path: [])


def bound_of_a_jwks() -> None:
    from runengine_server.auth import jwks

    _put(jwks, "MAX_BYTES", 2**30)


def what_policies_read() -> None:
    from runengine_server.database import connecting

    for name in ("runengine.dispatch", "runengine.tenant", "runengine.all_tenants"):
        del connecting.CALL_SETTINGS[name]


def age_of_a_swept_artifact() -> None:
    from runengine_server.worker import artifact_sweep

    _put(artifact_sweep, "OLD_SECONDS", 0.0)


def room_on_the_disk() -> None:
    from runengine_server.database.database import Database

    async def look_at_nothing(database: Database) -> None:
        pass

    _put(Database, "check_disk", look_at_nothing)


def withdrawal_of_a_worker() -> None:
    from runengine_server.repositories.queue_repository import QueueRepository

    async def withdraw_nothing(queue: QueueRepository) -> None:
        pass

    _put(QueueRepository, "withdraw_workflows", withdraw_nothing)


def written_as_stored() -> None:
    from runengine_server.worker.graph.storing_node import StoringNode

    _put(StoringNode, "as_stored", lambda self, channel, value: value)


def reduced_as_stored() -> None:
    from runengine_server.worker.graph import channels

    _put(channels, "with_objects_as_stored", lambda value, known, key: value)


def type_of_what_was_stored() -> None:
    from runengine_server.worker.graph import stored_values

    _put(stored_values, "find_changed", lambda before, after: None)


def cached_as_stored() -> None:
    from runengine_server.worker.graph import recorded_node

    _put(recorded_node, "as_stored", lambda value: value)


def rejected_write_is_forgotten() -> None:
    from runengine_server.worker.graph.execution import Execution

    async def keep(*arguments: Any) -> None: ...

    _put(Execution, "discard_rejected_writes", keep)
