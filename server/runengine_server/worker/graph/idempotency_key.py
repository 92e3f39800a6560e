"""The idempotency key with which a node may make its effects on the outside world happen once."""

from __future__ import annotations

from uuid import UUID

from langgraph._internal._constants import PUSH
from langgraph.config import get_config


def idempotency_key(run_id: UUID, task_id: UUID) -> str:
    """The key of the node that calls this while that task of the run is executed: the node of the task
    itself, or one of a sub-graph in it. The same in each execution of the task.
    """
    return f"{run_id}:{task_id}{place_within(str(task_id))}"


def place_within(task_id: str) -> str:
    """Tells the node of a sub-graph that calls this while that task is executed; empty for the node of the
    task itself. By its place in the sub-graph, because the id of its own task is another when the sub-graph
    starts anew.
    """
    try:
        config = get_config()
    except RuntimeError:  # called on a thread of the node's own
        return ""
    _, found, inner = config["configurable"].get("checkpoint_ns", "").partition(f":{task_id}|")
    if not found:
        return ""
    metadata = config["metadata"]
    kind, place, *_ = metadata["langgraph_path"]
    sent = f".{place}" if kind == PUSH else ""
    return f":{inner.rpartition(':')[0]}.{metadata['langgraph_step']}{sent}"
