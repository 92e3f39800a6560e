"""Takes each guard of the product out in turn, and sees a test fail: `python -m tests.faults.mutants`.

A guard whose absence no test notices is a guard that nobody knows to be there. The environment
variable RUNENGINE_MUTANT, with the name of one, applies it to the test process and to every
process of the product that the tests start.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tests import patience
from tests.rewriting import rewrite

VARIABLE = "RUNENGINE_MUTANT"
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# A net under what hangs for good: no verdict comes from it.
_SECONDS = 1800
# Of a line in pytest's summary. What is waited for in vain, or cannot be set up, tells nothing of a guard.
_ASSERTION = re.compile(r" - (assert |AssertionError|Failed: DID NOT RAISE)")


_UNFENCED = """(SELECT attempt FROM public.runs
        WHERE tenant_id = _tenant AND id = _run AND status = 'running' FOR KEY SHARE)"""


_RUN_IS_HERE = "(SELECT true FROM public.runs WHERE tenant_id = _tenant AND runs.id = stored.run_id)"
_CLAIMS = ("claim_queued", "claim_expired")
_ENDING = ("store_progress", "fail_step", "take_back", "end_run", "end_steps", "cancel_run")
_ORDER = """
        AND (campaigns.latest_run_id IS NULL OR (run.created_at, run.id, run.attempt)
            > (campaigns.latest_run_created_at, campaigns.latest_run_id, campaigns.latest_run_attempt))"""


def _in(functions: Iterable[str], guard: str, instead: str) -> Callable[[], None]:
    def apply() -> None:
        for name in functions:
            rewrite(name, guard, instead)

    return apply


def _epoch_of(function: str) -> Callable[[], None]:
    return _in([function], "hold_lease(_tenant, _run, _epoch)", _UNFENCED)


def _state_kept_from_call_to_call() -> None:
    from runengine_server.worker.graph import superseded

    put = superseded.Superseded.put

    def put_and_forget_all_within(self: Any, namespace: str, *arguments: Any) -> bool:
        if namespace == "":
            self._within[""] = set(self._needed) - {""}
        return put(self, namespace, *arguments)

    superseded.Superseded.put = put_and_forget_all_within  # type: ignore[assignment, method-assign]


def _ancestors_of_a_delta_channel() -> None:
    from runengine_server.worker.graph import superseded

    put = superseded.Superseded.put

    def put_without_counters(self: Any, namespace: str, checkpoint: Any, metadata: Any, size: int) -> bool:
        return put(self, namespace, checkpoint, {"source": metadata.get("source")}, size)

    superseded.Superseded.put = put_without_counters  # type: ignore[method-assign]


def _superseded_goes() -> None:
    from runengine_server.worker.graph import superseded

    superseded.Superseded.due = lambda self, size: ({}, [])  # type: ignore[method-assign]


def _status_of_retry() -> None:
    # The statement's own guard, the lock under which the status was read before it, and what it read.
    rewrite("lock_run", " FOR UPDATE", "")
    rewrite("retry_run", "AND status = result.status", "AND status <> 'completed'")


def _campaign_in_own_transaction() -> None:
    from runengine_server.database.functions import schema
    from runengine_server.repositories.held_run_repository import EndingRun, HeldRunRepository

    scopes: dict[Any, tuple[Any, str]] = {}
    create = HeldRunRepository.__init__

    def remember(self: Any, database: Any, run: Any, worker: str) -> None:
        create(self, database, run, worker)
        scopes[run.id] = database.tenant(run.tenant_id), run.tenant_id

    async def update_campaign(self: Any, *arguments: Any) -> None:
        scope, tenant_id = scopes[arguments[-1]]
        await scope.fetch(f"SELECT {schema()}.move_campaign($1, $2, $3, $4, $5)", tenant_id, *arguments)

    HeldRunRepository.__init__ = remember  # type: ignore[method-assign]
    EndingRun.update_campaign = update_campaign  # type: ignore[method-assign, assignment]


def _force_row_level_security() -> None:
    from alembic import op

    execute = op.execute

    def without_force(sql: Any, *arguments: Any, **named: Any) -> None:
        if "FORCE ROW LEVEL SECURITY" not in str(sql):
            execute(sql, *arguments, **named)

    op.execute = without_force  # type: ignore[assignment]


def _tenant_predicate() -> None:
    for name in (
        "get_run",
        "list_campaign_runs",
        "campaign_runs_in",
        "count_campaign_runs",
        "list_run_events",
        "list_run_steps",
        "lock_run",
        "end_steps",
        "cancel_run",
        "retry_run",
    ):
        rewrite(name, "tenant_id = _tenant", "tenant_id IS NOT NULL")


def _tie_break() -> None:
    for name in ("list_campaign_runs", "list_campaign_runs_by_status", "campaign_runs_in"):
        rewrite(name, "created_at DESC, id DESC", "created_at DESC")


def _clock_of_leases() -> None:
    import asyncpg

    clock = "current_setting('runengine.clock')::timestamptz"
    for name in ("claim_queued", "claim_expired", "heartbeat"):
        rewrite(name, "clock_timestamp() + make_interval", f"{clock} + make_interval")

    def by_the_application(fetch: Any) -> Any:
        async def told(self: Any, query: str, *arguments: Any, **named: Any) -> Any:
            now = f"to_timestamp({time.time()})::text"
            await self.execute(f"SELECT set_config('runengine.clock', {now}, false)")
            return await fetch(self, query, *arguments, **named)

        return told

    for kind in (asyncpg.Connection, asyncpg.pool.PoolConnectionProxy):
        kind.fetch = by_the_application(kind.fetch)  # type: ignore[method-assign]


def _poll() -> None:
    from runengine_server.worker.worker import Worker

    create = Worker.__init__

    def without_poll(self: Any, *arguments: Any, **named: Any) -> None:
        create(self, *arguments, **named)
        self._poll_seconds = 1e6

    Worker.__init__ = without_poll  # type: ignore[method-assign]


def _tail_of_a_full_queue() -> None:
    from runengine_server.database import notifier

    notifier._ADVANCE_TAIL = "SELECT"


def _catch_all() -> None:
    from runengine_server.domain.errors import RunEngineError
    from runengine_server.rpc import interceptor

    abort = interceptor._abort

    async def only_ours(method: str, context: Any, error: BaseException) -> None:
        if not isinstance(error, RunEngineError):
            raise error
        await abort(method, context, error)

    interceptor._abort = only_ours


def _azp() -> None:
    from runengine_server.auth.clerk import ClerkVerifier

    ClerkVerifier._check_party = lambda self, party: None  # type: ignore[method-assign]


def _category() -> None:
    from runengine_server.auth import clerk

    clerk._check_category = lambda header, machine: None


def _lease_before_a_node() -> None:
    from runengine_server.worker.heartbeat import Heartbeat

    Heartbeat.holds = lambda self, run: True  # type: ignore[method-assign]


def _watch_over_the_loop() -> None:
    from runengine_server.worker.loop_watch import LoopWatch

    LoopWatch.look = lambda self: 0.0  # type: ignore[method-assign]


def _bound_of_hand_backs() -> None:
    from runengine_server.worker import processor

    vars(processor)["MAX_HAND_BACKS"] = 10**6


def _reset_of_forked_children() -> None:
    from runengine_server.processes import app

    vars(app)["release_forked_children"] = lambda *_: None


def _threads_left_are_replaced() -> None:
    from runengine_server.worker.node_threads import NodeThreads

    NodeThreads._leave = lambda self, call: None  # type: ignore[method-assign]


def _patience_with_a_slow_link() -> None:
    from runengine_server.database.patience import Patience

    _put(Patience, "_look", lambda self: None)


def _denial_is_no_refusal() -> None:
    from runengine_server.database import driver_errors

    _put(driver_errors, "DENIALS", ())


def _look_at_grants() -> None:
    from runengine_server.database import database

    guard = "NOT has_table_privilege"
    assert guard in database._ROLE
    _put(database, "_ROLE", database._ROLE.replace(guard, f"false AND {guard[4:]}"))


def _clock_of_a_node() -> None:
    from runengine_server.worker.graph.time_limit import NodeClock

    _put(NodeClock, "stop", lambda self: None)
    _put(NodeClock, "go_on", lambda self: None)


def _signal_to_a_blocked_worker() -> None:
    from runengine_server.lifecycle import Lifetime

    _put(Lifetime, "_and_tell", lambda self, of_loop: of_loop)


def _put(module: Any, name: str, instead: Any) -> None:
    assert hasattr(module, name)
    setattr(module, name, instead)


def _look_for_due_nodes() -> None:
    from runengine_server.worker import processor
    from runengine_server.worker.graph import checkpointer

    _put(checkpointer, "missing", lambda *due: [])
    _put(processor, "undone", lambda values: [])


def _look_where_an_edge_leads() -> None:
    from runengine_server.worker.graph import checkpointer

    _put(checkpointer, "lost_targets", lambda *written: iter(()))


def _gate_before_a_node() -> None:
    from runengine_server.worker.graph import checkpointer

    _put(checkpointer, "_GATE", "__start__")


def _gate_after_a_node() -> None:
    from runengine_server.worker.graph.load import Workflow

    _put(Workflow, "stops_after", lambda *done: False)


def _completed_handler() -> None:
    from runengine_server.worker.graph import checkpointer

    def as_stored(writes: Any) -> Any:
        return ((task_id, channel, value) for task_id, _, channel, value in writes)

    _put(checkpointer, "with_handlers", as_stored)


def _code_in_the_key_of_the_cache() -> None:
    from runengine_server.worker.graph import recorded_node

    _put(recorded_node, "fingerprint", lambda node: b"")


def _limit_of_an_error_handler() -> None:
    from runengine_server.worker.graph import load

    _put(load, "TimeLimit", lambda name, bound, seconds: bound)


def _place_in_an_idempotency_key() -> None:
    from runengine_server.worker.graph import idempotency_key

    _put(idempotency_key, "place_within", lambda task_id: "")


def _rules_of_requests() -> None:
    from runengine_server.rpc import validation

    _put(validation, "_checks_of", lambda message: [])


def _bound_of_a_jwks() -> None:
    from runengine_server.auth import jwks

    _put(jwks, "_MAX_BYTES", 2**30)


def _what_policies_read() -> None:
    from runengine_server.database import connecting

    for name in ("runengine.dispatch", "runengine.tenant", "runengine.all_tenants"):
        del connecting.OF_CALLS[name]


def _age_of_a_swept_artifact() -> None:
    from runengine_server.worker import artifact_sweep

    _put(artifact_sweep, "_OLD_SECONDS", 0.0)


def _room_on_the_disk() -> None:
    from runengine_server.database.database import Database

    async def look_at_nothing(database: Database) -> None:
        pass

    _put(Database, "check_disk", look_at_nothing)


def _withdrawal_of_a_worker() -> None:
    from runengine_server.repositories.queue_repository import QueueRepository

    async def withdraw_nothing(queue: QueueRepository) -> None:
        pass

    _put(QueueRepository, "withdraw_workflows", withdraw_nothing)


def _written_as_stored() -> None:
    from runengine_server.worker.graph.storing_node import StoringNode

    _put(StoringNode, "_as_stored", lambda self, channel, value: value)


def _reduced_as_stored() -> None:
    from runengine_server.worker.graph import channels

    _put(channels, "with_objects_as_stored", lambda value, known, key: value)


def _type_of_what_was_stored() -> None:
    from runengine_server.worker.graph import stored_values

    _put(stored_values, "_lost", lambda before, after: None)


def _cached_as_stored() -> None:
    from runengine_server.worker.graph import recorded_node

    _put(recorded_node, "as_stored", lambda value: value)


def _rejected_write_is_forgotten() -> None:
    from runengine_server.worker.graph import checkpointer

    async def keep(*arguments: Any) -> None: ...

    _put(checkpointer, "take_back", keep)


def _command_above_the_top() -> None:
    from runengine_server.worker.graph import load, storing_node

    _put(load, "store_writes", lambda graph, is_top=False: storing_node.store_writes(graph))


@dataclass(frozen=True)
class Mutant:
    """A guard taken out, and the tests that have to fail then, each of them by an assertion of its own."""

    name: str
    apply: Callable[[], None]
    tests: tuple[str, ...]


_REFUSED = (
    "integration/test_values.py::test_a_value_that_would_come_back_as_another_is_refused_when_it_is_written"
)
_REJECTED = (
    "integration/test_rejected_writes.py::"
    "test_a_write_that_its_reducer_rejects_fails_its_step_and_a_retry_runs_it_again"
)
_GATES = "integration/test_gates.py::test_a_gate_of_a_sub_graph_holds_however_often_its_run_is_retried"
_HEARTBEATS, _CLOCKS = "integration/test_heartbeat.py", "postgresql/test_moved_clock.py"
_SWEPT = "integration/test_artifact_sweep.py::"
_SWEPT += "test_what_has_no_row_is_deleted_once_it_is_a_day_old_and_nothing_else"
_LOST = "faults/test_guards.py::test_a_worker_that_has_lost_its_run_changes_nothing"


def _mutant(name: str, apply: Callable[[], None], *tests: str) -> Mutant:
    return Mutant(name, apply, tuple(f"tests/{test}" for test in tests))


MUTANTS = (
    _mutant("epoch in the end of a run", _in(["end_run"], "AND epoch = _epoch", ""), _LOST),
    _mutant("epoch in the begin of a step", _epoch_of("begin_step"), _LOST),
    _mutant("epoch in the failure of a step", _epoch_of("fail_step"), _LOST),
    _mutant(
        "epoch in what a step wrote and in a checkpoint",
        _epoch_of("record_progress"),
        _LOST,
        "integration/test_pruning.py::test_a_worker_that_lost_its_run_prunes_nothing",
    ),
    _mutant(
        "state that a sub-graph keeps from call to call",
        _state_kept_from_call_to_call,
        "integration/test_pruning.py::test_a_sub_graph_that_keeps_its_state_from_call_to_call_still_does",
    ),
    _mutant(
        "ancestors that a delta channel is replayed from",
        _ancestors_of_a_delta_channel,
        "integration/test_pruning.py::test_a_delta_channel_keeps_its_values_and_little_more",
    ),
    _mutant(
        "what is superseded goes while the run goes on",
        _superseded_goes,
        "integration/test_pruning.py::test_a_loop_keeps_what_it_resumes_from_and_no_more",
    ),
    _mutant("epoch in an artifact", _epoch_of("save_artifact"), _LOST),
    _mutant("epoch in a cache entry", _epoch_of("save_cached"), _LOST),
    _mutant(
        "epoch in the heartbeat and the handing back",
        _in(["own_runs", "lock_own_runs"], "AND runs.epoch = held.epoch", ""),
        _LOST,
    ),
    _mutant(
        "a claim raises the epoch",
        _in(["claim_queued", "claim_expired"], "epoch = epoch + 1", "epoch = epoch"),
        _LOST,
    ),
    _mutant("status in the fence", _in(["hold_lease"], " AND status = 'running'", ""), _LOST),
    _mutant(
        "order of a campaign's runs",
        _in(["move_campaign"], _ORDER, ""),
        "e2e/test_lifecycle.py::test_a_slow_old_run_does_not_overwrite_a_newer_one",
    ),
    _mutant(
        "insert of an idempotency key",
        _in(["claim_idempotency_key"], "WHILE _key IS NOT NULL LOOP", "WHILE false LOOP"),
        "integration/test_idempotency.py::test_fifty_triggers_at_once_make_one_run",
    ),
    _mutant(
        "status in a retry",
        _status_of_retry,
        "integration/test_races.py::test_of_many_retries_at_once_one_wins",
    ),
    _mutant(
        "campaign in the transaction of its run",
        _campaign_in_own_transaction,
        "faults/test_guards.py::test_the_run_its_campaign_and_its_counts_move_together_or_not_at_all",
    ),
    _mutant(
        "SKIP LOCKED",
        _in(_CLAIMS, "FOR UPDATE SKIP LOCKED", "FOR UPDATE"),
        "faults/test_guards.py::test_a_claimer_does_not_wait_for_a_run_that_another_has_locked",
    ),
    _mutant(
        "SKIP LOCKED in the heartbeat",
        _in(["lock_own_runs"], " SKIP LOCKED", ""),
        f"{_HEARTBEATS}::test_a_run_that_is_locked_keeps_no_other_from_being_renewed",
        f"{_HEARTBEATS}::test_a_run_that_is_locked_keeps_no_other_from_being_handed_back",
    ),
    _mutant(
        "lock of the fence",
        _in(["hold_lease"], " FOR KEY SHARE", ""),
        f"{_HEARTBEATS}::test_a_run_is_renewed_while_a_large_state_of_its_own_is_stored",
    ),
    _mutant(
        "heartbeat beside the fence",
        _in(["hold_lease"], "FOR KEY SHARE", "FOR SHARE"),
        f"{_HEARTBEATS}::test_a_run_is_renewed_while_a_large_state_of_its_own_is_stored",
    ),
    _mutant(
        "end of a lease before a clock that went back",
        _in(["claim_expired"], "secs => lease_seconds + 1", "secs => 1e9"),
        f"{_CLOCKS}::test_a_run_whose_worker_is_lost_goes_on_a_lease_after_the_clock_went_back",
    ),
    _mutant(
        "patience with a slow link",
        _patience_with_a_slow_link,
        "postgresql/test_slow_link.py::test_a_large_state_is_stored_and_read_again_however_slow_the_link_is",
    ),
    _mutant(
        "a denial is no refusal",
        _denial_is_no_refusal,
        "postgresql/test_revoked.py::test_a_run_goes_on_once_what_was_revoked_is_granted_again[18-one table]",
    ),
    _mutant(
        "look at what is granted",
        _look_at_grants,
        "postgresql/test_revoked.py::test_a_process_sees_that_one_grant_is_missing_and_that_it_is_back[18]",
    ),
    _mutant(
        "clock of a node that waits for a thread",
        _clock_of_a_node,
        "integration/test_node_threads.py::"
        "test_a_node_that_waits_for_its_thread_has_its_whole_time_from_then_on",
    ),
    _mutant(
        "signal to a blocked worker",
        _signal_to_a_blocked_worker,
        "unit/test_lifecycle.py::test_a_signal_is_heard_while_the_event_loop_does_not_move",
    ),
    _mutant(
        "end of a step after its start",
        _in(_ENDING, "greatest(public.now_ms(), started_at)", "public.now_ms()"),
        f"{_CLOCKS}::test_nothing_takes_less_than_no_time_when_the_clock_goes_back",
    ),
    _mutant(
        "FORCE ROW LEVEL SECURITY",
        _force_row_level_security,
        "integration/test_tenancy.py::test_every_table_with_a_tenant_is_under_forced_policies",
    ),
    _mutant(
        "tenant in a query",
        _tenant_predicate,
        "integration/test_tenancy.py::test_predicates_alone_hide_every_foreign_row",
    ),
    _mutant(
        "id in the order of a list",
        _tie_break,
        "integration/test_list.py::test_runs_of_one_moment_are_in_the_order_of_their_ids_whatever_their_status",
    ),
    _mutant(
        "clock of leases",
        _clock_of_leases,
        "faults/test_guards.py::test_leases_are_told_by_the_clock_of_the_database_alone",
    ),
    _mutant(
        "poll behind NOTIFY", _poll, "faults/test_guards.py::test_what_is_not_notified_is_found_all_the_same"
    ),
    _mutant(
        "tail of a full queue of notifications",
        _tail_of_a_full_queue,
        "integration/test_notifications.py::test_a_queue_that_was_full_takes_the_first_notification_after",
    ),
    _mutant(
        "rules of requests",
        _rules_of_requests,
        "unit/test_validation.py::test_a_request_violates_what_protovalidate_says_it_violates",
    ),
    _mutant(
        "bound of a JWKS",
        _bound_of_a_jwks,
        "integration/test_jwks.py::test_the_last_good_keys_stay_in_use_during_an_outage",
    ),
    _mutant(
        "catch-all of the interceptor",
        _catch_all,
        "integration/test_faults_of_ours.py::test_no_value_reaches_a_caller_or_a_log",
    ),
    _mutant(
        "look for due nodes on resume",
        _look_for_due_nodes,
        "integration/test_changed_graphs.py::test_a_run_whose_due_node_was_renamed_fails_until_it_is_back",
    ),
    _mutant(
        "look where an edge leads",
        _look_where_an_edge_leads,
        "integration/test_changed_graphs.py::test_an_entry_that_leads_to_no_node_fails_the_run",
    ),
    _mutant("gate before a node", _gate_before_a_node, f"{_GATES}[before]"),
    _mutant("gate after a node", _gate_after_a_node, f"{_GATES}[after]", f"{_GATES}[called_after]"),
    _mutant(
        "what is written is as stored",
        _written_as_stored,
        "integration/test_values.py::"
        "test_a_value_that_came_straight_on_is_the_one_that_comes_after_a_retry[in_an_update]",
    ),
    _mutant(
        "what a reducer makes is as stored",
        _reduced_as_stored,
        "integration/test_values.py::test_what_a_reducer_makes_is_the_same_after_a_retry[False]",
    ),
    _mutant(
        "type of what was stored",
        _type_of_what_was_stored,
        f"{_REFUSED}[of a function]",
        f"{_REFUSED}[an error]",
    ),
    _mutant(
        "what is put into the cache is as stored",
        _cached_as_stored,
        "integration/test_values.py::test_a_value_from_the_cache_is_the_one_that_was_put_there[True]",
    ),
    _mutant("rejected write is forgotten", _rejected_write_is_forgotten, f"{_REJECTED}[in_a_chain]"),
    _mutant(
        "step of a rejected write",
        _in(["take_back"], "status IN ('running', 'completed')", "status = 'running'"),
        f"{_REJECTED}[beside_others]",
    ),
    _mutant(
        "command above the top",
        _command_above_the_top,
        "integration/test_sub_graphs.py::"
        "test_a_command_to_a_graph_above_that_there_is_not_fails_its_step_and_says_so",
    ),
    _mutant(
        "completed error handler",
        _completed_handler,
        "integration/test_engine.py::test_a_completed_handler_does_not_run_again_when_the_run_is_retried",
    ),
    _mutant(
        "code in the key of the cache",
        _code_in_the_key_of_the_cache,
        "integration/test_engine.py::test_a_cached_step_whose_code_has_changed_is_executed",
    ),
    _mutant(
        "time limit of an error handler",
        _limit_of_an_error_handler,
        "integration/test_timeouts.py::test_a_time_limit_holds_for",
    ),
    _mutant(
        "place in an idempotency key",
        _place_in_an_idempotency_key,
        "integration/test_sub_graphs.py::test_branches_and_rounds_of_a_sub_graph_have_a_key_each",
    ),
    _mutant(
        "azp of a token", _azp, "unit/test_tokens.py::test_a_bad_token_is_refused_however_often_it_comes"
    ),
    _mutant(
        "category of a token",
        _category,
        "unit/test_tokens.py::test_a_bad_token_is_refused_however_often_it_comes",
    ),
    _mutant(
        "lease before a node",
        _lease_before_a_node,
        "integration/test_heartbeat.py::"
        "test_a_node_is_not_entered_once_the_lease_has_ended_while_its_begin_was_under_way",
        "integration/test_heartbeat.py::"
        "test_a_sync_node_that_waited_for_its_thread_until_the_lease_had_ended_is_not_entered",
        "faults/test_zombies_enter.py::test_no_zombie_enters_a_node",
    ),
    _mutant(
        "watch over the event loop",
        _watch_over_the_loop,
        f"{_HEARTBEATS}::"
        "test_the_process_ends_when_its_event_loop_does_not_move_and_its_runs_are_handed_back",
    ),
    _mutant(
        "bound of hand-backs",
        _bound_of_hand_backs,
        "integration/test_hand_backs.py::test_pauses_grow_and_a_bound_ends_the_run_with_a_code_of_its_own",
    ),
    _mutant(
        "pause between hand-backs",
        _in(["hand_back"], "= 1 THEN '-infinity'", "> 0 THEN '-infinity'"),
        "integration/test_hand_backs.py::test_pauses_grow_and_a_bound_ends_the_run_with_a_code_of_its_own",
    ),
    _mutant(
        "reset of forked children",
        _reset_of_forked_children,
        "e2e/test_children_of_nodes.py::test_a_signal_to_a_forked_child_ends_the_child_and_not_the_worker",
    ),
    _mutant(
        "replacement of threads left behind",
        _threads_left_are_replaced,
        "integration/test_node_threads.py::"
        "test_threads_left_behind_are_replaced_counted_and_logged_with_their_run",
    ),
    _mutant(
        "what policies read in a session",
        _what_policies_read,
        "postgresql/test_defaults.py::test_a_tenant_sees_its_own_alone_and_nobody_sees_nothing"
        "[18-what policies read-direct]",
    ),
    _mutant(
        "search_path of functions",
        _in(["get_run", "claim_queued"], " SET search_path FROM CURRENT", ""),
        "postgresql/test_defaults.py::test_a_function_means_the_same_on_any_path_of_who_calls_it[18]",
    ),
    _mutant("run of a swept artifact", _in(["artifacts_without_row"], _RUN_IS_HERE, "true"), _SWEPT),
    _mutant("age of a swept artifact", _age_of_a_swept_artifact, _SWEPT),
    _mutant(
        "room on the disk",
        _room_on_the_disk,
        "integration/test_full_disk.py::test_a_process_that_watches_sees_that_there_is_no_room_and_that_there_is",
    ),
    _mutant(
        "withdrawal of a worker",
        _withdrawal_of_a_worker,
        "integration/test_served_workflows.py::"
        "test_a_worker_that_stopped_is_gone_at_once_and_a_killed_one_when_it_has_expired",
    ),
    _mutant(
        "expiry of a worker",
        _in(["count_workers"], "AND expires_at > statement_timestamp()", ""),
        "integration/test_served_workflows.py::"
        "test_the_log_tells_of_queued_runs_without_a_worker_once_a_change",
    ),
)


def apply(name: str) -> None:
    """Takes that guard out of this process."""
    next(mutant for mutant in MUTANTS if mutant.name == name).apply()


def _pytest(tests: Iterable[str], mutant: str | None) -> subprocess.CompletedProcess[str]:
    """Raises subprocess.TimeoutExpired."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RUNENGINE_")}
    if mutant is not None:
        environment[VARIABLE] = mutant
        environment[patience.VARIABLE] = "30"  # what a test waits for may never come
    environment["COLUMNS"] = "300"  # room for the reasons in pytest's summary
    at_once = "2" if mutant is None else "0"
    command = [sys.executable, "-m", "pytest", "-x", "-n", at_once, "-p", "no:cacheprovider", *tests]
    return subprocess.run(
        command, cwd=_ROOT, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False
    )


def _judge(mutant: Mutant) -> tuple[str, list[str]]:
    """("killed", by which tests and why), or ("SURVIVED" or "BROKEN", what pytest said)."""
    killers = []
    for test in mutant.tests:
        try:
            done = _pytest([test], mutant.name)
        except subprocess.TimeoutExpired:
            return "BROKEN", [f"{test} has no end"]
        if done.returncode == 0:
            return "SURVIVED", [test]
        failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED ")]
        if done.returncode != 1 or not failed or not _ASSERTION.search(failed[0]):
            return "BROKEN", [test, (done.stdout + done.stderr)[-2000:]]
        killers.append(failed[0].partition("::")[2])
    return "killed", killers


def main(names: list[str]) -> int:
    if unknown := set(names) - {mutant.name for mutant in MUTANTS}:
        print(f"There is no mutant {', '.join(sorted(unknown))}.")
        return 1
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    sound = _pytest(dict.fromkeys(test for mutant in chosen for test in mutant.tests), None)
    if sound.returncode != 0:
        print(sound.stdout[-4000:])
        print("The tests fail although no guard is taken out.")
        return 1
    started, killed = time.monotonic(), 0
    with ThreadPoolExecutor(2) as pool:
        for mutant, (verdict, words) in zip(chosen, pool.map(_judge, chosen), strict=True):
            killed += verdict == "killed"
            print(f"{verdict:8} {mutant.name}", *words, sep="\n         ", flush=True)
    print(f"{killed} of {len(chosen)} mutants killed in {time.monotonic() - started:.0f} s")
    return 0 if killed == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
