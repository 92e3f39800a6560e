"""The guards of runs that wait for somebody, each taken out."""

from __future__ import annotations

from tests.faults.judging import mutant_of
from tests.faults.mutations import rewriting
from tests.support.rewritten_functions import rewrite

_APPROVALS = "integration/test_approvals.py::"
_RESUMED = "integration/test_gates.py::test_a_resume_acts_though_the_worker_that_takes_it_dies"
_LOST = "faults/test_guards.py::test_a_worker_that_has_lost_its_run_changes_nothing"


def _values_of_a_lost_worker() -> None:
    once = "UPDATE public.runs SET resume_values = NULL FROM unnest(tenant_ids, ids) AS taken(tenant_id, id)"
    once += " WHERE runs.tenant_id = taken.tenant_id AND runs.id = taken.id;"
    rewrite("claim_expired", "-- In a statement of its own", f"{once}\n    -- In a statement of its own")


def _values_of_an_earlier_attempt() -> None:
    rewrite("claim_queued", ", resume_values = NULL,", ",")


def _used_value() -> None:
    from runengine_server.worker.graph.gates import Gates

    assert hasattr(Gates, "use")
    Gates.use = lambda self, *arguments: None  # type: ignore[method-assign]


APPROVALS = (
    mutant_of(
        "epoch in the wait of a run",
        rewriting(["wait_run"], "AND epoch = _epoch ", ""),
        _LOST,
        f"{_APPROVALS}test_a_worker_that_wakes_while_its_run_waits_changes_nothing",
    ),
    mutant_of(
        "a wait raises the epoch",
        rewriting(["wait_run"], "epoch = epoch + 1, ", ""),
        f"{_APPROVALS}test_a_worker_that_wakes_while_its_run_waits_changes_nothing",
    ),
    mutant_of(
        "a run is resumed when it waits",
        rewriting(["resume_run"], "IF waiting_ids IS NULL", "IF false"),
        f"{_APPROVALS}test_a_run_goes_on_once_however_often_it_is_resumed_at_once",
    ),
    mutant_of(
        "values that a lost worker was given",
        _values_of_a_lost_worker,
        f"{_RESUMED}[asking]",
        f"{_RESUMED}[before]",
    ),
    mutant_of(
        "values are of one attempt",
        _values_of_an_earlier_attempt,
        "faults/test_resumed_runs.py::test_a_value_given_to_one_attempt_passes_no_gate_of_the_next",
    ),
    mutant_of(
        "a used value is used",
        _used_value,
        f"{_APPROVALS}test_a_value_is_not_taken_for_the_next_question_when_its_worker_dies",
    ),
)
