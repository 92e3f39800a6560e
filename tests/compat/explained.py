"""The differences that are meant, and what is left out; docs/compatibility.md has a row for each."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from tests.compat.outcomes import Difference
from tests.compat.recording import Call


@dataclass(frozen=True)
class Explanation:
    """A kind of difference, and how one of a plain call is told."""

    kind: str
    covers: Callable[[Difference, Call], bool]


def _is_noted(each: Difference, _: Call) -> bool:
    return each.what == "error" and each.worker.startswith(f"{each.plain} (written under ")


def _is_for_a_graph_above(each: Difference, _: Call) -> bool:
    ends = "returned a Command to the graph above, and there is none."
    return each.what == "error" and each.plain.startswith("ParentCommand") and each.worker.endswith(ends)


def _is_of_a_function(each: Difference, _: Call) -> bool:
    found = re.search(r"ValueNotStorable: .*<locals>.* comes back as", each.worker)
    return each.what == "status" and found is not None


def _is_plain_type(each: Difference, _: Call) -> bool:
    return each.what == "types"


def _is_durability(each: Difference, _: Call) -> bool:
    return (
        each.what in ("output", "state")
        and "async" in each.plain
        and (each.plain.replace("async", "sync") == each.worker)
    )


def _is_streamed(each: Difference, call: Call) -> bool:
    return each.what in ("output", "state") and "messages" in str(call.arguments.get("stream_mode"))


def _is_beside_a_failure(each: Difference, call: Call) -> bool:
    top = call.top
    if call.error is None or top is None or not top.supersteps or len(top.supersteps[-1]) == 1:
        return False
    # Which of two handlers that fail at the same time fails first.
    return each.what in ("order", "steps") or (each.what == "error" and bool(top.handlers))


EXPLANATIONS = [
    Explanation("types as stored", _is_plain_type),
    Explanation("classes within functions", _is_of_a_function),
    Explanation("who wrote what was rejected", _is_noted),
    Explanation("Commands to a graph above", _is_for_a_graph_above),
    Explanation("tasks beside one that fails", _is_beside_a_failure),
    Explanation("durability", _is_durability),
    Explanation("models that stream", _is_streamed),
]

# Told by another plain execution, which differs from the first in the same.
NOT_THE_SAME_TWICE = "not the same twice"

LEFT_OUT = [
    INPUT := "an input that is no JSON object",
    SECOND_INPUT := "another input for the same thread",
    TIME_TRAVEL := "time travel",
    UPDATE_STATE := "update_state",
    COMMAND := "a Command that is not a resume alone",
    CONFIG := "a config of its own for each call",
    CONTEXT := "a context that is no JSON object",
    REFUSED := "a call that LangGraph refuses",
    UNREAD := "a stream that was not read to its end",
    CANCELLED := "a call that was cancelled",
    ENDED := "a thread that has ended",
    NO_VALUE := "an interrupt() without a value",
    NOT_REACHED := "what a test did not come to",
]


def explanation_of(difference: Difference, call: Call) -> str | None:
    """The kind of a difference of that plain call; None where it is unexplained."""
    return next((each.kind for each in EXPLANATIONS if each.covers(difference, call)), None)
