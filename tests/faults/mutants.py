"""Takes each guard of the product out in turn, and sees a test fail: `python -m tests.faults.mutants`.

A guard whose absence no test notices is a guard that nobody knows to be there. The environment
variable RUNENGINE_MUTANT, with the name of one, applies it to the test process and to every
process of the product that the tests start.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor

from tests.faults import mutations as without
from tests.faults.approval_mutants import APPROVALS
from tests.faults.batch_mutants import BATCHES
from tests.faults.completion_mutants import COMPLETIONS
from tests.faults.judging import judge, missing, run_pytest
from tests.faults.judging import mutant_of as _mutant
from tests.faults.lease_mutants import LEASES
from tests.faults.mutations import rewriting
from tests.faults.nested_step_mutants import STEPS_WITHIN_STEPS
from tests.faults.progress_mutants import PROGRESS
from tests.faults.step_mutants import STEPS
from tests.faults.thread_mutants import THREADS
from tests.faults.value_mutants import VALUES

_REFUSED = (
    "integration/test_refused_values.py::"
    "test_a_value_that_would_come_back_as_another_is_refused_when_it_is_written"
)
_REJECTED = (
    "integration/test_rejected_writes.py::"
    "test_a_write_that_its_reducer_rejects_fails_its_step_and_a_retry_runs_it_again"
)
_GATES = "integration/test_gates.py::test_a_gate_holds_when_its_run_is_cancelled_and_retried"
_PASSED = "integration/test_gates.py::test_a_gate_of_a_sub_graph_is_passed_when_its_run_is_resumed"
_DYING = "integration/test_gates.py::test_a_gate_holds_when_its_worker_dies_as_it_is_reached"
_HEARTBEATS, _CLOCKS = "integration/test_heartbeat.py", "postgresql/test_moved_clock.py"
_SWEPT = "integration/test_artifact_sweep.py::"
_SWEPT += "test_an_artifact_without_a_row_is_deleted_once_it_is_a_day_old_and_nothing_else"
_LOST = "faults/test_guards.py::test_a_worker_that_has_lost_its_run_changes_nothing"
_RESUMES = "integration/test_resumes.py::"
_BY_ID = f"{_RESUMES}test_questions_side_by_side_take_values_by_id_and_no_single_one"


MUTANTS = (
    _mutant("epoch in the end of a run", rewriting(["end_run"], "AND epoch = _epoch", ""), _LOST),
    _mutant("epoch in the failure of a step", without.epoch_of("fail_step"), _LOST),
    _mutant(
        "epoch in the begin of a step, what it wrote, and a checkpoint",
        without.epoch_of_progress,
        _LOST,
        "integration/test_pruning.py::test_a_worker_that_lost_its_run_prunes_nothing",
    ),
    _mutant(
        "state that a sub-graph keeps from call to call",
        without.state_kept_from_call_to_call,
        "integration/test_pruning.py::test_a_sub_graph_that_keeps_its_state_from_call_to_call_still_does",
    ),
    _mutant(
        "ancestors that a delta channel is replayed from",
        without.ancestors_of_a_delta_channel,
        "integration/test_pruning.py::test_a_delta_channel_keeps_its_values_and_little_more",
    ),
    _mutant(
        "what is superseded goes while the run goes on",
        without.superseded_goes,
        "integration/test_pruning.py::test_a_loop_keeps_what_it_resumes_from_and_no_more",
    ),
    _mutant("epoch in an artifact", without.epoch_of("save_artifact"), _LOST),
    _mutant("epoch in a cache entry", without.epoch_of("save_cached"), _LOST),
    _mutant(
        "a claim raises the epoch",
        rewriting(["claim_queued", "claim_expired"], "epoch = epoch + 1", "epoch = epoch"),
        _LOST,
    ),
    _mutant("status in the fence", rewriting(["hold_lease"], " AND status = 'running'", ""), _LOST),
    _mutant(
        "order of a campaign's runs",
        rewriting(["move_campaign"], without.ORDER, ""),
        "e2e/test_lifecycle.py::test_a_slow_old_run_does_not_overwrite_a_newer_one",
    ),
    _mutant(
        "insert of an idempotency key",
        rewriting(["claim_idempotency_key"], "WHILE _key IS NOT NULL LOOP", "WHILE false LOOP"),
        "integration/test_idempotency.py::test_fifty_triggers_at_once_make_one_run",
    ),
    _mutant(
        "status in a retry",
        without.status_of_retry,
        "integration/test_races.py::test_of_many_retries_at_once_one_wins",
    ),
    _mutant(
        "campaign in the transaction of its run",
        without.campaign_in_own_transaction,
        "faults/test_guards.py::test_the_run_its_campaign_and_its_counts_move_together_or_not_at_all",
    ),
    _mutant(
        "SKIP LOCKED",
        rewriting(without.CLAIMS, "FOR UPDATE SKIP LOCKED", "FOR UPDATE"),
        "faults/test_guards.py::test_a_claimer_does_not_wait_for_a_run_that_another_has_locked",
    ),
    _mutant(
        "patience with a slow link",
        without.patience_with_a_slow_link,
        "postgresql/test_slow_link.py::test_a_large_state_is_stored_and_read_again_however_slow_the_link_is",
    ),
    _mutant(
        "a denial is no refusal",
        without.denial_is_no_refusal,
        "postgresql/test_revoked.py::test_a_run_goes_on_once_what_was_revoked_is_granted_again[18-one table]",
    ),
    _mutant(
        "look at what is granted",
        without.look_at_grants,
        "postgresql/test_revoked.py::test_a_process_sees_that_one_grant_is_missing_and_that_it_is_back[18]",
    ),
    _mutant(
        "clock of a node that waits for a thread",
        without.clock_of_a_node,
        "integration/test_node_threads.py::"
        "test_a_node_that_waits_for_its_thread_has_its_whole_time_from_then_on",
    ),
    _mutant(
        "signal to a blocked worker",
        without.signal_to_a_blocked_worker,
        "unit/test_lifecycle.py::test_a_signal_is_heard_while_the_event_loop_does_not_move",
    ),
    _mutant(
        "end of a step after its start",
        rewriting(without.ENDING, "greatest(public.now_ms(), started_at)", "public.now_ms()"),
        f"{_CLOCKS}::test_nothing_takes_less_than_no_time_when_the_clock_goes_back",
    ),
    _mutant(
        "FORCE ROW LEVEL SECURITY",
        without.force_row_level_security,
        "integration/test_tenancy.py::test_every_table_with_a_tenant_is_under_forced_policies",
    ),
    _mutant(
        "tenant in a query",
        without.tenant_predicate,
        "integration/test_tenancy.py::test_predicates_alone_hide_every_foreign_row",
    ),
    _mutant(
        "id in the order of a list",
        without.tie_break,
        "integration/test_list.py::test_runs_of_one_moment_are_in_the_order_of_their_ids_whatever_their_status",
    ),
    _mutant(
        "clock of leases",
        without.clock_of_leases,
        "faults/test_guards.py::test_leases_follow_the_clock_of_the_database_alone",
    ),
    _mutant(
        "poll behind NOTIFY",
        without.poll,
        "faults/test_guards.py::test_a_change_that_is_not_notified_is_found_all_the_same",
    ),
    _mutant(
        "tail of a full queue of notifications",
        without.tail_of_a_full_queue,
        "integration/test_notifications.py::test_a_queue_that_was_full_takes_the_first_notification_after",
    ),
    _mutant(
        "rules of requests",
        without.rules_of_requests,
        "unit/test_validation.py::test_a_request_violates_what_protovalidate_says_it_violates",
    ),
    _mutant(
        "lock of a resume",
        rewriting(["lock_run"], " FOR UPDATE", ""),
        f"{_RESUMES}test_one_of_many_who_resume_at_once_does",
    ),
    _mutant(
        "ids that a run waits for", rewriting(["resume_run"], "NOT _ids <@ waiting_ids", "false"), _BY_ID
    ),
    _mutant("one value for one thing", rewriting(["resume_run"], "(waiting_ids) > 1", "(_ids) > 1"), _BY_ID),
    _mutant(
        "bounds of what a run is resumed with",
        without.bounds_of_a_resume,
        f"{_RESUMES}test_a_value_out_of_bounds_changes_nothing",
    ),
    _mutant(
        "bound of a JWKS",
        without.bound_of_a_jwks,
        "integration/test_jwks.py::test_the_last_good_keys_stay_in_use_during_an_outage",
    ),
    _mutant(
        "catch-all of the interceptor",
        without.catch_all,
        "integration/test_faults_of_ours.py::test_no_value_reaches_a_caller_or_a_log",
    ),
    _mutant(
        "look for due nodes on resume",
        without.look_for_due_nodes,
        "integration/test_changed_graphs.py::test_a_run_whose_due_node_was_renamed_fails_until_it_is_back",
    ),
    _mutant(
        "look where an edge leads",
        without.look_where_an_edge_leads,
        "integration/test_changed_graphs.py::test_an_entry_that_leads_to_no_node_fails_the_run",
    ),
    _mutant("gate before a node", without.gate_before_a_node, f"{_GATES}[before]", f"{_DYING}[before]"),
    _mutant("gate after a node", without.gate_after_a_node, f"{_PASSED}[after]", f"{_PASSED}[called_after]"),
    _mutant(
        "what is written is as stored",
        without.written_as_stored,
        "integration/test_values.py::"
        "test_a_value_that_came_straight_on_is_the_one_that_comes_after_a_retry[in_an_update]",
    ),
    _mutant(
        "what a reducer makes is as stored",
        without.reduced_as_stored,
        "integration/test_reducers.py::test_a_value_that_a_reducer_makes_is_the_same_after_a_retry[False]",
    ),
    _mutant(
        "type of what was stored",
        without.type_of_what_was_stored,
        f"{_REFUSED}[of a function]",
        f"{_REFUSED}[an error]",
    ),
    _mutant(
        "what is put into the cache is as stored",
        without.cached_as_stored,
        "integration/test_values.py::test_a_value_from_the_cache_is_the_one_that_was_put_there[True]",
    ),
    _mutant("rejected write is forgotten", without.rejected_write_is_forgotten, f"{_REJECTED}[in_a_chain]"),
    _mutant(
        "step of a rejected write",
        rewriting(["discard_writes"], "status IN ('running', 'completed')", "status = 'running'"),
        f"{_REJECTED}[beside_others]",
    ),
    _mutant(
        "completed error handler",
        without.completed_handler,
        "integration/test_error_handlers.py::test_a_completed_handler_does_not_run_again_when_the_run_is_retried",
    ),
    _mutant(
        "code in the key of the cache",
        without.code_in_the_key_of_the_cache,
        "integration/test_cache.py::test_a_cached_step_whose_code_has_changed_is_executed",
    ),
    _mutant(
        "time limit of an error handler",
        without.limit_of_an_error_handler,
        "integration/test_timeouts.py::test_a_time_limit_holds_for",
    ),
    _mutant(
        "azp of a token",
        without.azp,
        "unit/auth/test_tokens.py::test_a_bad_token_is_refused_however_often_it_comes",
    ),
    _mutant(
        "category of a token",
        without.category,
        "unit/auth/test_tokens.py::test_a_bad_token_is_refused_however_often_it_comes",
    ),
    _mutant(
        "lease before a node",
        without.lease_before_a_node,
        "integration/test_ended_leases.py::"
        "test_a_node_is_not_entered_once_the_lease_has_ended_while_its_begin_was_under_way",
        "integration/test_ended_leases.py::"
        "test_a_sync_node_that_waited_for_its_thread_until_the_lease_had_ended_is_not_entered",
        "faults/test_zombies_enter.py::test_no_zombie_enters_a_node",
    ),
    _mutant(
        "watch over the event loop",
        without.watch_over_the_loop,
        f"{_HEARTBEATS}::"
        "test_the_process_ends_when_its_event_loop_does_not_move_and_its_runs_are_handed_back",
    ),
    _mutant(
        "bound of hand-backs",
        without.bound_of_hand_backs,
        "integration/test_hand_backs.py::test_pauses_grow_and_a_bound_ends_the_run_with_a_code_of_its_own",
    ),
    _mutant(
        "pause between hand-backs",
        rewriting(["hand_back"], "= 1 THEN '-infinity'", "> 0 THEN '-infinity'"),
        "integration/test_hand_backs.py::test_pauses_grow_and_a_bound_ends_the_run_with_a_code_of_its_own",
    ),
    _mutant(
        "reset of forked children",
        without.reset_of_forked_children,
        "e2e/test_children_of_nodes.py::test_a_signal_to_a_forked_child_ends_the_child_and_not_the_worker",
    ),
    _mutant(
        "replacement of abandoned threads",
        without.abandoned_threads_are_replaced,
        "integration/test_node_threads.py::"
        "test_abandoned_threads_are_replaced_counted_and_logged_with_their_run",
    ),
    _mutant(
        "what policies read in a session",
        without.what_policies_read,
        "postgresql/test_defaults.py::test_a_tenant_sees_its_own_alone_and_nobody_sees_nothing"
        "[18-what policies read-direct]",
    ),
    _mutant(
        "search_path of functions",
        rewriting(["get_run", "claim_queued"], " SET search_path FROM CURRENT", ""),
        "postgresql/test_defaults.py::test_a_function_means_the_same_on_any_path_of_who_calls_it[18]",
    ),
    _mutant(
        "run of a swept artifact", rewriting(["artifacts_without_row"], without.RUN_IS_HERE, "true"), _SWEPT
    ),
    _mutant("age of a swept artifact", without.age_of_a_swept_artifact, _SWEPT),
    _mutant(
        "room on the disk",
        without.room_on_the_disk,
        "integration/test_full_disk.py::test_a_process_that_watches_sees_that_there_is_no_room_and_that_there_is",
    ),
    _mutant(
        "withdrawal of a worker",
        without.withdrawal_of_a_worker,
        "integration/test_served_workflows.py::"
        "test_a_worker_that_stopped_is_gone_at_once_and_a_killed_one_when_it_has_expired",
    ),
    _mutant(
        "expiry of a worker",
        rewriting(["count_workers"], "AND expires_at > statement_timestamp()", ""),
        "integration/test_served_workflows.py::test_the_log_names_queued_runs_without_a_worker_once_a_change",
    ),
    *APPROVALS,
    *PROGRESS,
    *THREADS,
    *LEASES,
    *BATCHES,
    *COMPLETIONS,
    *VALUES,
    *STEPS,
    *STEPS_WITHIN_STEPS,
)


def apply(name: str) -> None:
    """Takes that guard out of this process."""
    next(mutant for mutant in MUTANTS if mutant.name == name).apply()


def main(names: list[str]) -> int:
    if unknown := set(names) - {mutant.name for mutant in MUTANTS}:
        print(f"There is no mutant {', '.join(sorted(unknown))}.")
        return 1
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    tests = dict.fromkeys(test for mutant in chosen for test in mutant.tests)
    if lost := missing(tests):
        print("There is no", *lost, sep="\n    ")
        return 1
    sound = run_pytest(tests, None)
    if sound.returncode != 0:
        print(sound.stdout[-4000:])
        print("The tests fail although no guard is taken out.")
        return 1
    started, killed = time.monotonic(), 0
    with ThreadPoolExecutor(2) as pool:
        for mutant, (verdict, words) in zip(chosen, pool.map(judge, chosen), strict=True):
            killed += verdict == "killed"
            print(f"{verdict:8} {mutant.name}", *words, sep="\n         ", flush=True)
    print(f"{killed} of {len(chosen)} mutants killed in {time.monotonic() - started:.0f} s")
    return 0 if killed == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
