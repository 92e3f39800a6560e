"""LangGraph's own work for a superstep of many tasks, made proportional to their number."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from langgraph._internal._constants import NULL_TASK_ID
from langgraph.pregel._loop import PregelLoop, SyncPregelLoop

# LangGraph looks at every task of a superstep each time that some have ended, which takes it about a
# microsecond a task (langgraph 1.2.22, pregel/_runner.py: asyncio.wait over all futures). In a superstep of
# at least WIDE tasks those that end at about the same time end together, so that this takes at most a fifth
# of the time.
WIDE, SECONDS_PER_TASK = 200, 5e-6

put_writes_of_langgraph = PregelLoop.put_writes

# Holds the tasks whose writes a loop had when it was first asked; all later ones are in its
# _written_task_ids.
_LOADED = "_runengine_loaded"


class JointReturn:
    """Lets nodes that end at about the same time end together."""

    def __init__(self) -> None:
        self._due: asyncio.Event | None = None

    async def wait(self, tasks: int) -> None:
        """In a superstep of 12,000 tasks after 60 ms at most."""
        if self._due is None:
            self._due = asyncio.Event()
            asyncio.get_running_loop().call_later(tasks * SECONDS_PER_TASK, self._return)
        await self._due.wait()

    def _return(self) -> None:
        if self._due is not None:
            self._due.set()
            self._due = None


def _put_writes(
    loop: PregelLoop, task_id: str, writes: Sequence[tuple[str, Any]], *, cached: bool = False
) -> None:
    """As PregelLoop.put_writes. For each task that ends, langgraph 1.2.22 goes through the writes of all the
    others to take out earlier ones of the same task, which at 12,000 Sends is half of all the time. So it is
    not shown those of the others when the task wrote nothing before; except for a graph that is invoked in a
    sync node, where other threads look at them meanwhile.
    """
    if isinstance(loop, SyncPregelLoop):
        put_writes_of_langgraph(loop, task_id, writes, cached=cached)
        return
    others = loop.checkpoint_pending_writes
    loaded = getattr(loop, _LOADED, None)
    if loaded is None:
        loaded = {each[0] for each in others}
        setattr(loop, _LOADED, loaded)
    if task_id == NULL_TASK_ID or task_id in loop._written_task_ids or task_id in loaded:
        put_writes_of_langgraph(loop, task_id, writes, cached=cached)
        return
    loop.checkpoint_pending_writes = []
    try:
        put_writes_of_langgraph(loop, task_id, writes, cached=cached)
    finally:
        others.extend(loop.checkpoint_pending_writes)
        loop.checkpoint_pending_writes = others


def install() -> None:
    """Replaces PregelLoop.put_writes for every graph of this process."""
    PregelLoop.put_writes = _put_writes  # type: ignore[assignment, method-assign]
