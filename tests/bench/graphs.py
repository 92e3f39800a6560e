"""The workflows that are measured. They need LangGraph alone, so that peers run the same."""

from __future__ import annotations

import operator
import socket
from time import monotonic_ns
from typing import Annotated, TypedDict

from langgraph.graph import START, StateGraph
from langgraph.types import Send

from tests.support.chains import chain_of

STEPS = ("one", "two", "three", "four")


class State(TypedDict, total=False):
    product: str
    done: int
    announce: str


async def no_op(state: State) -> State:
    return {"done": state.get("done", 0) + 1}


async def announce(state: State) -> State:
    """Sends the time to the socket that the payload names."""
    at = monotonic_ns()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as announcing:
        announcing.sendto(str(at).encode(), state["announce"])
    return {}


class Sent(TypedDict, total=False):
    sends: float
    number: int
    seen: Annotated[list[int], operator.add]


async def sent(state: Sent) -> Sent:
    return {"seen": [state["number"]]}


def to_many(state: Sent) -> list[Send]:
    return [Send("sent", {"number": number}) for number in range(int(state["sends"]))]


MANY_SENDS = StateGraph(Sent).add_node("sent", sent).add_conditional_edges(START, to_many, ["sent"])
FOUR_STEPS = chain_of(State, **dict.fromkeys(STEPS, no_op))
WORKFLOWS = {
    "four-steps": FOUR_STEPS,
    "many-sends": MANY_SENDS,
    "announcing": chain_of(State, announce=announce),
}
