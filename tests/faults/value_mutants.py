"""What keeps the large values of a run for those that refer to them, each taken out."""

from __future__ import annotations

from tests.faults import mutations as without
from tests.faults.judging import mutant_of
from tests.faults.mutations import rewriting

_VALUES = "integration/test_large_values.py::"
_CHANGES = f"{_VALUES}test_a_value_that_changes_is_deleted_with_the_last_checkpoint_that_has_it"
_MISSING = f"{_VALUES}test_a_checkpoint_of_which_a_value_is_missing_is_refused"

VALUES = (
    mutant_of(
        "values that are referred to later",
        rewriting(["delete_unused_values"], "octet_length(_kept) / 16 - 1", "-1"),
        _MISSING,
    ),
    mutant_of(
        "values that a checkpoint refers to",
        rewriting(["delete_unused_values"], "AND value_refs IS NOT NULL", "AND false"),
        _CHANGES,
    ),
    mutant_of(
        "refusal of a checkpoint without a value of it",
        rewriting(["with_values"], "IF found < octet_length(_refs) / 20", "IF false"),
        _MISSING,
    ),
    mutant_of(
        "values of the thread's last run",
        rewriting(["begin_in_thread"], "run_id = former AND NOT of_steps", "false"),
        f"{_VALUES}test_the_next_run_of_a_thread_begins_with_the_values_of_the_one_before",
    ),
    mutant_of(
        "values of a step that was given up",
        without.values_of_a_step_that_was_given_up,
        f"{_VALUES}test_a_value_is_stored_even_when_the_step_that_brought_it_is_given_up",
    ),
)
