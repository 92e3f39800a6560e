"""The idempotency key of a node's effects on the outside world."""

from __future__ import annotations

from uuid import UUID

from langgraph._internal._constants import PUSH
from langgraph.config import get_config


def idempotency_key(run_id: UUID, task_id: UUID) -> str:
    """That of the node which asks, in an execution of that task of the run: the node of the task itself, or
    one of a sub-graph in it.
    """
    return f"{run_id}:{task_id}{place_within(str(task_id))}"


def place_within(task_id: str) -> str:
    """Which node of a sub-graph in the execution of that task asks; empty for the node of the task itself.
    By its place in the sub-graph, and not by the id of its task, which is another when the sub-graph
    starts anew.
    """
    try:
        config = get_config()
    except RuntimeError:  # asked on a thread of the node's own
        return ""
    _, found, inner = config["configurable"].get("checkpoint_ns", "").partition(f":{task_id}|")
    if not found:
        return ""
    metadata = config["metadata"]
    kind, place, *_ = metadata["langgraph_path"]
    sent = f".{place}" if kind == PUSH else ""
    return f":{inner.rpartition(':')[0]}.{metadata['langgraph_step']}{sent}"
