"""LangGraph's own work for a superstep of many tasks, made proportional to their number.

For each task that ends, langgraph 1.2.22 goes through what all the others have written, to take out what the
same task has written before (pregel/_loop.py, PregelLoop.put_writes): at 12,000 Sends half of all the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langgraph._internal._constants import NULL_TASK_ID
from langgraph.pregel._loop import PregelLoop, SyncPregelLoop

_put_writes = PregelLoop.put_writes

# The tasks whose writes a loop had when it was first asked; all later ones are in its _written_task_ids.
_LOADED = "_runengine_loaded"


def _put_writes_of_one(
    loop: PregelLoop, task_id: str, writes: Sequence[tuple[str, Any]], *, cached: bool = False
) -> None:
    """As PregelLoop.put_writes, which is shown nothing of the others when the task wrote nothing before. Not
    so for a graph that is invoked in a sync node: there, other threads look at them meanwhile.
    """
    if isinstance(loop, SyncPregelLoop):
        _put_writes(loop, task_id, writes, cached=cached)
        return
    others = loop.checkpoint_pending_writes
    if _LOADED not in vars(loop):
        vars(loop)[_LOADED] = {each[0] for each in others}
    if task_id == NULL_TASK_ID or task_id in loop._written_task_ids or task_id in vars(loop)[_LOADED]:
        _put_writes(loop, task_id, writes, cached=cached)
        return
    loop.checkpoint_pending_writes = []
    try:
        _put_writes(loop, task_id, writes, cached=cached)
    finally:
        others.extend(loop.checkpoint_pending_writes)
        loop.checkpoint_pending_writes = others


def install() -> None:
    """Has every graph of this process do so."""
    PregelLoop.put_writes = _put_writes_of_one  # type: ignore[assignment, method-assign]
