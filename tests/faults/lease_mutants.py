"""The guards of leases, each taken out."""

from __future__ import annotations

from tests.faults.judging import mutant_of
from tests.faults.mutations import rewriting

_LOST = "faults/test_guards.py::test_a_worker_that_has_lost_its_run_changes_nothing"
_HEARTBEATS, _CLOCKS = "integration/test_heartbeat.py", "postgresql/test_moved_clock.py"
_LEASES = "integration/test_worker_leases.py"

LEASES = (
    mutant_of(
        "epoch in the heartbeat and the handing back",
        rewriting(["own_runs", "lock_own_runs"], "AND runs.epoch = held.epoch", ""),
        _LOST,
    ),
    mutant_of(
        "SKIP LOCKED in the heartbeat",
        rewriting(["lock_own_runs"], " SKIP LOCKED", ""),
        f"{_HEARTBEATS}::test_a_run_that_is_locked_keeps_no_other_from_being_renewed",
        f"{_HEARTBEATS}::test_a_run_that_is_locked_keeps_no_other_from_being_handed_back",
    ),
    mutant_of(
        "lock of the fence",
        rewriting(["hold_lease"], " FOR KEY SHARE", ""),
        f"{_HEARTBEATS}::test_a_run_is_renewed_while_a_large_state_of_its_own_is_stored",
    ),
    mutant_of(
        "heartbeat beside the fence",
        rewriting(["hold_lease"], "FOR KEY SHARE", "FOR SHARE"),
        f"{_HEARTBEATS}::test_a_run_is_renewed_while_a_large_state_of_its_own_is_stored",
    ),
    mutant_of(
        "end of a lease before a clock that went back",
        rewriting(
            ["renew_leases_ahead", "end_leases_of_lost_workers"], "secs => lease_seconds + 1", "secs => 1e9"
        ),
        f"{_CLOCKS}::test_a_run_whose_worker_is_lost_goes_on_a_lease_after_the_clock_went_back",
    ),
    mutant_of(
        "lock of a lost worker's lease",
        rewriting(["end_leases_of_lost_workers"], "        FOR UPDATE SKIP LOCKED\n    LOOP", "    LOOP"),
        f"{_LEASES}::test_a_heartbeat_comes_wholly_before_or_wholly_after_a_takeover",
    ),
    mutant_of(
        "end of a lost worker's lease",
        rewriting(["claim_expired"], "PERFORM end_leases_of_lost_workers();", ""),
        f"{_LEASES}::test_the_runs_of_a_worker_whose_lease_has_ended_are_taken_over",
    ),
    mutant_of(
        "runs that a heartbeat does not name",
        rewriting(["heartbeat"], "id <> ALL(_runs)", "false"),
        f"{_LEASES}::test_a_run_that_the_worker_does_not_name_gets_a_lease_of_its_own",
    ),
    mutant_of(
        "lock of a lease that a claim counts on",
        rewriting(["keep_lease"], "\n    FOR KEY SHARE;", ";"),
        f"{_LEASES}::test_a_claim_that_commits_late_leaves_no_run_without_an_end_of_its_lease",
    ),
    mutant_of(
        "half of a lease for a claim",
        rewriting(["claim_queued"], "PERFORM renew_lease(_worker_id, _lease);", ""),
        f"{_LEASES}::test_a_claim_has_half_of_the_lease_left_at_least",
    ),
)
