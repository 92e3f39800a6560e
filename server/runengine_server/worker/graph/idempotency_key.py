"""The idempotency key with which a node may make its effects on the outside world happen once."""

from __future__ import annotations

from uuid import UUID

from langgraph._internal._constants import PUSH
from langgraph.config import get_config


def idempotency_key(run_id: UUID, step_id: UUID, task_id: str) -> str:
    """The key of what calls this while that step of the run is executed, which LangGraph knows as that task:
    its node, or what is executed within it and is no step. The same in each execution of the step.
    """
    return f"{run_id}:{step_id}{place_within(task_id)}"


def place_within(task_id: str) -> str:
    """Tells the `@task`, or the node of a graph that is called in the event loop's own thread, that calls
    this while that task is executed; empty for the node of the task itself. By its place, because the id of
    its own task is another when the graph starts anew.
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
