"""Which checkpoints go while a run goes on, told by their namespaces."""

from __future__ import annotations

from typing import Any

from runengine_server.worker.graph.superseded import Superseded

LARGE = 1 << 20


def put(them: Superseded, namespace: str, checkpoint_id: str, **metadata: Any) -> bool:
    checkpoint = {"id": checkpoint_id, "channel_versions": {"seen": "1"}}
    return them.put(namespace, checkpoint, {"source": "loop", **metadata}, LARGE)


def gone(them: Superseded) -> list[str]:
    return sorted(them.take(LARGE)[1])


def test_with_the_superstep_of_a_graph_goes_what_graphs_within_its_tasks_have_stored() -> None:
    them = Superseded()
    for namespace in ("inner:1", "inner:1|deep:2", "called:3", "called:3|1", "called:3|1|deep:4"):
        put(them, namespace, "a")
    put(them, "", "b")
    assert gone(them) == ["called:3", "called:3|1", "called:3|1|deep:4", "inner:1", "inner:1|deep:2"]


def test_a_graph_takes_nothing_of_one_that_its_node_calls_beside_it() -> None:
    them = Superseded()
    for namespace in ("called:3", "called:3|1", "called:3|1|deep:4"):
        put(them, namespace, "a")
    put(them, "called:3", "b")
    assert gone(them) == []
    put(them, "called:3|1", "b")
    assert gone(them) == ["called:3|1|deep:4"]


def test_a_sub_graph_that_keeps_its_state_from_call_to_call_stays() -> None:
    them = Superseded()
    for namespace in ("inner", "inner|deep:1"):
        put(them, namespace, "a")
    put(them, "", "b")
    assert gone(them) == []
    put(them, "inner", "b")
    assert gone(them) == ["inner|deep:1"]


def test_the_oldest_that_is_needed_is_the_last_one_unless_a_delta_channel_is_replayed() -> None:
    them = Superseded()
    assert put(them, "", "a")
    assert them.take(LARGE)[0] == {"": "a"}
    for checkpoint_id, steps in (("b", 1), ("c", 2)):
        assert not put(them, "", checkpoint_id, counters_since_delta_snapshot={"seen": (1, steps)})
        assert them.take(LARGE)[0] == {"": "a"}
    assert put(them, "", "d")
    assert them.take(LARGE)[0] == {"": "d"}


def test_a_delta_channel_whose_ancestors_nobody_has_seen_keeps_them() -> None:
    """They were stored by the worker before this one."""
    them = Superseded()
    put(them, "", "b", counters_since_delta_snapshot={"seen": (7, 7)})
    assert them.take(LARGE) == ({}, [])


def test_a_fork_supersedes_nothing() -> None:
    them = Superseded()
    put(them, "inner:1", "a")
    put(them, "", "a")
    assert not put(them, "", "b", source="fork")
    assert them.take(LARGE)[0] == {}
