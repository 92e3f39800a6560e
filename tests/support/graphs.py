"""Graphs that the tests run. Those of PLAIN know nothing of this project."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import CachePolicy, Command, RetryPolicy, Send, interrupt
from runengine.context import RunContext

from tests.support.gates import pass_gate


class State(TypedDict, total=False):
    gates: str
    fail_at: str
    count: int
    rounds: int
    seen: Annotated[list[str], operator.add]
    bundle_artifact_id: str


def _graph(*edges: tuple[str, str], **nodes: Any) -> StateGraph[Any, Any, Any, Any]:
    graph = StateGraph(State)
    for name, node in nodes.items():
        graph.add_node(name, node)
    for start, end in edges:
        graph.add_edge(start, end)
    return graph


async def first(state: State) -> State:
    return {"seen": ["first"]}


async def held(state: State) -> State:
    """Waits at its gate, and fails when the gate is opened with "fail"."""
    if await pass_gate(state["gates"], "held") == "fail":
        raise RuntimeError("The gate said so.")
    return {"seen": ["held"]}


def last(state: State) -> State:
    return {"seen": ["last"]}


GATED = _graph(
    (START, "first"), ("first", "held"), ("held", "last"), ("last", END), first=first, held=held, last=last
)


async def left(state: State) -> State:
    await pass_gate(state["gates"], "left")
    return {"seen": ["left"]}


async def right(state: State) -> State:
    if await pass_gate(state["gates"], "right") == "fail":
        raise RuntimeError("The gate said so.")
    return {"seen": ["right"]}


FORK = _graph(
    (START, "left"), (START, "right"), ("left", "last"), ("right", "last"), left=left, right=right, last=last
)


class FlakyError(Exception):
    """Raised where the retry policy looks for it."""


async def flaky(state: State) -> State:
    if await pass_gate(state["gates"], "flaky") == "fail":
        raise FlakyError("Not this time.")
    return {"seen": ["flaky"]}


AT_ONCE = RetryPolicy(retry_on=FlakyError, max_attempts=3, initial_interval=0, jitter=False)
IN_AN_HOUR = RetryPolicy(retry_on=FlakyError, initial_interval=3600, max_interval=3600)

FLAKY = StateGraph(State)
FLAKY.add_node("flaky", flaky, retry_policy=AT_ONCE)
FLAKY.add_edge(START, "flaky")

PATIENT = StateGraph(State)
PATIENT.add_node("flaky", flaky, retry_policy=IN_AN_HOUR)
PATIENT.add_edge(START, "flaky")


def counted(state: State) -> State:
    return {"count": state["count"] + 1}


CACHED = StateGraph(State)
CACHED.add_node("counted", counted, cache_policy=CachePolicy(key_func=lambda state: str(state["count"])))
CACHED.add_edge(START, "counted")


def reject(state: State) -> State:
    raise ValueError("The brief is empty.")


async def save_bundle(state: State, runtime: Runtime[RunContext]) -> State:
    saved = await runtime.context.save_artifact("bundle.txt", b"bundle", "text/plain")
    return {"bundle_artifact_id": saved}


# Several of the 64 KiB messages that carry it, and every byte there is.
LARGE = bytes(range(256)) * 1000


async def save_large(state: State, runtime: Runtime[RunContext]) -> State:
    saved = await runtime.context.save_artifact("large.bin", LARGE, "application/octet-stream")
    return {"bundle_artifact_id": saved}


async def save_then_wait(state: State, runtime: Runtime[RunContext]) -> State:
    await runtime.context.save_artifact("draft.txt", b"draft", "text/plain")
    return await held(state)


async def save_two(state: State, runtime: Runtime[RunContext]) -> State:
    for name in ("one.txt", "two.txt"):
        await runtime.context.save_artifact(name, name.encode(), "text/plain")
    return {}


def name_no_artifact(state: State) -> State:
    return {"bundle_artifact_id": "00000000-0000-0000-0000-000000000000"}


def ask(state: State) -> State:
    return {"seen": [interrupt({"question": "Which colour?"})]}


async def describe_context(state: State, runtime: Runtime[RunContext]) -> State:
    context = runtime.context
    return {
        "seen": [
            str(context.run_id), context.tenant_id, str(context.campaign_id), str(context.attempt),
            context.idempotency_key,
        ]
    }  # fmt: skip


# A graph with all the shapes there are: conditional edge, loop, parallel branches, sub-graph, Send,
# sync and async nodes.
class Everything(TypedDict, total=False):
    rounds: int
    log: Annotated[list[str], operator.add]


def begin(state: Everything) -> Everything:
    return {"rounds": 0, "log": ["begin"]}


async def again(state: Everything) -> Everything:
    return {"rounds": state["rounds"] + 1, "log": [f"again{state['rounds']}"]}


def enough(state: Everything) -> str:
    return "again" if state["rounds"] < 3 else "split"


async def split(state: Everything) -> Everything:
    return {}


async def one(state: Everything) -> Everything:
    return {"log": ["one"]}


def two(state: Everything) -> Everything:
    return {"log": ["two"]}


def fan_out(state: Everything) -> list[Send]:
    return [Send("item", {"rounds": number}) for number in range(2)]


def item(state: Everything) -> Everything:
    return {"log": [f"item{state['rounds']}"]}


def never(state: Everything) -> Everything:
    raise AssertionError("no edge leads here")


async def jump(state: Everything) -> Command[str]:
    return Command(goto="end", update={"log": ["jump"]})


def end(state: Everything) -> Everything:
    return {"log": ["end"]}


_inner = StateGraph(Everything)
_inner.add_node("inner_one", one)
_inner.add_node("inner_two", two)
_inner.add_edge(START, "inner_one")
_inner.add_edge("inner_one", "inner_two")

EVERYTHING = StateGraph(Everything)
EVERYTHING.add_node("begin", begin)
EVERYTHING.add_node("again", again)
EVERYTHING.add_node("split", split)
EVERYTHING.add_node("one", one)
EVERYTHING.add_node("two", two)
EVERYTHING.add_node("item", item)
EVERYTHING.add_node("never", never)
EVERYTHING.add_node("inner", _inner.compile())
EVERYTHING.add_node(
    "jump", lambda state: Command(goto="end", update={"log": ["jump"]}), destinations=("end",)
)
EVERYTHING.add_node("end", lambda state: {"log": ["end"]})
EVERYTHING.add_edge(START, "begin")
EVERYTHING.add_edge("begin", "again")
EVERYTHING.add_conditional_edges("again", enough, ["again", "split"])
EVERYTHING.add_edge("split", "one")
EVERYTHING.add_edge("split", "two")
EVERYTHING.add_edge(["one", "two"], "inner")
EVERYTHING.add_conditional_edges("inner", fan_out, ["item"])
EVERYTHING.add_edge("item", "jump")

EVERYTHING_ORDER = (
    "begin again again again split one+two inner inner:inner_one inner:inner_two item+item jump end"
)


def refuse_to_choose(state: State) -> str:
    raise RuntimeError("No way leads on.")


BAD_EDGE = _graph((START, "first"), first=first, last=last)
BAD_EDGE.add_conditional_edges("first", refuse_to_choose, ["last"])

WORKFLOWS: dict[str, Any] = {
    "gated": GATED,
    "fork": FORK,
    "flaky": FLAKY,
    "patient": PATIENT,
    "cached": CACHED,
    "everything": EVERYTHING,
    "bad-edge": BAD_EDGE,
    "rejecting": _graph((START, "reject"), reject=reject),
    "bundling": _graph((START, "save_bundle"), save_bundle=save_bundle),
    "large-bundle": _graph((START, "save_large"), save_large=save_large),
    "last-held": _graph((START, "held"), held=held),
    "saves-then-fails": _graph((START, "save_then_wait"), save_then_wait=save_then_wait),
    "two-artifacts": _graph((START, "save_two"), save_two=save_two),
    "false-bundle": _graph((START, "name_no_artifact"), name_no_artifact=name_no_artifact),
    "asking": _graph((START, "ask"), ask=ask),
    "asking-twice": _graph((START, "ask_left"), (START, "ask_right"), ask_left=ask, ask_right=ask),
    "stopping": _graph((START, "first"), ("first", "last"), first=first, last=last).compile(
        interrupt_before=["last"]
    ),
    "context": _graph((START, "describe_context"), describe_context=describe_context),
}

# Served only by workers that a test starts itself.
RESTARTED = {"gated-restarted": GATED}
IN_A_BUCKET = {"bundling-in-a-bucket": WORKFLOWS["bundling"]}
COMING = {"comes-and-goes": _graph((START, "first"), first=first)}
