"""Guards of what is said of steps: their errors, and their data."""

from __future__ import annotations

from tests.faults.judging import mutant_of


def _look_where_a_node_leads() -> None:
    from runengine_server.worker.graph.storing_node import StoringNode

    StoringNode.check_targets = lambda self, targets: None  # type: ignore[method-assign]


def _thread_that_goes_on() -> None:
    from runengine_server.worker.graph.execution import Execution

    Execution.leave_thread = lambda self, task_id: None  # type: ignore[method-assign]


def _untracked_values() -> None:
    from runengine_server.worker.graph import recording

    recording.untracked_channels = lambda graph: frozenset()  # type: ignore[attr-defined]


STEPS = (
    mutant_of(
        "look where a node of a graph within leads",
        _look_where_a_node_leads,
        "integration/test_retryable.py::test_a_mistake_of_the_graph_is_not_retryable_and_names_its_step"
        "[a graph that a node calls-a Send to no node]",
        "integration/test_retryable.py::test_a_mistake_of_the_graph_is_not_retryable_and_names_its_step"
        "[a sub-graph that stores nothing-a goto to no node]",
    ),
    mutant_of(
        "thread that goes on, in the error of its step",
        _thread_that_goes_on,
        "integration/test_node_threads.py::"
        "test_a_step_that_was_stopped_with_its_run_says_so_where_its_thread_goes_on",
    ),
    mutant_of(
        "what no checkpoint has, out of the data of steps",
        _untracked_values,
        "integration/test_step_data.py::test_values_that_no_checkpoint_has_are_not_kept_here_either",
    ),
)
