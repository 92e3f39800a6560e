"""The guards of threads and of the store, each taken out."""

from __future__ import annotations

from tests.faults.judging import mutant_of
from tests.faults.mutations import epoch_of, rewriting

_LOST = "faults/test_guards.py::test_a_worker_that_has_lost_its_run_changes_nothing"
_THREADS = "integration/test_threads.py::"

THREADS = (
    mutant_of(
        "epoch in an item of the store",
        epoch_of("write_store_items"),
        _LOST,
        "integration/test_store.py::test_a_worker_that_has_lost_its_run_puts_and_deletes_nothing",
    ),
    mutant_of(
        "one run of a thread at a time",
        rewriting(["claim_queued"], " AND (queued_at, id) < (never, no_id)", ""),
        f"{_THREADS}test_runs_of_a_thread_can_be_claimed_one_after_the_other",
    ),
    mutant_of(
        "order of a thread's runs",
        rewriting(["release_next_of_thread"], "ORDER BY thread_place", "ORDER BY thread_place DESC"),
        f"{_THREADS}test_runs_of_a_thread_can_be_claimed_one_after_the_other",
        f"{_THREADS}test_runs_triggered_at_once_end_in_the_order_of_their_triggers_on_two_workers",
    ),
    mutant_of(
        "a thread's run that is running",
        rewriting(["release_next_of_thread"], "_thread AND status = 'running'", "_thread AND false"),
        f"{_THREADS}test_a_run_that_is_retried_waits_for_the_one_that_is_running",
    ),
    mutant_of(
        "place of a run that is retried in its thread",
        rewriting(["release_next_of_thread"], "AND thread_place > next.thread_place", "AND false"),
        f"{_THREADS}test_a_run_that_is_retried_has_its_old_place_before_those_that_wait",
    ),
    mutant_of(
        "epoch in the begin in a thread",
        rewriting(["begin_in_thread"], "IF hold_lease(_tenant, _run, _epoch) IS NULL", "IF false"),
        _LOST,
    ),
    mutant_of(
        "what was left in a thread since a run began",
        rewriting(["leave_thread"], "state_run_id IS NOT DISTINCT FROM run.thread_base", "true"),
        f"{_THREADS}test_a_retry_does_not_overwrite_what_runs_have_left_since_it_began",
    ),
)
