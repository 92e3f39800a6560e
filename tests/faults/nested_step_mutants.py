"""The guards of steps within steps, each taken out."""

from __future__ import annotations

from uuid import uuid4

from tests.faults.judging import mutant_of
from tests.faults.mutations import epoch_of, rewriting

_WITHIN = "integration/test_steps_within_steps.py::"
_FAILURES = "integration/test_failures_within_steps.py::"
_KEYS = "integration/test_sub_graphs.py::"
_KEYS += "test_each_node_of_a_sub_graph_has_an_idempotency_key_that_stays_the_same"


def _place_in_an_idempotency_key() -> None:
    from runengine_server.worker.graph import idempotency_key

    assert hasattr(idempotency_key, "place_within")
    vars(idempotency_key)["place_within"] = lambda task_id: ""


def _place_of_a_step() -> None:
    from runengine_server.worker.graph import steps

    assert hasattr(steps, "uuid5")
    vars(steps)["uuid5"] = lambda parent, place: uuid4()


def _step_around() -> None:
    from runengine_server.worker.graph.steps import BegunStep

    assert hasattr(BegunStep, "is_abandoned")
    BegunStep.is_abandoned = False  # type: ignore[method-assign, assignment]


def _lease_before_a_node() -> None:
    from runengine_server.worker.graph.execution import Execution

    assert hasattr(Execution, "check_lease")
    Execution.check_lease = lambda self: None  # type: ignore[method-assign]


def _command_above_the_top() -> None:
    from runengine_server.worker.graph import recording, storing_node

    assert hasattr(recording, "store_writes")
    vars(recording)["store_writes"] = lambda graph, **told: storing_node.store_writes(graph)


STEPS_WITHIN_STEPS = (
    mutant_of(
        "command above the top",
        _command_above_the_top,
        "integration/test_sub_graphs.py::"
        "test_a_command_to_a_graph_above_that_there_is_not_fails_its_step_and_says_so",
    ),
    mutant_of(
        "place in an idempotency key",
        _place_in_an_idempotency_key,
        f"{_KEYS}[called_in_the_loop-None]",
    ),
    mutant_of(
        "place of a step within a step",
        _place_of_a_step,
        f"{_FAILURES}test_a_graph_that_stores_nothing_starts_anew_with_the_same_steps",
        _KEYS,
    ),
    mutant_of(
        "step around a node that is over",
        _step_around,
        f"{_FAILURES}test_a_thread_that_was_abandoned_enters_no_further_node",
    ),
    mutant_of(
        "lease before a node within a node",
        _lease_before_a_node,
        f"{_WITHIN}test_a_worker_whose_lease_has_ended_enters_no_node_within_a_node[as_node]",
        f"{_WITHIN}test_a_worker_whose_lease_has_ended_enters_no_node_within_a_node[called]",
    ),
    mutant_of(
        "steps within a completed step are not due again",
        rewriting(["make_queued"], "AND latest.id NOT IN (SELECT over.id FROM over)", ""),
        f"{_FAILURES}test_a_failure_that_a_node_takes_is_not_due_again_when_the_run_is_retried",
    ),
    mutant_of(
        "epoch in the interruption of steps",
        epoch_of("interrupt_steps"),
        "faults/test_guards.py::test_a_worker_that_has_lost_its_run_changes_nothing",
    ),
)
