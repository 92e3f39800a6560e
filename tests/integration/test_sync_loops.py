"""Graphs that are invoked in a sync node, which several threads tell at once that tasks have ended."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import task
from langgraph.pregel import _loop
from runengine_server.worker.graph import wide_supersteps

from tests.support.own_worker import SECONDS, State, chain


def test_a_task_that_is_called_while_another_writes_finds_what_it_has_returned_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wide_supersteps.install()
    is_new, is_writing, has_called = (threading.Event() for _ in range(3))
    executed, fails = [0], [True]
    real: Any = vars(_loop)["ensure_message_ids"]

    def held_up(specs: Any, writes: Any) -> None:
        if "new" in (value for _, value in writes):
            is_writing.set()
            assert has_called.wait(SECONDS)
        real(specs, writes)

    monkeypatch.setattr(_loop, "ensure_message_ids", held_up)

    @task
    def work() -> str:
        executed[0] += 1
        return "done"

    @task
    def new() -> str:
        assert is_new.wait(SECONDS)
        return "new"

    def node(state: State) -> State:
        first = work() if fails else new()
        is_new.set()
        assert fails or is_writing.wait(SECONDS)
        second = work()
        has_called.set()
        for each in (first, second):
            each.result()
        if fails:
            raise RuntimeError("Once.")
        return {}

    graph = chain(node=node).compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    with pytest.raises(RuntimeError):
        graph.invoke({}, config)
    fails.clear()
    graph.invoke(None, config)
    assert executed == [2]
