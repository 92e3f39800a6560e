"""Code and message of a run or step that an error ended, and whether another try may help."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Container, Sequence
from typing import Any
from uuid import UUID

from langgraph.errors import GraphRecursionError, InvalidUpdateError, NodeTimeoutError, ParentCommand
from langgraph.types import RetryPolicy

# Bounds: characters of a message, and of each error within or behind the first; errors of a group; all
# errors.
_MAX_MESSAGE, _MAX_INNER, _MAX_WITHIN, _MAX_SEEN = 2000, 300, 20, 50

# Errors of a graph that is wrong in itself, after which LangGraph's default policy would try again.
_MISTAKES = (InvalidUpdateError, ParentCommand)

# langgraph 1.2.22, pregel/_retry.py
_LANGGRAPHS_NOTE = re.compile(r"During task with name '.*' and id '([0-9a-f-]{36})'")


class WorkflowError(ValueError):
    """The graph did what no run can do; the message tells its author what. A ValueError, because LangGraph's
    retry policies take those for errors that another try would not help.
    """


class WorkflowChanged(Exception):
    """What the run was due to do is not in the graph that is to go on with it; the message names it."""


class NodeExited(Exception):
    """A node or an edge raised what is no Exception: it called sys.exit(), say."""


async def contained(work: Awaitable[Any]) -> Any:
    """What a node or an edge returns. Raises as raise_contained does."""
    try:
        return await work
    except BaseException as error:
        raise_contained(error)
        raise


def raise_contained(error: BaseException) -> None:
    """Raises an error of the node or edge in place of one that would end more than that: sys.exit() ends the
    worker, and all the runs on it, and a StopAsyncIteration LangGraph itself. Of others it does nothing.
    """
    if isinstance(error, StopAsyncIteration):
        raise RuntimeError("it raised StopAsyncIteration") from error
    if not isinstance(error, Exception | asyncio.CancelledError | GeneratorExit):
        raise NodeExited(describe(error)) from None


class StateTooLarge(ValueError):
    """What a node wrote, or the state of the graph, is larger than may be stored. A ValueError, because
    LangGraph's retry policies take those for errors that another try would not help.
    """

    def __init__(self, what: str, size: int, limit: int) -> None:
        super().__init__(f"{what} takes {size:,} bytes; RUNENGINE_MAX_STATE_BYTES allows {limit:,}.")


class ValueNotStorable(TypeError):
    """What a node wrote cannot be stored, or would come back as something else. A TypeError, because
    LangGraph's retry policies take those for errors that another try would not help.
    """

    def __init__(self, key: str, kind: str, why: str) -> None:
        under = f"What was written under {key!r}" if key else "What was written"
        super().__init__(f"{under}, of type {kind!r}, cannot be stored: {why}.")


class RunTimedOut(Exception):
    """The run has been running for longer than its time limit."""


_OF_RUNS: dict[type[BaseException], str] = {
    RunTimedOut: "RUN_TIMED_OUT",
    WorkflowChanged: "WORKFLOW_CHANGED",
    WorkflowError: "WORKFLOW_FAILED",
    StateTooLarge: "STATE_TOO_LARGE",
    ValueNotStorable: "VALUE_NOT_STORABLE",
}


def step_code(error: BaseException) -> str:
    """The code of a step that `error` ended."""
    if isinstance(error, StateTooLarge | ValueNotStorable):
        return _OF_RUNS[type(error)]
    return "STEP_TIMED_OUT" if isinstance(error, NodeTimeoutError) else "STEP_FAILED"


def run_code(error: BaseException, step_id: str | None) -> str:
    """The code of a run that `error` ended; `step_id` is the step that it came from, if any."""
    of_a_node = step_id is not None or isinstance(error, NodeTimeoutError)
    return _OF_RUNS.get(type(error)) or (step_code(error) if of_a_node else "WORKFLOW_FAILED")


def is_retryable(error: BaseException, policies: Sequence[RetryPolicy]) -> bool:
    """Whether another execution may help: by the node's own policies, or else by LangGraph's default, for
    which ValueError, TypeError and their like are mistakes that stay. What no graph can do never is. A graph
    that has reached its recursion limit goes on where it was, and counts from there.
    """
    if isinstance(error, GraphRecursionError):
        return True
    if isinstance(error, WorkflowError) or (isinstance(error, _MISTAKES) and not policies):
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


def describe(error: BaseException, steps: Container[UUID] = ()) -> str:
    """One line for a person, in the words of the workflow's author: the error, its notes, the errors within
    it, its cause. LangGraph's notes of the tasks `steps` are left out, because a step has its own name
    already; those of the nodes of a sub-graph stay.
    """
    return _words(error, steps, set())[:_MAX_MESSAGE]


def within(error: BaseException) -> list[BaseException]:
    """The errors in exception groups among `error` and its causes, the first twenty. The traceback of `error`
    does not show where these were raised.
    """
    found: list[BaseException] = []
    seen: set[int] = set()

    def look(each: BaseException | None, of_group: bool) -> None:
        if each is None or id(each) in seen or len(found) == _MAX_WITHIN:
            return
        seen.add(id(each))
        if isinstance(each, BaseExceptionGroup):
            for inner in each.exceptions:
                look(inner, True)
        elif of_group:
            found.append(each)
        look(each.__cause__, False)

    look(error, False)
    return found


def _words(error: BaseException, steps: Container[UUID], seen: set[int]) -> str:
    seen.add(id(error))
    name, text = type(error).__name__, _text(error)
    words = f"{name}: {text}" if text else name
    words = words if len(seen) == 1 else words[:_MAX_INNER]
    if notes := [note for note in map(_line, getattr(error, "__notes__", ())) if not _is_of(note, steps)]:
        words += f" ({'; '.join(notes)})"
    if isinstance(error, BaseExceptionGroup):
        inner = [each for each in error.exceptions if id(each) not in seen][:_MAX_WITHIN]
        more = len(error.exceptions) - len(inner)
        each_words = [_words(each, steps, seen) for each in inner] if len(seen) < _MAX_SEEN else []
        words += f" [{'; '.join([*each_words, *([f'and {more} more'] if more else [])])}]"
    cause = error.__cause__
    # The cause of LangGraph's timeouts is that of asyncio, which says nothing more.
    if cause is not None and id(cause) not in seen and not isinstance(error, NodeTimeoutError):
        words += f", caused by {_words(cause, steps, seen)}" if len(seen) < _MAX_SEEN else ""
    return words


def _text(error: BaseException) -> str:
    try:
        return _line(str(error))
    except Exception:  # the author's own __str__, which may be wrong too
        return ""


def _line(text: object) -> str:
    """In one line, without what PostgreSQL cannot store: NUL and lone surrogates."""
    return " ".join(str(text).replace("\0", "").split()).encode("utf-8", "replace").decode()


def noted_tasks(error: BaseException) -> list[UUID]:
    """The tasks of graphs that raised the error, by what LangGraph notes of them, innermost first."""
    found = map(_LANGGRAPHS_NOTE.fullmatch, map(str, getattr(error, "__notes__", ())))
    return [UUID(match[1]) for match in found if match is not None]


def _is_of(note: str, steps: Container[UUID]) -> bool:
    match = _LANGGRAPHS_NOTE.fullmatch(note)
    return match is not None and UUID(match[1]) in steps
