"""What came of one call, and in what two of them differ."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from langgraph.errors import GraphInterrupt
from langgraph.graph import START
from runengine_server.worker.graph.failures import describe

from tests.compat.forms import json_of, plainer, without_ids
from tests.compat.recording import Call, Loop

_LANGGRAPHS_NOTES = re.compile(r" \(During task with name '[^()]*' and id '[^']*'\)")


class _Anything:
    def __contains__(self, _: object) -> bool:
        return True


@dataclass(frozen=True)
class Difference:
    """`what` differs: the words of plain LangGraph, and those of the worker."""

    what: str
    plain: str
    worker: str


@dataclass
class Outcome:
    """`interrupts` are the step and the JSON value of each thing that is waited for, null at a gate; `order`
    has for each graph the names that each superstep executed, `steps` how many tasks of each step of the top
    graph were executed since the run began.
    """

    status: str
    error: str = ""
    interrupts: Counter[tuple[str, str]] = field(default_factory=Counter)
    output: str | None = None
    state: Any = None
    order: Counter[Any] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)


def words_of(error: BaseException) -> str:
    """Type and words of the error as the engine would have them, without LangGraph's notes of tasks."""
    return without_ids(describe(error, _Anything()))


def without_notes(message: str) -> str:
    return without_ids(_LANGGRAPHS_NOTES.sub("", message))


def order_of(call: Call) -> Counter[Any]:
    supersteps = [
        (
            each.path,
            tuple(tuple(name for name, _ in tasks) for tasks in (*each.supersteps, sorted(each.pushed))),
        )
        for each in call.loops
    ]
    return Counter(each for each in supersteps if any(each[1]))


def outcome_of(call: Call, steps: dict[str, str]) -> Outcome:
    """That of a call without an engine. `steps` has the tasks of the calls before, and gets those of this
    one.
    """
    top = call.top
    assert top is not None
    # The calls of a @task are steps of an @entrypoint alone.
    pushed = [] if hasattr(call.graph, "builder") else top.pushed
    for tasks in (*top.supersteps, top.handlers, pushed):
        steps.update({task_id: name for name, task_id in tasks if name != START})
    error = call.error or top.error
    outcome = Outcome("completed", state=top.state, order=order_of(call), steps=Counter(steps.values()))
    if isinstance(error, GraphInterrupt):
        outcome.status = "waiting"
        outcome.interrupts = Counter((each.step, str(each.value)) for each in top.interrupts)
        stopped = [loop for loop in call.loops if isinstance(loop.error, GraphInterrupt)]
        outcome.interrupts += Counter((gate, "null") for loop in stopped for gate in loop.gates)
    elif error is not None:
        outcome.status, outcome.error = "failed", words_of(error)
    else:
        outcome.output = _output_of(call, top)
    return outcome


def _output_of(call: Call, top: Loop) -> str | None:
    """What `invoke` returns, or would return where the call was a stream."""
    arguments = call.arguments
    is_output = call.method in ("invoke", "ainvoke") and not arguments.keys() & {"stream_mode", "version"}
    if is_output and (call.result is None or isinstance(call.result, dict)):
        # Where no node has written a key of the output, a run has an empty one.
        nothing_written = call.result is None and not isinstance(call.graph.output_channels, str)
        return json_of({} if nothing_written else call.result)
    return top.output_json


def differences(plain: Outcome, worker: Outcome) -> list[Difference]:
    """All of them; the status alone where that is another."""
    if plain.status != worker.status:
        return [Difference("status", *(f"{each.status} {each.error}" for each in (plain, worker)))]
    found = []

    def compare(what: str, first: Any, second: Any) -> None:
        if first != second:
            found.append(Difference(what, _shown(first), _shown(second)))

    if plain.error != worker.error:
        found.append(Difference("error", plain.error, worker.error))
    compare("interrupts", plain.interrupts, worker.interrupts)
    compare("output", plain.output, worker.output)
    if plain.state != worker.state:
        same = plainer(plain.state) == plainer(worker.state)
        compare("types" if same else "state", plain.state, worker.state)
    compare("order", plain.order, worker.order)
    compare("steps", plain.steps, worker.steps)
    return found


def _shown(value: Any) -> str:
    if isinstance(value, Counter):
        return ", ".join(sorted(map(str, value.elements())))
    return str(value)
