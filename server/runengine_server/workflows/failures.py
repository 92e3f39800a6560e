"""What an error of a graph is called in the run and the step that it ends."""

from __future__ import annotations

from collections.abc import Sequence

from langgraph.errors import NodeTimeoutError
from langgraph.types import RetryPolicy

_MAX_MESSAGE = 2000


class WorkflowError(Exception):
    """The graph did what no run can: the message tells its author what."""


class WorkflowChanged(Exception):
    """What the run was due to do is not in the graph that is to go on with it; the message names it."""


class RunTimedOut(Exception):
    """The run has been running for longer than its time limit."""


_OF_RUNS: dict[type[BaseException], str] = {
    RunTimedOut: "RUN_TIMED_OUT",
    WorkflowChanged: "WORKFLOW_CHANGED",
    WorkflowError: "WORKFLOW_FAILED",
}


def step_code(error: BaseException) -> str:
    """The code of a step that `error` ended."""
    return "STEP_TIMED_OUT" if isinstance(error, NodeTimeoutError) else "STEP_FAILED"


def run_code(error: BaseException, step_id: str | None) -> str:
    """The code of a run that `error` ended, where it came from that step."""
    return _OF_RUNS.get(type(error)) or (step_code(error) if step_id else "WORKFLOW_FAILED")


def is_retryable(error: BaseException, policies: Sequence[RetryPolicy]) -> bool:
    """Whether another execution may help: what the node's own policy says, else LangGraph's default,
    which takes ValueError, TypeError and their like for mistakes that will be met again.
    """
    if isinstance(error, WorkflowError):
        return False
    return any(matches(policy, error) for policy in policies or (RetryPolicy(),))


def matches(policy: RetryPolicy, error: BaseException) -> bool:
    """Whether the policy would have the node executed again after `error`."""
    retry_on = policy.retry_on
    if isinstance(retry_on, type):
        return isinstance(error, retry_on)
    if isinstance(retry_on, Sequence):
        return isinstance(error, tuple(retry_on))
    try:
        return isinstance(error, Exception) and bool(retry_on(error))
    except Exception:  # the author's own function, which may be wrong too
        return False


def describe(error: BaseException) -> str:
    """One line for a person, as the workflow's author worded it."""
    try:
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    except Exception:  # the author's own __str__, which may be wrong too
        text = type(error).__name__
    # PostgreSQL takes neither NUL nor a lone surrogate.
    text = " ".join(text.replace("\0", "").split()).encode("utf-8", "replace").decode()
    return text[:_MAX_MESSAGE]
