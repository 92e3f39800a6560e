"""The guards of calls that are sent together."""

from __future__ import annotations

from tests.faults import mutations as without
from tests.faults.judging import mutant_of as _mutant
from tests.faults.mutations import rewriting

_BATCHES = "integration/test_batches.py::"
_PROGRESS = "integration/test_progress_batches.py::"

BATCHES = (
    _mutant(
        "one lock order of batches",
        rewriting(["trigger_runs"], "ORDER BY campaign_id, slot\n", "ORDER BY min(place)\n"),
        f"{_BATCHES}test_a_batch_locks_the_counts_of_campaigns_in_the_order_of_claims",
    ),
    _mutant(
        "bound of a batch's wait for a lock",
        rewriting(["trigger_runs_of_tenants"], " SET lock_timeout = '100ms'", ""),
        f"{_BATCHES}test_triggers_of_other_campaigns_do_not_wait_for_a_campaign_that_is_locked",
    ),
    _mutant(
        "tenant of each trigger of a batch",
        rewriting(["trigger_runs_of_tenants"], "number = ANY(places)", "true"),
        f"{_BATCHES}test_tenants_share_a_statement_and_no_row",
    ),
    _mutant(
        "single call after a failed batch",
        without.single_call_after_a_failed_batch,
        f"{_BATCHES}test_a_trigger_that_fails_fails_alone",
    ),
    _mutant(
        "what may have been committed is not sent again",
        without.end_of_what_may_have_been_committed,
        f"{_BATCHES}test_a_batch_that_may_have_been_committed_is_not_sent_again",
    ),
    _mutant(
        "fence of each run of a batch",
        rewriting(["record_progress"], "held[place] IS NOT NULL", "true"),
        f"{_PROGRESS}test_a_run_that_is_lost_loses_no_other[1]",
        f"{_PROGRESS}test_a_run_that_is_lost_loses_no_other[3]",
    ),
    _mutant(
        "place of a run that is in a batch twice",
        rewriting(["record_progress"], "place := number", "place := array_position(_runs, run)"),
        f"{_PROGRESS}test_a_run_that_its_own_worker_has_taken_over_is_told_apart_by_epoch[1]",
        f"{_PROGRESS}test_a_run_that_its_own_worker_has_taken_over_is_told_apart_by_epoch[3]",
    ),
    _mutant(
        "bound of a run's wait for the lock of another",
        rewriting(["record_progress"], "IF cardinality(_runs) > 1", "IF false"),
        f"{_PROGRESS}test_a_run_that_is_locked_holds_up_no_other",
    ),
    _mutant(
        "order in which a batch locks its runs",
        without.lock_order_of_progress,
        f"{_PROGRESS}test_a_batch_locks_its_runs_in_the_order_of_their_ids",
    ),
)
